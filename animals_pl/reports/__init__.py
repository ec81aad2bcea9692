"""Reports: HTML pages, tables and figures."""
