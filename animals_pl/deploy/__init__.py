"""Checkpoint → file that runs without torch."""
