"""Images, confusion matrices and hyperparameters for TensorBoard."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from animals_pl.data.catalog import display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.evaluation.figures import confusion_matrix
from animals_pl.files import printable
from animals_pl.training.board import board_of
from animals_pl.training.callbacks.epoch_table import best_row, rows_of
from animals_pl.training.classifier import AnimalClassifier

THUMBNAIL = 128
"""Side of the images in the grid, in pixels. Keeps event files small."""

MAX_SHARE = 0.02
"""Maximum share of the training time spent on figures. One figure takes as long as two epochs on cached features."""


class TensorBoardImages(L.Callback):
    """Logs augmented training images, confusion matrices, and hyperparameters with the best metrics.

    Args:
        data: The run's datamodule. Images are shown only for an AnimalsDataModule.
        num_images: Images in the grid.

    Epochs with figures are chosen such that drawing takes at most :data:`MAX_SHARE` of the time. The grid of the first
    epoch and the matrix of the last one are always logged.
    """

    def __init__(self, data: L.LightningDataModule, num_images: int = 16) -> None:
        self.data = data
        self.num_images = num_images
        self._epoch = -1  # latest epoch with a training batch
        self._due = False
        self._next = 0.0  # time of the next figures

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Hide what an earlier session logged after its checkpoint."""
        if board := board_of(trainer):
            board.start(_first_outdated_step(trainer))

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """At the first batch of an epoch, log the epoch's first images, augmented as the net sees them."""
        board, epoch = board_of(trainer), trainer.current_epoch
        if epoch == self._epoch:
            return
        self._epoch = epoch
        began = time.monotonic()
        self._due = trainer.strategy.broadcast(began >= self._next)  # the matrix gathers from all processes
        if board is None:
            return
        if not self._due or not isinstance(self.data, AnimalsDataModule):
            return
        first_batch = next(iter(self.data.train_sampler(lambda: (epoch, 0))))
        dataset = self.data.dataset("train")
        images = torch.stack([dataset[key][0] for key in first_batch[: self.num_images]])
        grid = make_grid(resize(images, min(images.shape[-1], THUMBNAIL)), nrow=8)
        board.experiment.add_image("training images", grid, epoch + 1)
        self._wait(began)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the confusion matrix of the validation split."""
        epoch = trainer.current_epoch
        due = (self._due and epoch > 0) or epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or trainer.state.fn != "fit" or not due:
            return
        began = time.monotonic()
        if not isinstance(pl_module, AnimalClassifier) or pl_module.class_names is None:
            return
        matrix = pl_module.val_metrics.matrix()  # on every process: gathers from all
        board = board_of(trainer)
        if board is not None:
            names = [display_name(name) for name in pl_module.class_names]
            board.experiment.add_figure("confusion matrix/val", confusion_matrix(matrix, names), epoch + 1)
        self._wait(began)

    def _wait(self, began: float) -> None:
        """Set the earliest time of the next figures, from the time that the current ones took since ``began``."""
        now = time.monotonic()
        self._next = max(self._next, now) + (now - began) / MAX_SHARE

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log hyperparameters and the best epoch's metrics to the HPARAMS tab."""
        best, board = best_row(trainer), board_of(trainer)
        if not best or board is None:
            return
        hparams = {**pl_module.hparams, **self.data.hparams}
        simple = (bool, int, float, str)
        plain = {k: v for k, v in hparams.items() if isinstance(v, simple) and not k.startswith("_")}
        plain = {k: printable(v) if isinstance(v, str) else v for k, v in plain.items()}  # must be UTF-8
        board.log_results(plain, best, trainer.current_epoch)


def _first_outdated_step(trainer: L.Trainer) -> int:
    """Step from which events of an earlier session are hidden.

    Steps of this project's events are epochs; those of user callbacks are optimizer steps, which are larger. User
    events before the resumed step are kept, unless epochs are repeated because the run does not continue from its
    latest checkpoint.
    """
    epoch = trainer.current_epoch
    repeats = any(row["epoch"] >= epoch for row in rows_of(trainer))
    return epoch + 1 if repeats else max(epoch + 1, trainer.global_step)
