"""Search for a learning rate or a batch size before training, with Lightning's finders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder

from animals_pl.errors import UsageError

Tune = Literal["lr", "batch_size"]
Finder = LearningRateFinder | BatchSizeFinder

_MAX_STEPS, _MIN_STEPS = 100, 20
"""Maximum and minimum number of steps of a learning rate search."""

_SKIP_BEGIN, _SKIP_END = 10, 1
"""Steps skipped at either end, as in Lightning: the first losses are not smooth yet."""

_STEPS_PER_EPOCH = 10
"""The batch size is capped so that an epoch has at least this many steps."""


class Tuner(L.Callback):
    """Runs a finder once features are cached, and continues the run with the result.

    Lightning runs its finders before all other callbacks, when datasets still hold images. After its learning rate
    search all parameter groups have the same rate, and schedules keep the old one; both are rebuilt here.

    Args:
        what: ``lr`` or ``batch_size``, or one of Lightning's finders.
        record: Called with ``model.lr`` or ``data.batch_size`` and the value, to store it in the configuration.
    """

    def __init__(self, what: Tune | Finder, record: Callable[[str, float], None]) -> None:
        self.what = what
        self.record = record

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Run the search.

        Raises:
            UsageError: The run is too short for a search, or the device does not report when memory is exhausted.
        """
        data = trainer.datamodule  # type: ignore[attr-defined]
        finder = self._finder(trainer)
        rates = isinstance(finder, LearningRateFinder)
        hparams, section, key = (pl_module.hparams, "model", "lr") if rates else (data.hparams, "data", "batch_size")
        before = hparams[key]
        if not rates:
            finder.setup(trainer, pl_module, "fit")
        finder.on_fit_start(trainer, pl_module)
        loop = trainer.fit_loop
        # The finder restores a checkpoint, which Lightning takes for a resumed run.
        loop.restarting = loop.epoch_loop.restarting = False
        if isinstance(finder, LearningRateFinder):
            hparams[key] = _suggestion(finder)
        if trainer.is_global_zero:
            title = "learning rate" if rates else "batch size"
            print(f"{title} found: {hparams[key]:g} (was {before:g})")
            self.record(f"{section}.{key}", hparams[key])
        if rates:
            trainer.strategy.setup_optimizers(trainer)

    def _finder(self, trainer: L.Trainer) -> Finder:
        if isinstance(self.what, Finder):
            return self.what
        return _rate_finder(trainer) if self.what == "lr" else _size_finder(trainer)


def _suggestion(finder: LearningRateFinder) -> float:
    """Learning rate of the steepest descent of the loss over log(lr) (Smith 2017).

    Lightning uses the slope over lr, which is dominated by noise at small rates.
    """
    results = {} if finder.optimal_lr is None else finder.optimal_lr.results
    rates, losses = (np.array(results.get(key, []), dtype=float)[_SKIP_BEGIN:-_SKIP_END] for key in ("lr", "loss"))
    finite = np.isfinite(losses)
    if finite.sum() < 2:  # a slope needs two points
        raise UsageError(
            "tune=lr (or LearningRateFinder) found no learning rate: the loss diverged. "
            "Set model.lr and remove the search."
        )
    slope = np.gradient(losses[finite], np.log(rates[finite]))
    return float(f"{rates[finite][slope.argmin()]:.2g}")  # further digits are noise


def _rate_finder(trainer: L.Trainer) -> LearningRateFinder:
    steps = int(min(_MAX_STEPS, trainer.estimated_stepping_batches))
    if steps < _MIN_STEPS:
        raise UsageError(
            f"tune=lr needs a run of at least {_MIN_STEPS} steps, but this one has {steps}. "
            "Raise trainer.max_epochs, lower data.batch_size, or remove tune."
        )
    return LearningRateFinder(min_lr=1e-6, max_lr=1, num_training_steps=steps)


def _size_finder(trainer: L.Trainer) -> BatchSizeFinder:
    if trainer.strategy.root_device.type == "cpu":
        raise UsageError(
            "tune=batch_size needs a GPU, which reports when its memory is exhausted (on a CPU, the system kills the "
            "process instead). Remove tune and set data.batch_size."
        )
    data = trainer.datamodule  # type: ignore[attr-defined]
    most = max(2, len(data.catalogs["train"].paths) // _STEPS_PER_EPOCH)
    return BatchSizeFinder(mode="binsearch", init_val=min(8, most), max_trials=12, max_val=most)
