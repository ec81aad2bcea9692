"""Arrays → numbers and figures."""
