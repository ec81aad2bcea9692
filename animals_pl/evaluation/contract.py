"""The review contract: a threshold above which labels are accepted without review, with bounds on the errors.

Labels of images with a score of at least the threshold are accepted; the other images are left for review. An image
of a class is *missed* if it is accepted under another label; one that is left for review is not missed, whatever its
label. An accepted label is *wrong* if the image is of another class. The rates are those of images like the validation
images; the rate of wrong labels also depends on how frequent the classes are.

Thresholds are tested by fixed-sequence testing with binomial (Clopper-Pearson) p-values: A. N. Angelopoulos, S. Bates,
E. J. Candès, M. I. Jordan and L. Lei, "Learn then Test: Calibrating Predictive Algorithms to Achieve Risk Control",
2021. Starting from the strictest, each threshold is tested for all promises (by their largest p-value) until one fails;
the last one that passed is chosen. All promises of a contract hold simultaneously with the confidence level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats
from scipy.special import expit

from animals_pl.errors import UsageError
from animals_pl.evaluation.intervals import Interval, clopper_pearson_upper, images_needed, wilson_interval

THRESHOLDS = np.append(expit(np.linspace(14, -4, 181)), 0.0)
"""Probabilities that are tested by default: 1 - 10⁻⁶ to 0.02, and 0. They must not depend on the validation labels."""

LEAST_ACCEPTED = 0.25
"""Thresholds that accept a smaller share of the labels are not tested for wrong labels. Among few accepted labels, a
single wrong one would end the sequence. Skipping depends only on the number of accepted labels, so the confidence
level still holds, provided that labels with a lower score are not right more often."""


@dataclass(frozen=True)
class Promise:
    """An upper bound on an error rate.

    Attributes:
        kind: ``missed``: share of the images of a class that are accepted under another label. ``wrong``: share of the
            accepted labels that are wrong.
        bound: Largest rate, in (0, 1). Recall 0.95 is ``missed`` with 0.05, precision 0.99 is ``wrong`` with 0.01.
        label: The class; for ``wrong``, that of the accepted label, and None for all labels.
    """

    kind: Literal["missed", "wrong"]
    bound: float
    label: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.bound < 1:
            raise UsageError(f"bound={self.bound:g} of a promise is out of range. Choose a rate between 0 and 1.")
        if self.kind == "missed" and self.label is None:
            raise UsageError("a promise on missed images needs a class. Pass its label.")


@dataclass(frozen=True)
class Refusal:
    """A promise that cannot be made.

    Attributes:
        promise: The promise.
        images: Number of independent validation images that count for the promise.
        needed: Images needed if none of them is an error.
        reached: Lowest upper bound of the rate over the tested thresholds; None if there are fewer images than needed.
    """

    promise: Promise
    images: int
    needed: int
    reached: float | None = None


@dataclass(frozen=True)
class Contract:
    """A threshold and its promises.

    Attributes:
        threshold: Labels with a score of at least this are accepted; None if no threshold keeps the promises.
        promises: They hold simultaneously with the confidence level. Empty without a threshold.
        images: Number of independent validation images behind each promise.
        refused: Promises that were left out for lack of images, and, without a threshold, all of them.
        confidence: Confidence level, in (0, 1).
        review: Share of validation images left for review; 1 without a threshold.
    """

    threshold: float | None
    promises: tuple[Promise, ...]
    refused: tuple[Refusal, ...]
    confidence: float
    review: float
    images: tuple[int, ...] = ()


@dataclass(frozen=True)
class _Counts:
    """Errors and trials of a promise, and whether each threshold is tested, (T,)."""

    errors: np.ndarray
    trials: np.ndarray
    tested: np.ndarray


def choose_contract(
    scores: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    promises: Sequence[Promise],
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    thresholds: np.ndarray = THRESHOLDS,
) -> Contract:
    """Lowest threshold for which all promises can be made from validation images.

    Promises for which there are too few images are refused, whatever the predictions; the others are made together or
    not at all. For promises that do not depend on each other, choose a contract for each.

    Args:
        scores: Score of the predicted class (N,), such as its calibrated probability.
        predictions: Predicted classes (N,).
        labels: True classes (N,).
        promises: At least one.
        groups: Group of each image (N,), such as duplicates; only the first image of each class in a group counts, as
            the others are not independent. None: all images.
        confidence: Confidence level, in (0, 1).
        thresholds: Thresholds to test (T,); chosen independently of the labels.
    """
    scores, predictions, labels = np.asarray(scores), np.asarray(predictions), np.asarray(labels)
    all_scores = scores
    if groups is not None:
        pairs = np.stack([np.unique(groups, return_inverse=True)[1], labels], 1)
        first = np.unique(pairs, axis=0, return_index=True)[1]
        scores, predictions, labels = scores[first], predictions[first], labels[first]
    thresholds = np.sort(np.asarray(thresholds, float))[::-1]
    possible, refused = [], []
    for promise in promises:
        images = int(_concerned(promise, predictions, labels).sum())
        needed = images_needed(promise.bound, confidence)
        if images < needed:
            refused.append(Refusal(promise, images, needed))
        else:
            possible.append(promise)
    if not possible:
        return Contract(None, (), tuple(refused), confidence, 1.0)
    counts = [_count(promise, scores, predictions, labels, thresholds, confidence) for promise in possible]
    p_values = np.max(
        [stats.binom.cdf(c.errors, c.trials, p.bound) for p, c in zip(possible, counts, strict=True)], axis=0
    )
    tested = np.flatnonzero(np.logical_and.reduce([c.tested for c in counts]))
    passed = int(np.logical_and.accumulate(p_values[tested] <= 1 - confidence).sum())
    if not passed:
        return Contract(None, (), (*refused, *_failed(possible, counts, confidence)), confidence, 1.0)
    threshold = float(thresholds[tested[passed - 1]])
    concluded_from = tuple(int(_concerned(promise, predictions, labels).sum()) for promise in possible)
    review = float(np.mean(all_scores < threshold))
    return Contract(threshold, tuple(possible), tuple(refused), confidence, review, concluded_from)


def _concerned(promise: Promise, predictions: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images (N,) that can be trials of a promise."""
    if promise.label is None:
        return np.ones(len(labels), bool)
    return (labels if promise.kind == "missed" else predictions) == promise.label


def _count(
    promise: Promise,
    scores: np.ndarray,
    predictions: np.ndarray,
    labels: np.ndarray,
    thresholds: np.ndarray,
    confidence: float,
) -> _Counts:
    """Errors and trials of a promise at each threshold."""
    concerned = _concerned(promise, predictions, labels)

    def accepted(which: np.ndarray) -> np.ndarray:
        return int(which.sum()) - np.searchsorted(np.sort(scores[which]), thresholds, side="left")

    errors = accepted(concerned & (predictions != labels))
    total = int(concerned.sum())
    if promise.kind == "missed":
        return _Counts(errors, np.full(len(thresholds), total), accepted(np.ones(len(labels), bool)) > 0)
    trials = accepted(concerned)
    return _Counts(errors, trials, trials >= max(images_needed(promise.bound, confidence), LEAST_ACCEPTED * total))


def _failed(promises: list[Promise], counts: list[_Counts], confidence: float) -> list[Refusal]:
    """Refusals of promises that no threshold keeps together."""
    refused = []
    for promise, count in zip(promises, counts, strict=True):
        upper = clopper_pearson_upper(count.errors, count.trials, confidence)[count.tested]
        total = int(count.trials.max())
        reached = float(upper.min()) if len(upper) else 1.0
        refused.append(Refusal(promise, total, images_needed(promise.bound, confidence), reached))
    return refused


@dataclass(frozen=True)
class PromiseResult:
    """Result of a promise on other images.

    Attributes:
        promise: The promise.
        errors: Missed images, or wrong labels.
        images: Images of the class, or accepted labels.
        rate: ``errors`` / ``images`` with its Wilson interval; NaN without images.
        upper: One-sided upper bound (Clopper-Pearson) of the rate.
    """

    promise: Promise
    errors: int
    images: int
    rate: Interval
    upper: float

    @property
    def kept(self) -> bool:
        """Whether the observed rate is within the bound."""
        return self.errors <= self.promise.bound * self.images + 1e-9


@dataclass(frozen=True)
class ContractResult:
    """Result of a contract on other images.

    Attributes:
        images: Number of images N.
        review: Share of them left for review, with its Wilson interval.
        results: One for each promise.
    """

    images: int
    review: Interval
    results: tuple[PromiseResult, ...]


def apply_contract(
    contract: Contract, scores: np.ndarray, predictions: np.ndarray, labels: np.ndarray
) -> ContractResult:
    """Evaluate a contract on other images, such as the test images.

    Args:
        contract: The contract. Without a threshold all images are left for review.
        scores: Score of the predicted class (N,), the same kind as for :func:`choose_contract`.
        predictions: Predicted classes (N,).
        labels: True classes (N,).
    """
    scores, predictions, labels = np.asarray(scores), np.asarray(predictions), np.asarray(labels)
    accepted = scores >= (np.inf if contract.threshold is None else contract.threshold)
    results = []
    for promise in contract.promises:
        concerned = _concerned(promise, predictions, labels)
        images = int((concerned if promise.kind == "missed" else concerned & accepted).sum())
        errors = int((concerned & accepted & (predictions != labels)).sum())
        upper = float(clopper_pearson_upper(errors, images, contract.confidence))
        results.append(PromiseResult(promise, errors, images, wilson_interval(errors, images), upper))
    review = wilson_interval(int((~accepted).sum()), len(scores))
    return ContractResult(len(scores), review, tuple(results))
