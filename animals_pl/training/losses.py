"""How much each photograph counts."""

from __future__ import annotations

from typing import Literal

import numpy as np

from animals_pl.errors import UsageError

ClassWeights = Literal["none", "balanced", "reference"]


def class_weights(option: ClassWeights, counts: np.ndarray) -> np.ndarray:
    """Return one factor per class for the loss of its photographs.

    Args:
        option: ``none``: 1. ``balanced``: N / (C · count), as scikit-learn's. ``reference``:
            max(count) / count, rounded to three decimals.
        counts: (C,) training photographs of each class.

    Returns:
        (C,) float64 factors.

    Raises:
        UsageError: A class without training photographs would need an infinite factor.
    """
    if option == "none":
        return np.ones(len(counts))
    if not counts.all():
        raise UsageError(
            f"model.class_weights={option!r}: {np.count_nonzero(counts == 0)} classes have no training photograph; "
            "add some, or set model.class_weights=none"
        )
    if option == "balanced":
        return counts.sum() / (len(counts) * counts)
    return np.round(counts.max() / counts, 3)
