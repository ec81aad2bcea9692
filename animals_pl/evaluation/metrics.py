"""Metrics computed from a confusion matrix: (C, C) counts, dense or sparse, rows true classes, columns predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from scipy.sparse import csr_array


def confusion_matrix(labels: np.ndarray, predictions: np.ndarray, num_classes: int) -> csr_array:
    """Sparse confusion matrix (C, C) of true classes (N,) and predicted classes (N,)."""
    from scipy.sparse import csr_array

    ones = np.ones(len(labels), dtype=np.int64)
    return csr_array((ones, (labels, predictions)), shape=(num_classes, num_classes))


def _divide(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Elementwise quotient; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(len(numerator), np.nan), where=denominator > 0)


def recall_per_class(confusion: np.ndarray | csr_array) -> np.ndarray:
    """Per-class recall (C,); NaN for classes without samples."""
    return _divide(confusion.diagonal().astype(float), confusion.sum(1))


def precision_per_class(confusion: np.ndarray | csr_array) -> np.ndarray:
    """Per-class precision (C,); NaN for classes that were never predicted."""
    return _divide(confusion.diagonal().astype(float), confusion.sum(0))


def f1_per_class(confusion: np.ndarray | csr_array) -> np.ndarray:
    """Per-class F1 (C,): 2·TP / (2·TP + FP + FN); NaN for classes without samples."""
    truth = confusion.sum(1)
    f1 = _divide(2.0 * confusion.diagonal(), truth + confusion.sum(0))
    return np.where(truth > 0, f1, np.nan)


def summarise(confusion: np.ndarray | csr_array) -> dict[str, float]:
    """Top-1 accuracy, macro recall and macro-F1 of a matrix that is not all zero, each in 0…1.

    Macro averages are over the classes that have samples, as in scikit-learn's ``balanced_accuracy_score``.
    """
    return {
        "acc": float(confusion.trace() / confusion.sum()),
        "macro_recall": float(np.nanmean(recall_per_class(confusion))),
        "macro_f1": float(np.nanmean(f1_per_class(confusion))),
    }
