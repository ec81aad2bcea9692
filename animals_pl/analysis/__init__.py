"""A folder of photographs → what is in it and what is wrong with it, as a report."""
