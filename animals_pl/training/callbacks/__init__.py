"""Callbacks. Those listed here can be named without their module in YAML and on the command line."""

from animals_pl.training.callbacks.gradual_unfreezing import GradualUnfreezing
from animals_pl.training.callbacks.progressive_resizing import ProgressiveResizing

__all__ = ["GradualUnfreezing", "ProgressiveResizing"]
