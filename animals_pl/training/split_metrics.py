"""Loss and confusion matrix of one split over an epoch."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.utilities import dim_zero_cat

from animals_pl.evaluation.metrics import summarise


class LabelPairs(Metric):
    """True and predicted class (N, 2) of every image. Linear in N; a dense confusion matrix is quadratic in C."""

    full_state_update = False
    pairs: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("pairs", [], dist_reduce_fx="cat")
        self.reset()

    def reset(self) -> None:
        """Start a new epoch."""
        super().reset()
        # For a process without images; torchmetrics would gather an empty float tensor from it.
        self.pairs.append(torch.empty((0, 2), dtype=torch.int64, device=self.device))

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (B, C), labels (B,)."""
        self.pairs.append(torch.stack([labels, logits.argmax(1)], dim=1))

    def compute(self) -> Tensor:
        """Pairs (N, 2) of all processes."""
        return dim_zero_cat(self.pairs)


class SplitMetrics(nn.Module):
    """Metrics of one split over an epoch, synchronised across processes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.loss = MeanMetric()
        self.pairs = LabelPairs()

    def update(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: losses (B,), logits (B, C), labels (B,)."""
        self.loss.update(losses.detach())
        self.pairs.update(logits.detach(), labels)

    def reset(self) -> None:
        """Start a new epoch."""
        self.loss.reset()
        self.pairs.reset()

    @property
    def is_empty(self) -> bool:
        """Whether this process has no samples of the epoch, neither new ones nor those of an interrupted session."""
        return not self.loss.weight > 0

    def sums(self) -> dict[str, Tensor]:
        """State of this process mid-epoch, for :meth:`continue_from`."""
        return {"value": self.loss.mean_value, "weight": self.loss.weight, "pairs": dim_zero_cat(self.pairs.pairs)}

    def continue_from(self, sums: dict[str, Tensor]) -> None:
        """Continue an interrupted epoch from its :meth:`sums`."""
        self.reset()
        self.loss.mean_value, self.loss.weight = sums["value"], sums["weight"]
        self.pairs.pairs = [sums["pairs"]]

    def matrix(self) -> csr_array:
        """Sparse confusion matrix (C, C) over all processes: rows are true classes, columns predictions."""
        truth, predicted = self.pairs.compute().cpu().numpy().T
        ones = np.ones(len(truth), dtype=np.int64)
        return csr_array((ones, (truth, predicted)), shape=(self.num_classes, self.num_classes))

    def compute(self) -> dict[str, float]:
        """``loss``, ``acc``, ``macro_recall`` and ``macro_f1`` over all processes."""
        return {"loss": self.loss.compute().item(), **summarise(self.matrix())}
