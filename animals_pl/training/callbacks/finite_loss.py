"""End a training run whose loss is not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pandas as pd
import torch
from torch import Tensor

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.tables import write_table
from animals_pl.errors import TrainingError
from animals_pl.training.hparams import divergence_remedy

NOT_FINITE = "not_finite"
"""Name of the CSV file in the run's folder that lists the images of the batch; several processes append their rank."""


class FiniteLoss(L.Callback):
    """Ends a run at the first training loss that is NaN or infinite, before a checkpoint is saved.

    Args:
        data: The run's datamodule.
        folder: The run's folder. The images of the batch are listed in ``not_finite.csv`` there.
    """

    def __init__(self, data: L.LightningDataModule, folder: Path) -> None:
        self.data = data
        self.folder = folder

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Take the folder that the first process has created: others may have started before it."""
        self.folder = Path(trainer.strategy.broadcast(str(self.folder)))

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the loss of the batch.

        Raises:
            TrainingError: It is not finite in one of the processes.
        """
        loss: Tensor = outputs["loss"]
        total = loss if trainer.world_size == 1 else trainer.strategy.reduce(loss.clone(), reduce_op="sum")
        if torch.isfinite(total):
            return
        file = "" if torch.isfinite(loss) else self._list_images(trainer, batch_idx)
        if trainer.local_rank:  # Lightning's launcher kills all processes once one that it started has failed
            raise SystemExit(0)
        remedy = divergence_remedy(pl_module.hparams, trainer.precision) if hasattr(pl_module, "hparams") else ""
        raise TrainingError(
            f"training diverged in epoch {trainer.current_epoch + 1}: the loss of batch {batch_idx + 1} is {total:g}. "
            f"{remedy} {file and f'The images of the batch are in {file!r}.'}".strip()
        )

    def _list_images(self, trainer: L.Trainer, batch_idx: int) -> str:
        """Write the paths of the batch's images, and return the file; empty if the data is not ours."""
        if not isinstance(self.data, AnimalsDataModule) or trainer.overfit_batches:  # type: ignore[attr-defined]
            return ""
        sampler = self.data.train_sampler(lambda: (trainer.current_epoch, batch_idx))
        catalog = self.data.catalogs["train"]
        paths = [str(catalog.root / catalog.paths[key.index]) for key in next(iter(sampler))]
        rank = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        file = self.folder / f"{NOT_FINITE}{rank}.csv"
        write_table(pd.DataFrame({"path": paths}), file)
        return str(file)
