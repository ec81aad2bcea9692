"""Confidence intervals of proportions: Wilson, Clopper-Pearson, and Wilson with an effective number of images."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

FEWEST_IMAGES = 30
"""Classes with fewer independent images are flagged: the coverage has been checked for this number or more."""


@dataclass(frozen=True)
class Interval:
    """A value with the ends of its confidence interval."""

    value: float
    low: float
    high: float


def wilson(
    successes: np.ndarray | float, n: np.ndarray | float, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Two-sided score interval of proportions.

    E. B. Wilson, "Probable inference, the law of succession, and statistical inference", 1927. ``n`` may be an
    effective number of images, which need not be an integer.

    Args:
        successes: Numbers of successes, from 0 to ``n``; any shape.
        n: Numbers of trials.
        confidence: Confidence level, in (0, 1).

    Returns:
        The lower and the upper ends, in 0…1; 0 and 1 where ``n`` is 0.
    """
    successes, n = np.broadcast_arrays(np.asarray(successes, float), np.asarray(n, float))
    z2 = stats.norm.isf((1 - confidence) / 2) ** 2
    safe = np.where(n > 0, n, 1)
    centre = (successes + z2 / 2) / (safe + z2)
    variance = np.maximum(successes * (safe - successes) / safe, 0) + z2 / 4
    half = np.sqrt(z2 * variance) / (safe + z2)
    # exact where rounding would leave 1e-17
    low = np.where((n > 0) & (successes > 0), np.maximum(centre - half, 0), 0.0)
    high = np.where((n > 0) & (successes < n), np.minimum(centre + half, 1), 1.0)
    return low, high


def wilson_interval(successes: float, n: float, confidence: float = 0.95) -> Interval:
    """:func:`wilson` of one proportion; the value is NaN if ``n`` is 0."""
    low, high = wilson(successes, n, confidence)
    return Interval(successes / n if n else math.nan, float(low), float(high))


def wilson_from_standard_error(
    value: np.ndarray | float, standard_error: np.ndarray | float, n: np.ndarray | float, confidence: float = 0.95
) -> tuple[np.ndarray, np.ndarray]:
    """Wilson interval of values in 0…1 that are not simple proportions, such as macro recall.

    The number of trials is the effective one, value·(1 - value) / standard_error², as for proportions of surveys with
    clusters and strata (P. S. Kott and D. A. Carr, "Developing an estimation strategy for a pesticide data program",
    1997; E. L. Korn and B. I. Graubard, "Confidence intervals for proportions with small expected number of positive
    counts", 1998). If the standard error is 0, it is ``n``.

    Args:
        value: Estimates in 0…1; any shape.
        standard_error: Their standard errors.
        n: Number of trials where the standard error is 0, such as the number of independent images.
        confidence: Confidence level, in (0, 1).
    """
    value, error, n = np.broadcast_arrays(np.asarray(value, float), np.asarray(standard_error, float), n)
    varies = error > 1e-9
    effective = np.where(varies, value * (1 - value) / np.where(varies, error, 1) ** 2, n)
    return wilson(value * effective, effective, confidence)


def clopper_pearson_upper(successes: np.ndarray | int, n: np.ndarray | int, confidence: float = 0.95) -> np.ndarray:
    """One-sided upper bound of proportions: C. J. Clopper and E. S. Pearson, 1934. 1 where ``n`` is 0.

    The true proportion is above the bound with a probability of at most 1 - confidence, for every n.
    """
    successes, n = np.broadcast_arrays(np.asarray(successes), np.asarray(n))
    bound = stats.beta.ppf(confidence, successes + 1, np.maximum(n - successes, 1))
    return np.where(successes < n, bound, 1.0)


def images_needed(bound: float, confidence: float = 0.95) -> int:
    """Fewest images from which "at most ``bound``" can be concluded if none of them is an error.

    The smallest n with (1 - bound)^n ≤ 1 - confidence: 99 images for 3 %, 598 for 1 in 200.

    Args:
        bound: Largest rate of errors, in (0, 1).
        confidence: Confidence level, in (0, 1).
    """
    return math.ceil(math.log(1 - confidence) / math.log1p(-bound))


def independent_images(labels: np.ndarray, groups: np.ndarray | None, num_classes: int) -> np.ndarray:
    """Number of independent images of each class (C,): duplicates of one group count once.

    Args:
        labels: True classes (N,).
        groups: Group of each image (N,); None: every image is independent.
        num_classes: C.
    """
    if groups is not None:
        labels = np.unique(np.stack([labels, np.unique(groups, return_inverse=True)[1]], 1), axis=0)[:, 0]
    return np.bincount(labels, minlength=num_classes)


def macro_trials(independent: np.ndarray) -> float:
    """Number of images for which an accuracy has the variance of the macro recall, if all classes have the same recall.

    Args:
        independent: Number of independent images of each class (C,); classes without images do not count.
    """
    some = independent[independent > 0]
    return float(len(some) ** 2 / (1 / some).sum())


def too_few(labels: np.ndarray, groups: np.ndarray | None, num_classes: int) -> np.ndarray:
    """Which classes (C,) have fewer than FEWEST_IMAGES independent images, so that intervals are only a rough guide."""
    return independent_images(labels, groups, num_classes) < FEWEST_IMAGES
