"""Identify animals in photographs: train, judge and ship image classifiers."""

__version__ = "0.1.0"
