"""Recognise images of no known class: score and threshold."""

from __future__ import annotations

import math

import numpy as np
from scipy.special import logsumexp

from animals_pl.evaluation.calibration import Calibration
from animals_pl.evaluation.intervals import Interval, wilson_interval

KNOWN_SHARE = 0.95
"""Share of the known validation images that are not called unknown."""


def unknown_scores(logits: np.ndarray, calibration: Calibration) -> np.ndarray:
    """Energy -log Σ_c exp(z_c + log π_train,c - log π_model,c) (N,) of logits z (N, C). Higher: more likely unknown.

    W. Liu, X. Wang, J. Owens and Y. Li, "Energy-based Out-of-distribution Detection", 2020, with the logits shifted to
    the class frequencies of the training images: logit adjustment and class weights raise the logits of rare classes,
    so that unknown images would have high ones, too.
    """
    return -logsumexp(np.asarray(logits, float) + calibration.training_shift, axis=1)


def fit_unknown_threshold(scores: np.ndarray, known_share: float = KNOWN_SHARE) -> float:
    """Quantile of the scores: at least ``known_share`` of them do not exceed it.

    It is halfway between two scores, so that rounding changes no decision.

    Args:
        scores: :func:`unknown_scores` of images of known classes (N,), N > 0. Not of training images.
        known_share: In (0, 1].
    """
    ordered = np.sort(scores)
    accepted = math.ceil(known_share * len(ordered) - 1e-9)  # 0.95 · 20 is a little above 19
    return float(ordered[accepted - 1 : accepted + 1].mean())


def called_unknown(logits: np.ndarray, calibration: Calibration) -> Interval | None:
    """Share of images with a score above the model's threshold, with Wilson's interval; None without a threshold."""
    if calibration.unknown_threshold is None:
        return None
    above = unknown_scores(logits, calibration) > calibration.unknown_threshold
    return wilson_interval(int(above.sum()), len(above))
