"""Seed torch per batch, so that dropout and MixUp are reproducible after a resume."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch


class BatchSeed(L.Callback):
    """Seeds torch before every training batch from (seed, rank, epoch, batch).

    A resumed run then draws the same dropout masks as an uninterrupted one, without random state in the checkpoint.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed torch for this batch."""
        seed_batch(self.seed, trainer.global_rank, trainer.current_epoch, batch_idx)


def seed_batch(seed: int, rank: int, epoch: int, batch: int) -> None:
    """Seed torch for one training batch."""
    state = int(np.random.SeedSequence([seed, rank, epoch, batch]).generate_state(1)[0])
    torch.default_generator.manual_seed(state)
    if torch.cuda.is_initialized():  # torch.manual_seed also queues a seed for unused CUDA: 1 ms per batch
        torch.cuda.manual_seed(state)
