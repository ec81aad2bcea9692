"""Where images come from: prepare, archives, the practice set."""
