"""Class scores of ImageNet's classifier, added to the logits of a new head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from animals_pl.models.synsets import imagenet_indices

_LEAST = 1e-30
"""Smallest sum of exponentials whose logarithm is taken."""


class SynsetPrior(nn.Module):
    """Features (B, F) → class scores (B, C), computed by ImageNet's classifier, which is not trained.

    The score of a class is the log-sum-exp of the logits of its ImageNet classes (see
    :func:`~animals_pl.models.synsets.imagenet_indices`): up to a constant, its log-probability. A class that ImageNet
    does not have gets the mean score of the others.

    Args:
        num_features: F.
        class_names: C English class names; ImageNet has at least one of them.
        strength: Factor of the scores.
    """

    membership: Tensor
    known: Tensor

    def __init__(self, num_features: int, class_names: Sequence[str], strength: float) -> None:
        super().__init__()
        found = [imagenet_indices(name) for name in class_names]
        self.indices = [index for indices in found for index in indices]
        self.strength = strength
        self.classifier = nn.Linear(num_features, len(self.indices)).requires_grad_(False)
        label_of = torch.tensor([label for label, indices in enumerate(found) for _ in indices])
        membership = nn.functional.one_hot(label_of, len(found)).float()
        self.register_buffer("membership", membership, persistent=False)
        self.register_buffer("known", membership.amax(0), persistent=False)

    @torch.no_grad()
    def load(self, classifier: nn.Linear) -> None:
        """Copy the rows of ImageNet's classifier."""
        self.classifier.weight.copy_(classifier.weight[self.indices])
        self.classifier.bias.copy_(classifier.bias[self.indices])

    def forward(self, features: Tensor) -> Tensor:
        """Scores (…, C) of features (…, F), times the strength."""
        logits = self.classifier(features)
        top = logits.amax(-1, keepdim=True)
        scores = top + ((logits - top).exp() @ self.membership).clamp(min=_LEAST).log()
        mean = (scores * self.known).sum(-1, keepdim=True) / self.known.sum()
        return self.strength * torch.where(self.known > 0, scores, mean)
