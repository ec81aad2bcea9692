"""ShallowNet: one convolution and one dense layer."""

from torch import nn

from animals_pl.models.layers import SequentialNet


class ShallowNet(SequentialNet):
    """[conv 3×3 → ReLU] with 32 filters → dense.

    16,057,226 parameters at 224 px and 10 classes. Source: Rosebrock, "Deep Learning for Computer Vision with
    Python"; as in the reference system.

    Args:
        num_classes: Number of logits C.
        input_size: Side S of the images, in pixels.
    """

    smallest_size = 1

    def __init__(self, num_classes: int, input_size: int) -> None:
        features = nn.Sequential(nn.Conv2d(3, 32, 3, padding="same"), nn.ReLU())
        super().__init__(features, nn.Linear(32 * input_size**2, num_classes))
