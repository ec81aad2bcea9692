"""MiniVGGNet: two VGG blocks with BatchNorm and dropout."""

from torch import nn

from animals_pl.models.layers import KERAS_BATCHNORM, SequentialNet


def _block(inputs: int, outputs: int) -> list[nn.Module]:
    """[conv 3×3 → ReLU → BatchNorm] twice → max-pool → dropout."""
    layers: list[nn.Module] = []
    for channels in (inputs, outputs):
        layers += [
            nn.Conv2d(channels, outputs, 3, padding="same"),
            nn.ReLU(),
            nn.BatchNorm2d(outputs, **KERAS_BATCHNORM),
        ]
    return [*layers, nn.MaxPool2d(2), nn.Dropout(0.25)]


class MiniVGGNet(SequentialNet):
    """VGG blocks of 32 and 64 filters → dense 512 → ReLU → BatchNorm → dropout → dense.

    102,833,066 trainable parameters at 224 px and 10 classes. Source: Rosebrock, "Deep Learning for Computer Vision
    with Python", a short version of VGG (Simonyan & Zisserman 2014); as in the reference system.

    Args:
        num_classes: Number of logits C.
        input_size: Side S of the images, in pixels.
    """

    smallest_size = 4

    def __init__(self, num_classes: int, input_size: int) -> None:
        features = nn.Sequential(*_block(3, 32), *_block(32, 64))
        head = nn.Sequential(
            nn.Linear(64 * (input_size // 4) ** 2, 512),
            nn.ReLU(),
            nn.BatchNorm1d(512, **KERAS_BATCHNORM),
            nn.Dropout(0.5),
            nn.Linear(512, num_classes),
        )
        super().__init__(features, head)
