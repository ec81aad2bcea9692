"""What a model needs to know about the data it is trained on."""

from __future__ import annotations

from dataclasses import dataclass

from animals_pl.data.sampling import Sampling


@dataclass(frozen=True)
class DataInfo:
    """Facts about a dataset, handed to :meth:`AnimalClassifier.set_data` once.

    Attributes:
        class_names: C names in label order.
        class_counts: C numbers of training images, in label order. Empty outside training.
        size: Side of the validation images, in pixels.
        sampling: How training images are drawn. Only used to warn when sampling and loss both correct the imbalance.
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    size: int
    sampling: Sampling = "shuffle"
