"""Published results of the reference: a project of Keras notebooks on Animals-10, which this project reproduces."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """Results of one experiment at its best epoch.

    Attributes:
        title: The reference's name for the experiment.
        epochs: Number of epochs.
        best: Best epoch, from 1. Empty: not published. Two: the loss is from the first, the accuracy from the second.
        trainable: Number of trainable parameters.
        metrics: Training loss (class weights included) and accuracy, validation loss and accuracy; accuracies in 0…1.
    """

    title: str
    epochs: int
    best: str
    trainable: int
    metrics: tuple[float, float, float, float]

    def cells(self) -> list[str]:
        """Trainable parameters, epochs, best epoch, training loss and accuracy, validation loss and accuracy."""
        return [f"{self.trainable:,}", str(self.epochs), self.best, *(f"{number:.4f}" for number in self.metrics)]


REFERENCE = {
    "mobilenetv3_large_frozen": Published(
        "MobileNetV3Large Model 1", 15, "10", 9_610, (0.1080, 0.9818, 0.1134, 0.9716)
    ),
    "mobilenetv3_large_dense": Published(
        "MobileNetV3Large Model 2", 15, "4", 124_298, (0.0939, 0.9842, 0.1100, 0.9731)
    ),
    "mobilenetv3_large_frozen_aug": Published(
        "MobileNetV3Large Model 3", 15, "7", 9_610, (0.2939, 0.9485, 0.1057, 0.9710)
    ),
    "resnet50v2_frozen": Published("ResNet50V2", 15, "6", 20_490, (0.1240, 0.9780, 0.1517, 0.9593)),
    "mobilenetv3_small_frozen": Published("MobileNetV3Small Model 1", 100, "", 5_770, (0.2760, 0.9509, 0.1751, 0.9470)),
    "mobilenetv3_small_dense": Published("MobileNetV3Small Model 2", 30, "7", 75_146, (0.1769, 0.9687, 0.1780, 0.9459)),
    "mobilenetv3_small_frozen_aug": Published(
        "MobileNetV3Small Model 3", 30, "22", 5_770, (0.5183, 0.9061, 0.1759, 0.9460)
    ),
    "mobilenetv3_small_dense_aug": Published(
        "MobileNetV3Small Model 4", 25, "21", 75_146, (0.3153, 0.9408, 0.1641, 0.9507)
    ),
    "minivggnet": Published("MiniVGGNet", 15, "7, 12", 102_833_066, (0.7462, 0.8498, 1.2917, 0.6282)),
    "lenet": Published("LeNet", 15, "3, 5", 78_432_080, (2.3249, 0.5561, 1.7009, 0.4758)),
    "shallownet": Published("ShallowNet", 15, "2, 5", 16_057_226, (2.3473, 0.5862, 1.6931, 0.4786)),
}
"""Name of our configuration → published results."""
