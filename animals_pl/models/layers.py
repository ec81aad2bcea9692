"""What nets share: normalisation inside the net, Keras's way of starting, the mean over mirror images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

KERAS_BATCHNORM: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}
"""Keras's BatchNorm defaults; its momentum 0.99 is torch's 0.01."""


class Normalize(nn.Module):
    """Turns pixels into what the net was trained on: ``(x / 255 - mean) / std``.

    Args:
        mean: One value per channel, for pixels in 0…1.
        std: The same.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Normalise (B, 3, H, W) pixels in 0…255, uint8 or float, to the buffers' dtype."""
        return (pixels.to(self.mean.dtype) - self.mean) / self.std


def keras_init(module: nn.Module) -> None:
    """Initialise convolutions and linear layers as Keras does: Glorot-uniform kernels, zero biases.

    For ``nn.Module.apply``. Source: Glorot & Bengio 2010.
    """
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class SequentialNet(nn.Module):
    """A from-scratch net: normalise → features → flatten → head, for one image size.

    A subclass builds ``features`` (pixels → map) and ``head`` (flat features → logits).

    Args:
        features: (B, 3, S, S) → (B, K, H, W).
        head: (B, K·H·W) → (B, C) logits.
    """

    fixed_size = True
    """The flattened map ties the net to the size it was built for."""

    def __init__(self, features: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.normalize = Normalize()
        self.features = features
        self.head = head
        self.apply(keras_init)

    def forward_features(self, images: Tensor) -> Tensor:
        """Turn (B, 3, S, S) pixels in 0…255 into (B, F) features."""
        return self.features(self.normalize(images)).flatten(1)

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn (B, F) features into (B, C) logits."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, S, S) pixels in 0…255, uint8 or float, into (B, C) logits."""
        return self.forward_head(self.forward_features(images))


TTA = Literal["none", "hflip"]
"""Test-time augmentation: ``hflip`` averages the logits of an image and its horizontal flip."""


def forward_tta(net: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """Logits (B, C) of images (B, 3, S, S) with test-time augmentation."""
    return (net(images) + net(images.flip(3))) / 2 if tta == "hflip" else net(images)
