"""Standard errors and intervals of metrics by a bootstrap over groups of images.

All metrics here are functions of sums over images, such as the hits of each class. A resample gives each group a
weight, so that the sums of all resamples are one product of a sparse and a dense matrix.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.sparse import csr_array, hstack

from animals_pl.evaluation.calibration import calibration_gaps, ece_of_gaps
from animals_pl.evaluation.intervals import Interval, independent_images, macro_trials, wilson_from_standard_error
from animals_pl.evaluation.metrics import confusion_matrix, f1_per_class, summarise

MOST_WEIGHTS = 1 << 22
"""Maximum number of weights drawn at a time (32 MB); bounds the memory."""


def group_bootstrap(
    contributions: csr_array,
    groups: np.ndarray | None = None,
    strata: np.ndarray | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> np.ndarray:
    """Sums of the images' contributions in each resample (R, K).

    Groups are drawn with replacement among those of the same stratum. From a stratum with n groups, n - 1 are drawn
    and weighted by n / (n - 1), which makes the variance of sums unbiased: J. N. K. Rao, C. F. J. Wu and K. Yue, "Some
    recent work on resampling methods for complex surveys", 1992. If a stratum has a single group, every resample
    contains it.

    Args:
        contributions: What each image adds to K sums (N, K); sparse, so that memory is linear in N.
        groups: Group of each image (N,), such as duplicates or a camera; None: every image is its own group.
        strata: Stratum of each image (N,), such as its label, for metrics that average over classes, so that every
            resample has all classes. A group belongs to the most frequent stratum of its images. None: a single
            stratum, so that the class frequencies vary as well.
        n_resamples: R.
        seed: Seed of the resamples. The same seed, groups and strata give the same resamples.
    """
    images = np.arange(contributions.shape[0])
    group_of = images if groups is None else np.unique(groups, return_inverse=True)[1]
    stratum = _most_frequent(group_of, np.zeros_like(images) if strata is None else strata)
    order = np.argsort(stratum, kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    count = len(order)
    rows = rank[group_of]
    per_group = csr_array((np.ones(len(images)), (rows, images)), shape=(count, len(images))) @ contributions
    _, first, sizes = np.unique(stratum[order], return_index=True, return_counts=True)
    drawn_from = [(begin, begin + size) for begin, size in zip(first, sizes, strict=True) if size > 1]
    scale = np.repeat(np.where(sizes > 1, sizes / np.maximum(sizes - 1, 1), 0), sizes)
    scaled = csr_array(per_group.multiply(scale[:, None]).T)
    always = per_group[np.repeat(sizes == 1, sizes)].sum(0)

    generator = np.random.default_rng(seed)
    totals = np.empty((n_resamples, per_group.shape[1]))
    step = max(1, MOST_WEIGHTS // count)
    for begin in range(0, n_resamples, step):
        some = min(step, n_resamples - begin)
        weights = _draws(drawn_from, some, count, generator)
        totals[begin : begin + some] = (scaled @ weights).T + always
    return totals


def _draws(strata: list[tuple[int, int]], resamples: int, count: int, generator: np.random.Generator) -> np.ndarray:
    """Number of times that each group is drawn in each resample (G, R): n - 1 draws from a stratum of n groups."""
    drawn = [generator.integers(begin, end, size=(resamples, end - begin - 1), dtype=np.int32) for begin, end in strata]
    cells = np.concatenate([np.empty((resamples, 0), np.int32), *drawn], axis=1) + (
        np.arange(resamples, dtype=np.int32)[:, None] * np.int32(count)
    )
    counts = np.bincount(cells.ravel(), minlength=resamples * count).reshape(resamples, count)
    return np.ascontiguousarray(counts.T, dtype=float)


def _most_frequent(group_of: np.ndarray, strata: np.ndarray) -> np.ndarray:
    """Most frequent stratum of each group (G,); the smallest of those tied."""
    pairs, counts = np.unique(np.stack([group_of, strata], 1), axis=0, return_counts=True)
    pairs = pairs[np.lexsort((pairs[:, 1], -counts, pairs[:, 0]))]
    return pairs[np.unique(pairs[:, 0], return_index=True)[1], 1]


def indicator(columns: np.ndarray, count: int, values: np.ndarray | None = None) -> csr_array:
    """Sparse matrix (N, count) with one value per row, 1 by default, in the given column. Zeros are not stored."""
    values = np.ones(len(columns)) if values is None else values.astype(float)
    # eliminate_zeros writes to the arrays
    matrix = csr_array((values, columns, np.arange(len(columns) + 1)), shape=(len(columns), count), copy=True)
    matrix.eliminate_zeros()
    return matrix


@dataclass(frozen=True)
class MetricIntervals:
    """Metrics of a split with their intervals.

    Attributes:
        metrics: ``acc``, ``macro_recall``, ``macro_f1`` and, if losses were given, ``loss``.
        f1_per_class: Interval of each class (C,); None for classes without images.
    """

    metrics: dict[str, Interval]
    f1_per_class: list[Interval | None]


def metric_intervals(
    labels: np.ndarray,
    predictions: np.ndarray,
    num_classes: int,
    *,
    groups: np.ndarray | None = None,
    losses: np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> MetricIntervals:
    """Intervals of the summary metrics and of F1 by class, from the bootstrap over groups.

    Resamples are stratified by class for the macro averages and F1. For ``acc`` and ``loss`` they are not, so their
    class frequencies vary.

    Metrics in 0…1 get a Wilson interval with the effective number of images that follows from the bootstrap's standard
    error; percentile and BCa intervals undercover if few images are misclassified. The mean loss gets a normal interval
    on the logarithmic scale.

    Args:
        labels: True classes (N,), at least one.
        predictions: Predicted classes (N,).
        num_classes: C.
        groups: Group of each image (N,), such as duplicates or a camera; None: every image is its own group.
        losses: Negative log-likelihood of each image (N,).
        confidence: Confidence level, in (0, 1).
        n_resamples: Number of resamples.
        seed: Seed of the resamples.
    """
    hits = indicator(labels, num_classes, labels == predictions)
    parts = [hits, indicator(labels, num_classes), indicator(predictions, num_classes)]
    totals = group_bootstrap(csr_array(hstack(parts)), groups, labels, n_resamples, seed)
    hit, truth, predicted = np.split(totals, 3, axis=1)
    present = truth > 0
    recall = np.divide(hit, truth, out=np.full_like(hit, np.nan), where=present)
    f1 = np.divide(2 * hit, truth + predicted, out=np.full_like(hit, np.nan), where=present)
    loss = np.zeros(len(labels)) if losses is None else np.asarray(losses, float)
    sums = csr_array(np.stack([labels == predictions, loss, np.ones(len(labels))], 1))
    right, total_loss, images = group_bootstrap(sums, groups, None, n_resamples, seed).T
    replicates = {
        "acc": right / images,
        "macro_recall": np.nanmean(recall, axis=1),
        "macro_f1": np.nanmean(f1, axis=1),
    }
    confusion = confusion_matrix(labels, predictions, num_classes)
    independent = independent_images(labels, groups, num_classes)
    macro = macro_trials(independent)
    trials = {"acc": independent.sum(), "macro_recall": macro, "macro_f1": macro}
    metrics = {}
    for name, value in summarise(confusion).items():
        error = replicates[name].std(ddof=1)
        if name == "macro_f1" and error > 0:  # the F1 of a class without hits hardly varies in small samples
            error = max(error, math.sqrt(value * (1 - value) / independent.sum()))
        low, high = wilson_from_standard_error(value, error, trials[name], confidence)
        metrics[name] = Interval(value, float(low), float(high))
    if losses is not None:
        metrics["loss"] = _log_interval(float(np.mean(losses)), total_loss / images, confidence)
    return MetricIntervals(metrics, _f1_intervals(f1_per_class(confusion), f1, independent, confidence))


def _f1_intervals(
    values: np.ndarray, replicates: np.ndarray, independent: np.ndarray, confidence: float
) -> list[Interval | None]:
    """Interval of the F1 of each class, from its values (C,) and replicates (R, C)."""
    error = np.zeros(len(values))
    known = ~np.isnan(values)
    error[known] = np.nanstd(replicates[:, known], axis=0, ddof=1)
    low, high = wilson_from_standard_error(np.nan_to_num(values), error, independent, confidence)
    ends = zip(values.tolist(), low.tolist(), high.tolist(), strict=True)
    return [None if np.isnan(value) else Interval(value, *limits) for value, *limits in ends]


def _log_interval(value: float, replicates: np.ndarray, confidence: float) -> Interval:
    """Normal interval of a positive value on the logarithmic scale."""
    if value <= 0:
        return Interval(value, value, value)
    factor = np.exp(stats.norm.isf((1 - confidence) / 2) * replicates.std(ddof=1) / value)
    return Interval(value, float(value / factor), float(value * factor))


def ece_standard_error(
    probabilities: np.ndarray,
    labels: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    bins: int = 15,
    n_resamples: int = 1000,
    seed: int = 0,
) -> float:
    """Bootstrap standard error of :func:`~animals_pl.evaluation.calibration.expected_calibration_error`.

    No interval is given: ECE is biased upwards with few images, so an interval around it would undercover.

    Args:
        probabilities: Class probabilities (N, C).
        labels: True classes (N,).
        groups: Group of each image (N,); None: every image is its own group.
        bins: Number of bins.
        n_resamples: Number of resamples.
        seed: Seed of the resamples.
    """
    columns, gaps = calibration_gaps(probabilities, labels, bins)
    parts = [indicator(columns, bins, gaps), csr_array(np.ones((len(labels), 1)))]
    totals = group_bootstrap(csr_array(hstack(parts)), groups, None, n_resamples, seed)
    return float(ece_of_gaps(totals[:, :-1], totals[:, -1]).std(ddof=1))
