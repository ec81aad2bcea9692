"""Class weights from class counts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from animals_pl.errors import UsageError, counted

ClassWeights = Literal["none", "balanced", "reference", "effective"]


def class_weights(option: ClassWeights, counts: np.ndarray, beta: float = 0.999) -> np.ndarray:
    """Class weights (C,) for the loss.

    Args:
        option: ``none``: 1. ``balanced``: N / (C · count), as in scikit-learn. ``reference``:
            max(count) / count, rounded to three decimals. ``effective``: proportional to
            (1 - beta) / (1 - beta^count), with mean 1 (Cui et al. 2019, "Class-Balanced Loss Based on Effective
            Number of Samples", equation 2 and section 4).
        counts: Training images per class (C,).
        beta: For ``effective``, in [0, 1). 0 gives equal weights; near 1, weights approach the inverse counts.

    Raises:
        UsageError: A class has no training images, so its weight would be infinite.
    """
    if option == "none":
        return np.ones(len(counts))
    require_images(f"model.class_weights={option!r}", "model.class_weights=none", counts)
    if option == "balanced":
        return counts.sum() / (len(counts) * counts)
    if option == "reference":
        ratios = (counts.max() / counts).tolist()
        return np.array([round(ratio, 3) for ratio in ratios])  # not np.round, which can round ties differently
    inverse = (1 - beta) / (1 - beta ** counts.astype(np.float64))
    return inverse / inverse.mean()


def require_images(argument: str, remedy: str, counts: np.ndarray) -> None:
    """Raise UsageError if a class has no training images.

    Args:
        argument: The option that needs them.
        remedy: The option and value to use instead.
        counts: Training images per class (C,).
    """
    if not counts.all():
        empty = counted(int((counts == 0).sum()), "class")
        raise UsageError(f"{argument}: no training images in {empty}. Add some, or set {remedy}.")
