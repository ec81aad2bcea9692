"""Numbers from a confusion matrix: pure functions of arrays."""

from __future__ import annotations

import numpy as np


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide; nothing of nothing is NaN."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Return the part of each class's images that were recognised: (C,), NaN where there were none.

    Args:
        confusion: (C, C) counts, rows the truth, columns the prediction.
    """
    return _divide(np.diag(confusion).astype(float), confusion.sum(1))


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """Return 2·TP / (2·TP + FP + FN) of each class: (C,), NaN where a class has no images.

    Args:
        confusion: (C, C) counts, rows the truth, columns the prediction.
    """
    truth = confusion.sum(1)
    f1 = _divide(2.0 * np.diag(confusion), truth + confusion.sum(0))
    return np.where(truth > 0, f1, np.nan)


def summarise(confusion: np.ndarray) -> dict[str, float]:
    """Return top-1 accuracy, macro recall and macro-F1, each in 0…1.

    The macro averages are over the classes that have images, so a folder with three of ten
    classes is evaluated on those three (scikit-learn's ``balanced_accuracy_score`` does the same).

    Args:
        confusion: (C, C) counts, rows the truth, columns the prediction; not all zero.
    """
    return {
        "acc": float(np.trace(confusion) / confusion.sum()),
        "macro_recall": float(np.nanmean(recall_per_class(confusion))),
        "macro_f1": float(np.nanmean(f1_per_class(confusion))),
    }
