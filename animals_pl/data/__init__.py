"""Photographs → batches."""
