"""LeNet: two convolutions and two dense layers."""

from torch import nn

from animals_pl.models.layers import SequentialNet


class LeNet(SequentialNet):
    """[conv 5×5 → ReLU → max-pool] with 20 and 50 filters → dense 500 → ReLU → dense.

    78,432,080 parameters at 224 px and 10 classes. Source: LeCun et al. 1998, "Gradient-based learning applied to
    document recognition", in the reference system's version: wider, with ReLU and "same" padding.

    Args:
        num_classes: Number of logits C.
        input_size: Side S of the images, in pixels.
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
