"""Nets trained from scratch: ShallowNet, LeNet and MiniVGGNet, as in the reference (see experiments/reference.py)."""

from __future__ import annotations

from torch import Tensor, nn

from animals_pl.models.layers import Normalize, keras_init


class SequentialNet(nn.Module):
    """Base class: normalise → features → flatten → head.

    Subclasses take ``num_classes`` (C) and ``input_size`` (side S of the images, in pixels).

    Args:
        features: (B, 3, S, S) → (B, K, H, W).
        head: (B, K·H·W) → (B, C) logits.
    """

    fixed_size = True
    """The flattened feature map ties the net to one image size."""

    smallest_size = 1
    """Smallest side of the images, in pixels."""

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


class ShallowNet(SequentialNet):
    """[conv 3×3 → ReLU] with 32 filters → linear.

    16,057,226 parameters at 224 px and 10 classes. Source: Rosebrock, "Deep Learning for Computer Vision with
    Python".
    """

    def __init__(self, num_classes: int, input_size: int) -> None:
        features = nn.Sequential(nn.Conv2d(3, 32, 3, padding="same"), nn.ReLU())
        super().__init__(features, nn.Linear(32 * input_size**2, num_classes))


class LeNet(SequentialNet):
    """[conv 5×5 → ReLU → max-pool] with 20 and 50 filters → linear 500 → ReLU → linear.

    78,432,080 parameters at 224 px and 10 classes. Source: LeCun et al. 1998, "Gradient-based learning applied to
    document recognition"; wider, with ReLU and "same" padding.
    """

    smallest_size = 4

    def __init__(self, num_classes: int, input_size: int) -> None:
        features = nn.Sequential(
            nn.Conv2d(3, 20, 5, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(20, 50, 5, padding="same"),
            nn.ReLU(),
            nn.MaxPool2d(2),
        )
        head = nn.Sequential(nn.Linear(50 * (input_size // 4) ** 2, 500), nn.ReLU(), nn.Linear(500, num_classes))
        super().__init__(features, head)


class MiniVGGNet(SequentialNet):
    """VGG blocks of 32 and 64 filters → linear 512 → ReLU → BatchNorm → dropout → linear.

    102,833,066 trainable parameters at 224 px and 10 classes. Source: Rosebrock, "Deep Learning for Computer Vision
    with Python", a short version of VGG (Simonyan & Zisserman 2014).
    """

    smallest_size = 4

    def __init__(self, num_classes: int, input_size: int) -> None:
        features = nn.Sequential(*_vgg_block(3, 32), *_vgg_block(32, 64))
        head = nn.Sequential(
            nn.Linear(64 * (input_size // 4) ** 2, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512, eps=1e-3, momentum=0.01),  # Keras's defaults; its momentum 0.99 is torch's 0.01
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )
        super().__init__(features, head)


def _vgg_block(inputs: int, outputs: int) -> list[nn.Module]:
    """[conv 3×3 → ReLU → BatchNorm] twice → max-pool → dropout."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        conv = nn.Conv2d(channels, outputs, 3, padding="same")
        layers += [conv, nn.ReLU(), nn.BatchNorm2d(outputs, eps=1e-3, momentum=0.01)]
    return [*layers, nn.MaxPool2d(2), nn.Dropout(0.25)]
