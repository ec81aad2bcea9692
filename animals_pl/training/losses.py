"""How much each photograph counts, and for what."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from animals_pl.errors import UsageError

ClassWeights = Literal["none", "balanced", "reference", "effective"]
Loss = Literal["cross_entropy", "focal", "logit_adjusted"]


def class_weights(option: ClassWeights, counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Return one factor per class for the loss of its photographs.

    Args:
        option: ``none``: 1. ``balanced``: N / (C · count), as scikit-learn's. ``reference``:
            max(count) / count, rounded to three decimals. ``effective``: in proportion to
            (1 - beta) / (1 - beta^count), with the mean 1 (Cui et al. 2019, "Class-Balanced Loss Based on Effective
            Number of Samples", equation 2 and section 4).
        counts: (C,) training photographs of each class.
        beta: For ``effective``, in [0, 1): 0 weighs all classes alike, near 1 by the inverse of their count.

    Returns:
        (C,) float64 factors.

    Raises:
        UsageError: A class without training photographs would need an infinite factor.
    """
    if option == "none":
        return np.ones(len(counts))
    _require_photographs(f"model.class_weights={option!r}", "model.class_weights=none", counts)
    if option == "balanced":
        return counts.sum() / (len(counts) * counts)
    if option == "reference":
        return np.array([round(ratio, 3) for ratio in (counts.max() / counts).tolist()])  # np.round's ties differ
    inverse = (1 - beta) / (1 - beta ** counts.astype(np.float64))
    return inverse / inverse.mean()


class ClassificationLoss(nn.Module):
    """One loss per photograph: wᵢ · -Σ_c tᵢc (1 - pᵢc)^γ log pᵢc, where p = softmax(logits + τ · log(counts / N)).

    With γ = 0 and τ = 0 that is cross-entropy. γ is for ``focal`` (Lin et al. 2017, "Focal Loss for Dense Object
    Detection", equation 5), τ for ``logit_adjusted`` (Menon et al. 2021, "Long-tail Learning via Logit Adjustment",
    equation 10): the net then learns logits in which all classes are equally likely beforehand.

    Args:
        counts: (C,) training photographs of each class.
        loss: ``cross_entropy``, ``focal`` or ``logit_adjusted``.
        weights: (C,) factor of each class, see :func:`class_weights`; ``None``: 1.
        gamma: γ of the focal loss, 0 or more.
        tau: τ of the logit adjustment, 0 or more.
        label_smoothing: Part of every target, in [0, 1), that is spread over all classes (Szegedy et al. 2016).

    Raises:
        UsageError: Logit adjustment with a class that has no training photograph.
    """

    adjustment: Tensor
    weights: Tensor

    def __init__(
        self,
        counts: np.ndarray,
        loss: Loss = "cross_entropy",
        weights: np.ndarray | None = None,
        gamma: float = 2.0,
        tau: float = 1.0,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.gamma = gamma if loss == "focal" else 0.0
        self.label_smoothing = label_smoothing
        adjustment = np.zeros(len(counts))
        if loss == "logit_adjusted":
            _require_photographs("model.loss='logit_adjusted'", "model.loss=cross_entropy", counts)
            adjustment = tau * np.log(counts / counts.sum())
        factors = np.ones(len(counts)) if weights is None else weights
        # They follow from the dataset, which a resumed run has, too.
        self.register_buffer("adjustment", torch.tensor(adjustment, dtype=torch.float32), persistent=False)
        self.register_buffer("weights", torch.tensor(factors, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the losses (B,) of logits (B, C) and targets: class indices (B,), or probabilities (B, C)."""
        if targets.dim() == 1:
            targets = F.one_hot(targets, logits.shape[1]).to(logits.dtype)
        smooth = targets.lerp(torch.full_like(targets, 1 / logits.shape[1]), self.label_smoothing)
        log_p = (logits + self.adjustment).log_softmax(1)
        # Not quite 0, where the gradient would be infinite for a gamma below 1.
        focus = (1 - log_p.exp()).clamp(min=1e-6) ** self.gamma if self.gamma else 1.0
        return (targets @ self.weights.to(targets.dtype)) * -(smooth * focus * log_p).sum(1)


def _require_photographs(argument: str, remedy: str, counts: np.ndarray) -> None:
    if not counts.all():
        raise UsageError(
            f"{argument}: {np.count_nonzero(counts == 0)} classes have no training photograph; "
            f"add some, or set {remedy}"
        )
