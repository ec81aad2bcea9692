"""How often a checkpoint is saved within an epoch."""

from __future__ import annotations

import re
import time

import lightning as L

from animals_pl.durations import duration


class SaveInterval:
    """Time or training steps between two checkpoints.

    Args:
        text: A duration such as ``10min``, at least 1 s, or a number of steps such as ``500steps``.

    Raises:
        UsageError: The text is neither.

    Example:
        >>> SaveInterval("10min").seconds, SaveInterval("500steps").steps
        (600.0, 500)
    """

    def __init__(self, text: str) -> None:
        found = re.fullmatch(r"([1-9]\d{0,8}) *steps", text.strip())
        self.steps = int(found[1]) if found else None
        self.seconds = None if found else duration("save_every", text, least=1)
        self._began = (0.0, 0)

    def restart(self, trainer: L.Trainer) -> None:
        """Measure from now on."""
        self._began = (time.monotonic(), trainer.global_step)

    def is_over(self, trainer: L.Trainer) -> bool:
        """Whether the time or the steps have passed; the same on all processes."""
        then, step = self._began
        if self.seconds is None:
            return trainer.global_step - step >= (self.steps or 0)
        return bool(trainer.strategy.broadcast(time.monotonic() - then >= self.seconds))
