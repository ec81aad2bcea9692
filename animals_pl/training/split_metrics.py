"""Loss and confusion matrix of one split over an epoch."""

from __future__ import annotations

import numpy as np
from torch import Tensor, nn
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix

from animals_pl.evaluation.metrics import summarise


class SplitMetrics(nn.Module):
    """Metrics of one split over an epoch, synchronised across processes."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def update(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: losses (B,), logits (B, C), labels (B,)."""
        self.loss.update(losses.detach())
        self.confusion.update(logits.detach(), labels)

    def reset(self) -> None:
        """Start a new epoch."""
        self.loss.reset()
        self.confusion.reset()

    def matrix(self) -> np.ndarray:
        """Confusion matrix (C, C) over all processes: rows are true classes, columns predictions."""
        return self.confusion.compute().cpu().numpy()

    def compute(self) -> dict[str, float]:
        """``loss``, ``acc``, ``macro_recall`` and ``macro_f1`` over all processes."""
        return {"loss": self.loss.compute().item(), **summarise(self.matrix())}
