"""Parts shared by the nets: normalisation, Keras initialisation, the from-scratch base, test-time augmentation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypedDict

import torch
from torch import Tensor, nn

TTA = Literal["none", "hflip"]
"""Test-time augmentation. ``hflip`` averages the logits of an image and its horizontal flip."""


class BatchNormOptions(TypedDict):
    """Keyword arguments of torch's BatchNorm layers."""

    eps: float
    momentum: float


KERAS_BATCHNORM = BatchNormOptions(eps=1e-3, momentum=0.01)
"""Keras's BatchNorm defaults. Keras's momentum 0.99 is torch's 0.01."""


class Normalize(nn.Module):
    """Normalise pixels: ``(x / 255 - mean) / std``.

    Args:
        mean: Mean per channel, for pixels in 0…1.
        std: Standard deviation per channel, for pixels in 0…1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return normalised (B, 3, H, W) pixels in the buffers' dtype, from uint8 or float pixels in 0…255."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def keras_init(module: nn.Module) -> None:
    """Initialise a convolution or linear layer as Keras does: Glorot-uniform weights, zero bias.

    For ``nn.Module.apply``. Source: Glorot & Bengio 2010, "Understanding the difficulty of training deep feedforward
    neural networks".
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SequentialNet(nn.Module):
    """Base of the from-scratch nets: normalise → features → flatten → head, for one image size.

    Args:
        features: (B, 3, S, S) → (B, K, H, W).
        head: (B, K·H·W) → (B, C) logits.
    """

    fixed_size = True
    """The flattened feature map ties the net to one image size."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.features = features
        self.head = head
        self.apply(keras_init)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the features (B, F) of (B, 3, S, S) pixels in 0…255."""
        return self.features(self.normalize(images)).flatten(1)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits (B, C) of features (B, F)."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of (B, 3, S, S) pixels in 0…255, uint8 or float."""
        return self.forward_head(self.forward_features(images))


def forward_tta(net: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """Return the logits (B, C) of images (B, 3, S, S) with test-time augmentation."""
    return (net(images) + net(images.flip(3))) / 2 if tta == "hflip" else net(images)
