"""Pseudo-labels of unlabelled images: pure functions of arrays."""

from __future__ import annotations

import numpy as np

CONFIDENCE = 0.95
"""Threshold of the class with the most confident predictions."""


def align(probabilities: np.ndarray, frequencies: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) whose mean is closer to the given class frequencies (C,).

    D. Berthelot et al., "ReMixMatch: Semi-Supervised Learning with Distribution Alignment and Augmentation Anchoring",
    2020: each row is multiplied by the ratio of the frequencies to the mean prediction, and normalised.

    Args:
        probabilities: (N, C), N > 0. Each row sums to 1.
        frequencies: Class frequencies or counts (C,) of the labelled images.
    """
    mean = np.maximum(probabilities.mean(axis=0), np.finfo(float).tiny)
    aligned = probabilities * (frequencies / frequencies.sum() / mean)
    return aligned / np.maximum(aligned.sum(axis=1, keepdims=True), np.finfo(float).tiny)


def class_thresholds(probabilities: np.ndarray, confidence: float = CONFIDENCE) -> np.ndarray:
    """Threshold (C,) for the pseudo-labels of each class: lower where fewer predictions are confident.

    B. Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", 2021:
    confidence · b / (2 - b), where b is the number of images predicted as the class with more than ``confidence``,
    relative to the class with the most.

    Args:
        probabilities: Class probabilities (N, C).
        confidence: In (0, 1).
    """
    confident = probabilities.argmax(axis=1)[probabilities.max(axis=1) > confidence]
    counts = np.bincount(confident, minlength=probabilities.shape[1])
    share = counts / max(1, counts.max())
    return confidence * share / (2 - share)


def pseudo_labels(probabilities: np.ndarray, frequencies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo-labels (N,) int64, -1 for images below their class's threshold, and their probabilities (N,).

    Args:
        probabilities: Class probabilities (N, C) of unlabelled images, of a model that was trained on labelled ones.
        frequencies: Class frequencies or counts (C,) of the labelled images, which are assumed to be those of the
            unlabelled ones.
    """
    if not len(probabilities):
        return np.empty(0, dtype=np.int64), np.empty(0)
    aligned = align(probabilities, frequencies)
    labels, best = aligned.argmax(axis=1).astype(np.int64), aligned.max(axis=1)
    return np.where(best > class_thresholds(aligned)[labels], labels, -1), best
