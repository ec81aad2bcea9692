"""Dropout that does not depend on how the training got here."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np
import torch


class BatchSeed(L.Callback):
    """Seeds torch before every training batch from (run seed, rank, epoch, batch).

    A run that was interrupted and resumed then draws the same dropout masks as one that was not,
    without any random state in the checkpoint.

    Args:
        seed: The run's seed.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Seed torch for this batch."""
        key = [self.seed, trainer.global_rank, trainer.current_epoch, batch_idx]
        seed = int(np.random.SeedSequence(key).generate_state(1)[0])
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_initialized():  # torch.manual_seed would note it for a GPU that is not used, 1 ms a batch
            torch.cuda.manual_seed(seed)
