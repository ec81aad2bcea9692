"""Deployment: models that run without torch."""
