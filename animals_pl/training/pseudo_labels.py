"""Pseudo-labels: the classes of unlabelled images as predicted by a head that was trained on labelled ones."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from torch import Tensor

from animals_pl.evaluation.unknown import fit_unknown_threshold, unknown_scores
from animals_pl.training.calibration import fit_calibration
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.head import head_logits

CONFIDENCE = 0.95
"""Threshold of the class with the most confident predictions."""

LEAST_CONFIDENCE = 0.7
"""Lowest threshold of a class."""

KNOWN_SHARE = 0.9
"""Share of the validation images that count as known. Lower than in predictions: an image that is left out does less
harm than one with a wrong label."""

PRIOR_WEIGHT = 0.1
"""Weight of the class frequencies of the labelled images, relative to those of the unlabelled ones."""

_ITERATIONS, _TOLERANCE = 1000, 1e-6


class PseudoLabels(NamedTuple):
    """Pseudo-labels of N images.

    Attributes:
        labels: Class indices (N,) int64; -1 for unknown images and those below the threshold of their class.
        probabilities: Probability (N,) of the most probable class; NaN for unknown images.
        is_unknown: Whether each image (N,) is above the threshold for unknown images.
    """

    labels: np.ndarray
    probabilities: np.ndarray
    is_unknown: np.ndarray


def label_images(
    teacher: AnimalClassifier, features: Tensor, val_features: Tensor, val_labels: np.ndarray
) -> PseudoLabels:
    """Label images from their features.

    Args:
        teacher: A model with a trained head and the class counts of its training images.
        features: Features (N, V, F) of V views of each image.
        val_features: Those of the validation images (M, V, F), to calibrate the probabilities and to set the threshold
            for unknown images.
        val_labels: Classes of the validation images (M,).
    """
    if not len(features):
        return PseudoLabels(np.empty(0, dtype=np.int64), np.empty(0), np.empty(0, dtype=bool))
    logits, val_logits = (head_logits(teacher, each).numpy() for each in (features, val_features))
    calibration = fit_calibration(teacher.calibration, val_logits, val_labels)
    prior, counts = np.asarray(calibration.model_prior), np.asarray(calibration.train_counts)
    probabilities = calibration.probabilities(logits)
    # At the frequencies of the labelled images, images of rare classes would be called unknown more often.
    frequencies = at_estimated_frequencies(probabilities, prior, counts).mean(axis=0)
    adapted = replace(calibration, train_counts=frequencies)
    threshold = fit_unknown_threshold(unknown_scores(val_logits, adapted), KNOWN_SHARE)
    is_unknown = unknown_scores(logits, adapted) > threshold
    labels, best = np.full(len(logits), -1, dtype=np.int64), np.full(len(logits), np.nan)
    labels[~is_unknown], best[~is_unknown] = pseudo_labels(probabilities[~is_unknown], prior, counts)
    return PseudoLabels(labels, best, is_unknown)


def at_estimated_frequencies(probabilities: np.ndarray, prior: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Class probabilities (N, C) at the class frequencies of the images, which are estimated from all of them.

    M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    2002: expectation-maximisation, starting from the frequencies of the labelled images. These also
    enter with the weight of :data:`PRIOR_WEIGHT` · N images. Without it, unsure predictions could collapse to a single
    class.

    Args:
        probabilities: (N, C), N > 0, of a calibrated model. Each row sums to 1.
        prior: Class prior (C,) implicit in them, > 0.
        counts: Labelled images of each class (C,). The frequency of a class without any is 0.
    """
    labelled = counts / counts.sum()
    likelihoods, frequencies = probabilities / prior, labelled
    for _ in range(_ITERATIONS):
        adjusted = likelihoods * frequencies
        adjusted /= adjusted.sum(axis=1, keepdims=True)
        before = frequencies
        frequencies = (adjusted.mean(axis=0) + PRIOR_WEIGHT * labelled) / (1 + PRIOR_WEIGHT)
        if np.abs(frequencies - before).max() < _TOLERANCE:
            break
    return adjusted


def class_thresholds(probabilities: np.ndarray) -> np.ndarray:
    """Threshold (C,) for the pseudo-labels of each class: lower where fewer predictions are confident.

    B. Zhang et al., "FlexMatch: Boosting Semi-Supervised Learning with Curriculum Pseudo Labeling", 2021:
    t · b / (2 - b) with t = :data:`CONFIDENCE`, where b is the number of images predicted as the class with more than
    t, relative to the class with the most; but not below :data:`LEAST_CONFIDENCE`.

    Args:
        probabilities: Class probabilities (N, C).
    """
    confident = probabilities.argmax(axis=1)[probabilities.max(axis=1) > CONFIDENCE]
    counts = np.bincount(confident, minlength=probabilities.shape[1])
    share = counts / max(1, counts.max())
    return np.maximum(CONFIDENCE * share / (2 - share), LEAST_CONFIDENCE)


def pseudo_labels(probabilities: np.ndarray, prior: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pseudo-labels (N,) int64, -1 for images below their class's threshold, and their probabilities (N,).

    Args:
        probabilities: Calibrated class probabilities (N, C) of unlabelled images.
        prior: Class prior (C,) implicit in them, > 0.
        counts: Labelled images of each class (C,).
    """
    if not len(probabilities):
        return np.empty(0, dtype=np.int64), np.empty(0)
    adjusted = at_estimated_frequencies(probabilities, prior, counts)
    labels, best = adjusted.argmax(axis=1).astype(np.int64), adjusted.max(axis=1)
    return np.where(best > class_thresholds(adjusted)[labels], labels, -1), best
