"""Sources of images: prepare, archives, the practice set."""
