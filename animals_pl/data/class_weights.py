"""Class weights from class counts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from animals_pl.errors import UsageError

ClassWeights = Literal["none", "balanced", "reference", "effective"]


def class_weights(option: ClassWeights, counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Return one factor per class for the loss of its images.

    Args:
        option: ``none``: 1. ``balanced``: N / (C · count), as scikit-learn's. ``reference``:
            max(count) / count, rounded to three decimals. ``effective``: in proportion to
            (1 - beta) / (1 - beta^count), with the mean 1 (Cui et al. 2019, "Class-Balanced Loss Based on Effective
            Number of Samples", equation 2 and section 4).
        counts: (C,) training images of each class.
        beta: For ``effective``, in [0, 1): 0 weighs all classes alike, near 1 by the inverse of their count.

    Returns:
        (C,) float64 factors.

    Raises:
        UsageError: A class without training images would need an infinite factor.
    """
    if option == "none":
        return np.ones(len(counts))
    require_images(f"model.class_weights={option!r}", "model.class_weights=none", counts)
    if option == "balanced":
        return counts.sum() / (len(counts) * counts)
    if option == "reference":
        return np.array([round(ratio, 3) for ratio in (counts.max() / counts).tolist()])  # np.round's ties differ
    inverse = (1 - beta) / (1 - beta ** counts.astype(np.float64))
    return inverse / inverse.mean()


def require_images(argument: str, remedy: str, counts: np.ndarray) -> None:
    """Raise a :class:`UsageError` if a class has no training images."""
    if not counts.all():
        raise UsageError(
            f"{argument}: {np.count_nonzero(counts == 0)} classes have no training image; add some, or set {remedy}"
        )
