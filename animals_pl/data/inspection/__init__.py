"""What is in a folder: image facts, the manifest, duplicates."""
