"""Classification losses, one value per image. Their options: ``classifier.py``; ranges: ``hparams.py``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms import v2

from animals_pl.data.class_weights import class_weights, require_images

Loss = Literal["cross_entropy", "focal", "logit_adjusted"]


class ClassificationLoss(nn.Module):
    """Cross-entropy, focal loss or logit-adjusted cross-entropy, with class weights and label smoothing.

    The loss of image i is wᵢ · -Σ_c tᵢc (1 - pᵢc)^γ log pᵢc with class weight w, target t,
    p = softmax(logits + τ · log(counts / N)) and N = Σ counts.
    γ belongs to ``focal`` (Lin et al. 2017, "Focal Loss for Dense Object Detection", equation 5), τ to
    ``logit_adjusted`` (Menon et al. 2021, "Long-tail Learning via Logit Adjustment", eq. 10). Otherwise both are 0.

    Args:
        counts: (C,) training images per class.
        loss: ``cross_entropy``, ``focal`` or ``logit_adjusted``.
        weights: (C,) class weights. ``None``: 1.
        gamma: γ, >= 0.
        tau: τ, >= 0.
        label_smoothing: Fraction of every target, in [0, 1), that is spread over all classes (Szegedy et al. 2016).

    Raises:
        UsageError: Logit adjustment with a class that has no training image.
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
            require_images("model.loss='logit_adjusted'", "model.loss=cross_entropy", counts)
            adjustment = tau * np.log(counts / counts.sum())
        factors = np.ones(len(counts)) if weights is None else weights
        # Not persistent: recomputed from the dataset.
        self.register_buffer("adjustment", torch.tensor(adjustment, dtype=torch.float32), persistent=False)
        self.register_buffer("weights", torch.tensor(factors, dtype=torch.float32), persistent=False)

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Losses (B,) float32 of logits (B, C) and targets: class indices (B,), or probabilities (B, C)."""
        if targets.dim() == 1:
            targets = F.one_hot(targets, logits.shape[1])
        targets = targets.float()
        smooth = targets.lerp(torch.full_like(targets, 1 / logits.shape[1]), self.label_smoothing)
        log_p = (logits.float() + self.adjustment).log_softmax(1)
        # Clamp: at 0 the gradient is infinite for gamma < 1.
        focus = (1 - log_p.exp()).clamp(min=1e-6) ** self.gamma if self.gamma else 1.0
        # Not a matmul, because autocast would round the class weights to bfloat16.
        weights = (targets * self.weights).sum(1)
        return weights * -(smooth * focus * log_p).sum(1)


def loss_weights(hparams: Mapping[str, Any], counts: np.ndarray) -> np.ndarray:
    """Class weights (C,) for the hyperparameters of the classifier and the training images per class (C,)."""
    beta = hparams["effective_beta"]
    return class_weights(hparams["class_weights"], counts, 0.999 if beta is None else beta)


def build_loss(hparams: Mapping[str, Any], counts: np.ndarray) -> ClassificationLoss:
    """Loss for the hyperparameters of the classifier and the training images per class (C,)."""

    def value(key: str, default: float) -> float:
        return default if hparams[key] is None else hparams[key]

    weights = loss_weights(hparams, counts)
    gamma, tau = value("focal_gamma", 2.0), value("logit_tau", 1.0)
    return ClassificationLoss(counts, hparams["loss"], weights, gamma, tau, hparams["label_smoothing"])


def build_mixup_cutmix(hparams: Mapping[str, Any]) -> nn.Module | None:
    """MixUp or CutMix: images and labels (B,) → mixed images and targets (B, C). ``None`` if both are disabled."""
    num_classes = len(hparams["class_names"])
    kinds = (("mixup", v2.MixUp), ("cutmix", v2.CutMix))
    wanted = [kind(alpha=hparams[key], num_classes=num_classes) for key, kind in kinds if hparams[key]]
    return v2.RandomChoice(wanted) if wanted else None
