"""A folder of images → what is in it and what is wrong with it, as a report."""
