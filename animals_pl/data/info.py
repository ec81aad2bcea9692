"""Facts about the training data that a model needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from animals_pl.data.sampling import Sampling


@dataclass(frozen=True)
class DataInfo:
    """Facts about a dataset, passed to :meth:`AnimalClassifier.set_data` once.

    Attributes:
        class_names: Class names in label order (C).
        class_counts: Training images per class (C). Empty if there is no training split.
        size: Side of the validation images, in pixels.
        sampling: How training images are drawn. Used to warn if sampling and loss both correct the imbalance.

    Example:
        >>> DataInfo(class_names=("cat", "dog"), class_counts=(120, 80), size=224).class_counts
        (120, 80)
    """

    class_names: tuple[str, ...]
    class_counts: tuple[int, ...]
    size: int
    sampling: Sampling = "shuffle"
