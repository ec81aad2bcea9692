"""Search for a learning rate or a batch size before the training, by Lightning's finders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder
from rich.console import Console

from animals_pl.errors import UsageError

Tune = Literal["lr", "batch_size"]
Finder = LearningRateFinder | BatchSizeFinder

_MOST_STEPS, _FEWEST_STEPS = 100, 20
"""Of a search for the learning rate."""

_BEFORE, _AFTER = 10, 1
"""Its steps that are left out at either end, as Lightning does: the first losses are not smooth yet."""

_STEPS_PER_EPOCH = 10
"""Steps that an epoch is to keep, however large the batches are that would fit into memory."""


class Tuner(L.Callback):
    """Runs a finder after the features are cached, and has the run go on with what it found.

    Lightning puts its finders in front of all callbacks, where the datasets are images still; and after its own
    search for the learning rate all parameter groups have the same one, and schedules the one before.

    Args:
        what: ``lr`` or ``batch_size``, or a finder of Lightning's with settings of its own.
        console: Where the finding is printed.
        keep: Called with ``model.lr`` or ``data.batch_size`` and what was found, to be noted in the configuration.
    """

    def __init__(self, what: Tune | Finder, console: Console, keep: Callable[[str, float], None]) -> None:
        self.what = what
        self.console = console
        self.keep = keep

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Search.

        Raises:
            UsageError: The run is too short for a search, or the device does not tell when memory is used up.
        """
        if self.what == "lr" or isinstance(self.what, LearningRateFinder):
            rates = self.what if isinstance(self.what, LearningRateFinder) else _rate_finder(trainer)
            self._search(rates, trainer, pl_module, "learning rate", pl_module.hparams, "lr")
            # Every group anew by its own share of the rate, and a schedule that starts from it.
            trainer.strategy.setup_optimizers(trainer)
        else:
            sizes = self.what if isinstance(self.what, BatchSizeFinder) else _size_finder(trainer)
            sizes.setup(trainer, pl_module, "fit")
            self._search(sizes, trainer, pl_module, "batch size", trainer.datamodule.hparams, "batch_size")

    def _search(self, finder: Finder, trainer: Any, module: Any, title: str, hparams: Any, key: str) -> None:
        before = hparams[key]
        finder.on_fit_start(trainer, module)
        loop = trainer.fit_loop
        loop.restarting = loop.epoch_loop.restarting = False  # the search has restored a checkpoint; nothing resumes
        found = hparams[key]
        if isinstance(finder, LearningRateFinder):
            found = hparams[key] = _suggestion(finder)
        if trainer.is_global_zero:
            self.console.print(f"{title} found: {found:g} (was {before:g})", highlight=False)
            self.keep("model.lr" if key == "lr" else "data.batch_size", found)


def _suggestion(finder: LearningRateFinder) -> float:
    """Return the rate at which the loss falls most steeply over the logarithm of the rate (Smith 2017).

    Lightning's own suggestion takes the slope over the rate itself: with rates that grow exponentially, steps at the
    low end count a million times as much, and noise there decides.
    """
    results = {} if finder.optimal_lr is None else finder.optimal_lr.results
    rates, losses = (np.array(results.get(key, []), dtype=float)[_BEFORE:-_AFTER] for key in ("lr", "loss"))
    finite = np.isfinite(losses)
    if finite.sum() < 2:  # a slope needs two points
        raise UsageError("the loss diverged before a learning rate was found; set model.lr and leave out the search")
    slope = np.gradient(losses[finite], np.log(rates[finite]))
    # As printed and as noted in the configuration; more digits would be noise.
    return float(f"{rates[finite][slope.argmin()]:.2g}")


def _rate_finder(trainer: Any) -> LearningRateFinder:
    steps = int(min(_MOST_STEPS, trainer.estimated_stepping_batches))
    if steps < _FEWEST_STEPS:
        raise UsageError(
            f"tune=lr needs a run of {_FEWEST_STEPS} steps, this one has {steps}; raise trainer.max_epochs or lower "
            "data.batch_size, or leave it out"
        )
    return LearningRateFinder(min_lr=1e-6, max_lr=1, num_training_steps=steps)


def _size_finder(trainer: Any) -> BatchSizeFinder:
    if trainer.strategy.root_device.type == "cpu":
        raise UsageError(
            "tune=batch_size needs a GPU, which tells when its memory is used up (on the CPU the system ends the "
            "program instead); leave it out and set data.batch_size"
        )
    most = max(2, len(trainer.datamodule.catalogs["train"].paths) // _STEPS_PER_EPOCH)
    return BatchSizeFinder(mode="binsearch", init_val=min(8, most), max_trials=12, max_val=most)
