"""Train on small images first and on larger ones later, or the other way round."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import lightning as L

from animals_pl.errors import UsageError


class ProgressiveResizing(L.Callback):
    """Changes the size of the training images in stages; validation stays at ``data.size``.

    The size belongs to every sample's key, so it is right with any number of workers, persistent or
    not, and after a resume. Source: Howard, fast.ai; Tan & Le 2021 (EfficientNetV2, section 4).

    Args:
        sizes: Side in pixels of each stage, rising or falling.
        fractions: Part of the epochs for each stage; they add up to 1. ``None``: equal parts.

    Raises:
        UsageError: The lists do not fit each other, or the net is tied to one size.
    """

    def __init__(self, sizes: list[int], fractions: list[float] | None = None) -> None:
        self.sizes = sizes
        self.fractions = fractions or [1 / max(1, len(sizes))] * len(sizes)
        if not sizes or min(sizes) < 1 or len(self.fractions) != len(sizes):
            raise UsageError(
                f"ProgressiveResizing: sizes={sizes} and fractions={fractions} do not fit; "
                "give each stage a size of at least 1 pixel and one fraction"
            )
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(
                f"ProgressiveResizing: fractions={fractions} must be above 0 and add up to 1, "
                f"not {sum(self.fractions):g}"
            )

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Hand the schedule over to the datamodule, which owns it."""
        if stage != "fit":
            return
        pl_module.configure_model()
        if pl_module.net.fixed_size:
            raise UsageError(
                f"ProgressiveResizing: model.net={pl_module.hparams['net']!r} takes images of one size only; "
                "leave the callback out or choose a net that pools, such as mobilenetv3_small_100"
            )
        epochs = trainer.max_epochs
        trainer.datamodule.size_schedule = lambda epoch: size_at(epoch, epochs, self.sizes, self.fractions)


def size_at(epoch: int, epochs: int, sizes: Sequence[int], fractions: Sequence[float]) -> int:
    """Return the image side in pixels of an epoch; after the last epoch the last size stays.

    Stage k begins at the epoch nearest to ``epochs · (fractions[0] + … + fractions[k-1])``.
    """
    starts = [round(epochs * end) for end in list(accumulate(fractions))[:-1]]
    return sizes[bisect.bisect_right(starts, epoch)]
