"""Metrics computed from a confusion matrix."""

from __future__ import annotations

import numpy as np


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def recall_per_class(confusion: np.ndarray) -> np.ndarray:
    """Per-class recall (C,); NaN for classes without samples.

    Args:
        confusion: (C, C) counts; rows are true classes, columns predictions.
    """
    return _divide(np.diag(confusion).astype(float), confusion.sum(1))


def f1_per_class(confusion: np.ndarray) -> np.ndarray:
    """Per-class F1 (C,): 2·TP / (2·TP + FP + FN); NaN for classes without samples.

    Args:
        confusion: (C, C) counts; rows are true classes, columns predictions.
    """
    truth = confusion.sum(1)
    f1 = _divide(2.0 * np.diag(confusion), truth + confusion.sum(0))
    return np.where(truth > 0, f1, np.nan)


def summarise(confusion: np.ndarray) -> dict[str, float]:
    """Top-1 accuracy, macro recall and macro-F1, each in 0…1.

    Macro averages are over the classes that have samples, as in scikit-learn's ``balanced_accuracy_score``.

    Args:
        confusion: (C, C) counts, not all zero; rows are true classes, columns predictions.
    """
    return {
        "acc": float(np.trace(confusion) / confusion.sum()),
        "macro_recall": float(np.nanmean(recall_per_class(confusion))),
        "macro_f1": float(np.nanmean(f1_per_class(confusion))),
    }
