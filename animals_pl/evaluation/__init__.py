"""Evaluation: metrics and figures from arrays. Pure functions, except for reading robustness.json."""
