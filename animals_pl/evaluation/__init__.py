"""Evaluation: metrics, figures and label errors from arrays. Pure functions."""
