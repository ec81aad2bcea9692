"""Train again on training and validation images together, for the number of epochs that validation has chosen."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint, DeviceStatsMonitor, EarlyStopping, LearningRateMonitor, Timer

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError, counted
from animals_pl.files import printable
from animals_pl.training.calibration import calibration_state
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.callbacks.finite_loss import FiniteLoss
from animals_pl.training.callbacks.initial_weights import InitialWeights
from animals_pl.training.callbacks.stop_on_signal import StopOnSignal
from animals_pl.training.callbacks.tuning import Finder
from animals_pl.training.checkpoint import (
    BEST_CHECKPOINT,
    REFIT_CHECKPOINT,
    load_checkpoint,
    without_training_state,
)
from animals_pl.training.checkpoint_io import AtomicCheckpointIO
from animals_pl.training.run_options import RunOptions
from animals_pl.training.session import option_callbacks, train
from animals_pl.training.trained import load_classifier
from animals_pl.training.trainer import make_trainer

FIRST_FIT_ONLY = (Checkpoint, EarlyStopping, Timer, LearningRateMonitor, DeviceStatsMonitor, Finder)
"""Callbacks that need validation or a logger, limit the time, or have had their effect in the first fit."""


@dataclass(eq=False)
class Refit:
    """The second fit of a run. Created before the first one, whose callbacks change while it trains.

    Args:
        data: The run's datamodule.
        options: The run's options.
        callbacks: The user's callbacks.
        trainer_kwargs: Arguments of ``lightning.Trainer``.

    Raises:
        UsageError: The run has no validation or no checkpoint to choose the number of epochs by.
    """

    data: L.LightningDataModule
    options: RunOptions
    callbacks: Sequence[L.Callback]
    trainer_kwargs: dict[str, Any]

    def __post_init__(self) -> None:
        """Check the arguments, and copy the callbacks."""
        _check(self.data, self.trainer_kwargs)
        self.callbacks = copy.deepcopy([each for each in self.callbacks if not isinstance(each, FIRST_FIT_ONLY)])

    def fit(self, first: L.Trainer, folder: Path) -> None:
        """Train, and save refit.ckpt in the run's folder.

        Args:
            first: The trainer of the first fit.
            folder: The run's folder, with its best.ckpt.

        Raises:
            UsageError: No epoch was validated.
            MachineError: refit.ckpt cannot be written.
        """
        if not (folder / BEST_CHECKPOINT).is_file():
            raise UsageError(
                "refit=true: no epoch was validated, so there is no best.ckpt. Lower trainer.check_val_every_n_epoch."
            )
        best = load_checkpoint(folder / BEST_CHECKPOINT)
        epochs = best["epoch"] + 1
        assert isinstance(self.data, AnimalsDataModule)
        data = self.data.with_validation_images_in_training()
        model = load_classifier(folder / BEST_CHECKPOINT)
        model.net.load_state_dict(best["callbacks"][InitialWeights.__qualname__], strict=False)
        if first.is_global_zero:
            images = counted(len(data.catalogs["train"].paths), "training and validation image")
            print(f"\nrefit on {images} for {counted(epochs, 'epoch')}")
        trainer = self._trainer(first, epochs, data, folder)
        train(trainer, model, data)
        calibration = {**best["calibration"], **_class_counts(model)}
        refit = {
            "state_dict": {name: tensor.cpu() for name, tensor in model.state_dict().items()},
            "calibration": calibration,
            "global_step": trainer.global_step,
            "refit": {"epochs": epochs, "calibrated_by": BEST_CHECKPOINT},
        }
        if trainer.is_global_zero:
            file = folder / REFIT_CHECKPOINT
            AtomicCheckpointIO().save_checkpoint(without_training_state(best) | refit, file)
            print(
                f"refit checkpoint: {printable(file)} (the metrics above and its calibration are those of "
                f"{BEST_CHECKPOINT}: no validation images are left)"
            )

    def _trainer(self, first: L.Trainer, epochs: int, data: AnimalsDataModule, folder: Path) -> L.Trainer:
        """Trainer with the schedule of the first fit, stopped after ``epochs``."""
        mine: list[L.Callback] = [BatchSeed(data.hparams["seed"]), FiniteLoss(data, folder), _StopAfter(epochs)]
        mine += option_callbacks(self.options, data)
        kwargs = {
            **self.trainer_kwargs,
            "default_root_dir": str(folder),
            "max_epochs": first.max_epochs,
            **dict.fromkeys(("min_epochs", "min_steps", "max_time", "val_check_interval"), None),
            "max_steps": -1,
            "limit_val_batches": 0,
            "logger": False,
            "enable_checkpointing": False,
        }
        return make_trainer([*self.callbacks, *mine, StopOnSignal()], **kwargs)


class _StopAfter(L.Callback):
    """Ends training after a number of epochs below ``max_epochs``, which the schedule depends on."""

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop after the last epoch."""
        trainer.should_stop = trainer.current_epoch + 1 >= self.epochs


def _check(data: L.LightningDataModule, kwargs: dict[str, Any]) -> None:
    """Raise UsageError if the number of epochs cannot be chosen by validation."""
    if not isinstance(data, AnimalsDataModule):
        raise UsageError(f"refit=true needs an AnimalsDataModule, not {type(data).__name__}. Remove it.")
    conflicts = {
        "enable_checkpointing": kwargs.get("enable_checkpointing") is False,
        "fast_dev_run": bool(kwargs.get("fast_dev_run")),
        "limit_val_batches": kwargs.get("limit_val_batches") == 0,
        "overfit_batches": bool(kwargs.get("overfit_batches")),
    }
    for key, conflict in conflicts.items():
        if conflict:
            raise UsageError(
                f"refit=true needs validation and checkpoints, but trainer.{key}={kwargs[key]}. Remove one of them."
            )


def _class_counts(model: Any) -> dict[str, Any]:
    """Class counts and prior of a trained model; temperature and threshold need validation images."""
    state = calibration_state(model.calibration)
    return {key: state[key] for key in ("model_prior", "train_counts")}
