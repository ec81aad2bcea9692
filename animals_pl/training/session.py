"""Run ``Trainer.fit`` with signals and faults handled."""

from __future__ import annotations

from pathlib import Path

import lightning as L

from animals_pl.training.callbacks.stop_on_signal import StopOnSignal
from animals_pl.training.faults import explained_faults
from animals_pl.training.trainer import quiet


def train(
    trainer: L.Trainer, model: L.LightningModule, data: L.LightningDataModule, ckpt_path: str | Path | None = None
) -> None:
    """Train with a trainer that has the callback :class:`StopOnSignal`.

    Raises:
        UsageError: An argument, file or folder is invalid.
        TrainingError: Memory ran out, the loss is not finite, an image has changed, or a loader process has ended.
        KeyboardInterrupt: SIGINT was received.
        Terminated: SIGTERM was received.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    (stop,) = (callback for callback in callbacks if isinstance(callback, StopOnSignal))
    with stop.handling_signals(trainer), explained_faults(data, trainer), quiet():
        trainer.fit(model, datamodule=data, ckpt_path=ckpt_path, weights_only=True)
