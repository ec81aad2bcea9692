"""Collect the logits of a split."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from animals_pl.training.processes import gather


@dataclass(frozen=True)
class SplitLogits:
    """Logits of a split in the order of its images.

    Attributes:
        indices: Index of each image in the dataset (N,).
        logits: Logits (N, C) float32.
        labels: True classes (N,).
    """

    indices: np.ndarray
    logits: np.ndarray
    labels: np.ndarray


class LogitCollector:
    """Collects the outputs of validation or test steps, and gathers them from all processes."""

    def __init__(self) -> None:
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []

    def add(self, logits: Any, batch: Any) -> None:
        """Add the output of a step, logits (B, C), and its batch; outputs of other models are ignored."""
        if isinstance(logits, Tensor):
            self._logits.append(logits.detach().float())
            self._labels.append(batch[1])

    def gather(self) -> SplitLogits | None:
        """Logits of all processes since the last call; ``None`` if there are none. Call it on every process.

        The datamodule gives process r of W the images r, r + W, r + 2W, …, without padding.
        """
        mine = (
            torch.cat(self._logits).cpu().numpy() if self._logits else None,
            torch.cat(self._labels).cpu().numpy() if self._labels else None,
        )
        self._logits, self._labels = [], []
        parts: list[Any] = gather(mine)
        ranks = [rank for rank, (logits, _) in enumerate(parts) if logits is not None]
        if not ranks:
            return None
        indices = np.concatenate([rank + np.arange(len(parts[rank][1])) * len(parts) for rank in ranks])
        order = np.argsort(indices, kind="stable")
        logits, labels = (np.concatenate([parts[rank][column] for rank in ranks])[order] for column in (0, 1))
        return SplitLogits(indices[order], logits, labels)
