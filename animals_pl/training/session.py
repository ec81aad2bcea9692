"""Run ``Trainer.fit``: create the callbacks of the options, handle signals and faults, remove a failed run's folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import lightning as L

from animals_pl.errors import UsageError
from animals_pl.signals import Terminated
from animals_pl.training.callbacks.compilation import Compilation
from animals_pl.training.callbacks.feature_cache import FeatureCache
from animals_pl.training.callbacks.finite_loss import NOT_FINITE
from animals_pl.training.callbacks.stop_on_signal import StopOnSignal
from animals_pl.training.faults import explained_faults
from animals_pl.training.run_options import RunOptions
from animals_pl.training.trainer import quiet


def option_callbacks(options: RunOptions, data: L.LightningDataModule) -> list[L.Callback]:
    """Callbacks of the options ``compile`` and ``cache_features``."""
    callbacks: list[L.Callback] = [Compilation()] if options.compile else []
    if options.cache_features and hasattr(data, "datasets"):
        callbacks.append(FeatureCache(options.extract_precision))
    return callbacks


def train(
    trainer: L.Trainer, model: L.LightningModule, data: L.LightningDataModule, ckpt_path: str | Path | None = None
) -> None:
    """Train with a trainer that has the callback :class:`StopOnSignal`.

    Raises:
        UsageError: An argument, file or folder is invalid.
        TrainingError: Memory ran out, the loss is not finite, an optimizer step overflowed, an image has changed, or a
            loader process has ended.
        KeyboardInterrupt: SIGINT was received.
        Terminated: SIGTERM was received.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (stop,) = (callback for callback in callbacks if isinstance(callback, StopOnSignal))
    with stop.handling_signals(trainer), explained_faults(data, trainer), quiet():
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)


@contextmanager
def without_empty_run(folder: Path | None, ckpt_path: str | Path | None) -> Iterator[None]:
    """Remove the folder of a new run that fails or is stopped before its first epoch is complete."""
    try:
        yield
    except (UsageError, OSError, KeyboardInterrupt, Terminated):
        if folder and ckpt_path is None and folder.exists() and _is_empty_run(folder):
            shutil.rmtree(folder)
            with suppress(OSError):  # not empty: it has other runs
                folder.parent.rmdir()
        raise


def _is_empty_run(folder: Path) -> bool:
    kept = ("metrics.csv", "*.ckpt", f"{NOT_FINITE}*.csv")
    return not any(any(folder.glob(name)) for name in kept)
