"""Parts shared by the nets: normalisation, Keras initialisation, test-time augmentation, evaluation mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

TTA = Literal["none", "hflip"]
"""Test-time augmentation. ``hflip`` averages the logits of an image and its horizontal flip."""


class Normalize(nn.Module):
    """Normalise pixels: ``(x / 255 - mean) / std``, with the mean and standard deviation per channel in 0…1."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float] = (0.0, 0.0, 0.0), std: Sequence[float] = (1.0, 1.0, 1.0)) -> None:
        super().__init__()
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1))

    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation per channel, in 0…1."""
        mean, std = ([round(value / 255, 6) for value in part.flatten().tolist()] for part in (self.mean, self.std))
        return mean, std

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


def forward_tta(net: nn.Module, images: Tensor, tta: TTA) -> Tensor:
    """Return the logits (B, C) of images (B, 3, S, S) with test-time augmentation."""
    return (net(images) + net(images.flip(3))) / 2 if tta == "hflip" else net(images)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode within the context, then each module's own mode again."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, training in modes.items():
            module.training = training
