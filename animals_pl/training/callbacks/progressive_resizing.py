"""Train at several image sizes, one after another."""

from __future__ import annotations

import bisect
from collections.abc import Sequence
from itertools import accumulate

import lightning as L

from animals_pl.errors import UsageError


class ProgressiveResizing(L.Callback):
    """Changes the size of the training images in stages. Validation stays at ``data.size``.

    The size is part of each sample's key, so it is correct with any number of workers, persistent or not, and after a
    resume. Source: Tan & Le 2021 (EfficientNetV2, section 4).

    Args:
        sizes: Side of the images in each stage, in pixels, increasing or decreasing.
        fractions: Fraction of the epochs for each stage, summing to 1. Default: equal fractions.

    Raises:
        UsageError: The lists do not match, or the net takes images of one size only.

    Example:
        >>> callback = ProgressiveResizing([128, 160, 224], fractions=[0.5, 0.25, 0.25])
        >>> [size_at(epoch, 8, callback.sizes, callback.fractions) for epoch in range(8)]
        [128, 128, 128, 128, 160, 160, 224, 224]
    """

    def __init__(self, sizes: list[int], fractions: list[float] | None = None) -> None:
        self.sizes = sizes
        self.fractions = fractions or [1 / max(1, len(sizes))] * len(sizes)
        if not sizes or min(sizes) < 1 or len(self.fractions) != len(sizes):
            raise UsageError(
                f"ProgressiveResizing: sizes={sizes} and fractions={fractions} do not match. "
                "Give each stage a size of at least 1 pixel and one fraction."
            )
        if min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UsageError(
                f"ProgressiveResizing: fractions={fractions} must be above 0 and sum to 1, not {sum(self.fractions):g}."
            )

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Pass the schedule to the datamodule, as a function because the number of epochs is not known yet."""
        if stage == "fit":
            data = trainer.datamodule  # type: ignore[attr-defined]
            data.size_schedule = lambda epoch: size_at(epoch, trainer.max_epochs or 1, self.sizes, self.fractions)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the number of epochs is fixed and the net takes several sizes."""
        if trainer.max_epochs == -1:
            raise UsageError(
                "ProgressiveResizing needs a fixed number of epochs. Set trainer.max_epochs or trainer.max_steps."
            )
        if pl_module.net.fixed_size:  # type: ignore[union-attr]
            raise UsageError(
                f"ProgressiveResizing: model.net={pl_module.hparams['net']!r} takes images of one size only. "
                "Remove the callback, or use a net with global pooling, such as mobilenetv3_small_100."
            )


def size_at(epoch: int, epochs: int, sizes: Sequence[int], fractions: Sequence[float]) -> int:
    """Image side in pixels in an epoch; the last size stays after the last epoch.

    Stage k starts at the epoch nearest to ``epochs * (fractions[0] + … + fractions[k-1])``.
    """
    starts = [round(epochs * end) for end in list(accumulate(fractions))[:-1]]
    return sizes[bisect.bisect_right(starts, epoch)]
