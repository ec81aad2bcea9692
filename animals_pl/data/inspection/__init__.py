"""Inspect folders: facts about each image, the manifest, duplicates."""
