"""How often a checkpoint is saved within an epoch."""

from __future__ import annotations

import re
import time

import lightning as L

from animals_pl.errors import UsageError

SECONDS = {"s": 1, "min": 60, "h": 3600}
"""Units of time."""

STEPS = "steps"


class SaveInterval:
    """Time or training steps between two checkpoints.

    Args:
        text: A number with a unit: ``90s``, ``10min``, ``2h`` or ``500steps``.

    Raises:
        UsageError: The text is something else, or the number is 0.

    Example:
        >>> interval = SaveInterval("10min")
        >>> interval.amount, interval.unit
        (10, 'min')
    """

    def __init__(self, text: str) -> None:
        found = re.fullmatch(rf"(\d{{1,9}}) ?({'|'.join((*SECONDS, STEPS))})", text.strip())
        if not found or int(found[1]) == 0:
            raise UsageError(f"save_every={text!r} is invalid. Pass a time such as 10min, 90s or 2h, or 500steps.")
        self.amount, self.unit = int(found[1]), found[2]
        self._began = (0.0, 0)

    def restart(self, trainer: L.Trainer) -> None:
        """Measure from now on."""
        self._began = (time.monotonic(), trainer.global_step)

    def is_over(self, trainer: L.Trainer) -> bool:
        """Whether the time or the steps have passed; the same on all processes."""
        then, step = self._began
        if self.unit == STEPS:
            return trainer.global_step - step >= self.amount
        passed = time.monotonic() - then >= self.amount * SECONDS[self.unit]
        return bool(trainer.strategy.broadcast(passed))
