"""Pictures and the hyper-parameter table for TensorBoard."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torchvision.transforms.v2.functional import resize
from torchvision.utils import make_grid

from animals_pl.data.catalog import display_name
from animals_pl.evaluation.figures import confusion_matrix
from animals_pl.training.callbacks.epoch_table import best_row

THUMBNAIL = 128
"""Side of the images in the grid, in pixels: events are kept small."""


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard events and nothing else: the run's hyper-parameters are in config.yaml already."""

    def save(self) -> None:
        """Write the events that are waiting."""
        self.experiment.flush()


class TensorBoardPictures(L.Callback):
    """Shows augmented training images, confusion matrices, and hyper-parameters with the best metrics.

    Args:
        num_images: Images in the grid.
        every_n_epochs: How often grid and matrix are drawn, which takes as long as an epoch on cached features; the
            matrix of the last epoch is, too.
    """

    def __init__(self, num_images: int = 16, every_n_epochs: int = 5) -> None:
        self.num_images = num_images
        self.every_n_epochs = every_n_epochs

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Show the images of the epoch's first training batch, augmented as the net gets them."""
        board = _experiment(trainer)
        if board is not None and trainer.current_epoch % self.every_n_epochs == 0:
            data = trainer.datamodule
            epoch = trainer.current_epoch
            first_batch = next(iter(data.train_sampler(lambda: (epoch, 0))))
            dataset = data.dataset("train")
            images = torch.stack([dataset[key][0] for key in first_batch[: self.num_images]])
            grid = make_grid(resize(images, min(images.shape[-1], THUMBNAIL)), nrow=8)
            board.add_image("training images", grid, trainer.global_step)

    def on_validation_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Draw the confusion matrix of the validation images."""
        epoch = trainer.current_epoch
        due = epoch % self.every_n_epochs == 0 or epoch + 1 == trainer.max_epochs
        if trainer.sanity_checking or trainer.state.fn != "fit" or not due:
            return
        matrix = pl_module.val_metrics.matrix()  # on every process: it is gathered from all
        board = _experiment(trainer)
        if board is not None:
            names = [display_name(name) for name in pl_module.class_names]
            board.add_figure("confusion matrix/val", confusion_matrix(matrix, names), trainer.global_step)

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the hyper-parameters and the best epoch's metrics into the HPARAMS tab."""
        best = best_row(trainer)
        if best and _experiment(trainer) is not None:
            hparams = {**pl_module.hparams_initial, **trainer.datamodule.hparams_initial}
            # The two that may have been tuned since the start.
            hparams |= {"lr": pl_module.hparams["lr"], "batch_size": trainer.datamodule.hparams["batch_size"]}
            simple = (bool, int, float, str)
            plain = {k: v for k, v in hparams.items() if isinstance(v, simple) and not k.startswith("_")}
            metrics = {f"best/{k.removesuffix('/val')}": v for k, v in best.items() if k.endswith("/val")}
            trainer.logger.log_hyperparams(plain, metrics)


def _experiment(trainer: Any) -> Any:
    """Return TensorBoard's writer on the process that writes, else ``None``."""
    if trainer.is_global_zero and isinstance(trainer.logger, TensorBoardLogger):
        return trainer.logger.experiment
    return None
