"""Identify animals in images: train, evaluate and ship image classifiers."""

__version__ = "0.1.0"
