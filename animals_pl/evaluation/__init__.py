"""Evaluation: metrics and figures from arrays. Pure functions."""
