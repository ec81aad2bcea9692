"""Compare two models on the same images: McNemar's test, bootstrap intervals of the differences."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.sparse import csr_array, hstack

from animals_pl.errors import UsageError
from animals_pl.evaluation.bootstrap import group_bootstrap, indicator
from animals_pl.evaluation.intervals import Interval, clopper_pearson_upper, independent_images, macro_trials
from animals_pl.evaluation.metrics import confusion_matrix, summarise


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test.

    Attributes:
        only_first: Images that only the first model classifies correctly.
        only_second: Images that only the second model classifies correctly.
        p_value: Two-sided; null hypothesis: an image is as likely to be in ``only_first`` as in ``only_second``.
    """

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact (binomial) test of two models on the same images.

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions or percentages", 1947. It
    assumes independent images: with duplicates, the p-value is too small.

    Args:
        first: Whether the first model is right (N,).
        second: Whether the second model is right (N,).
    """
    first, second = np.asarray(first, bool), np.asarray(second, bool)
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    discordant = only_first + only_second
    p_value = stats.binomtest(only_first, discordant).pvalue if discordant else 1.0
    return McNemar(only_first, only_second, float(p_value))


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; differences are second minus first.

    Attributes:
        test: McNemar's test.
        acc: Difference in accuracy.
        macro_recall: Difference in macro recall.
    """

    test: McNemar
    acc: Interval
    macro_recall: Interval


def compare_predictions(
    labels: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    num_classes: int,
    *,
    groups: np.ndarray | None = None,
    confidence: float = 0.95,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Differences in accuracy and macro recall with normal intervals from the paired bootstrap over groups.

    If both models are right on the same images, the interval is the Clopper-Pearson bound for 0 differences.

    Args:
        labels: True classes (N,), at least one.
        first: Predictions of the first model (N,).
        second: Predictions of the second model for the same images (N,).
        num_classes: C.
        groups: Group of each image (N,), such as duplicates or a camera; None: every image is its own group.
        confidence: Confidence level, in (0, 1).
        n_resamples: Number of resamples.
        seed: Seed of the resamples.

    Raises:
        UsageError: The numbers of labels and predictions differ.
    """
    if not len(labels) == len(first) == len(second):
        raise UsageError(
            f"{len(first):,} and {len(second):,} predictions for {len(labels):,} images. "
            "Evaluate both on the same images."
        )
    change = (second == labels).astype(float) - (first == labels)
    parts = [indicator(labels, num_classes, change), indicator(labels, num_classes)]
    totals = group_bootstrap(csr_array(hstack(parts)), groups, labels, n_resamples, seed)
    changes, truth = np.split(totals, 2, axis=1)
    sums = csr_array(np.stack([change, np.ones(len(labels))], 1))
    all_changes, images = group_bootstrap(sums, groups, None, n_resamples, seed).T
    recall = np.divide(changes, truth, out=np.full_like(truth, np.nan), where=truth > 0)
    replicates = {"acc": all_changes / images, "macro_recall": np.nanmean(recall, axis=1)}
    independent = independent_images(labels, groups, num_classes)
    trials = {"acc": independent.sum(), "macro_recall": macro_trials(independent)}
    before, after = (summarise(confusion_matrix(labels, made, num_classes)) for made in (first, second))
    z = stats.norm.isf((1 - confidence) / 2)
    differences = {}
    for name, values in replicates.items():
        difference, half = after[name] - before[name], z * float(values.std(ddof=1))
        if not change.any():  # no image differs: as for 0 of n images
            half = float(clopper_pearson_upper(0, trials[name], (1 + confidence) / 2))
        differences[name] = Interval(difference, difference - half, difference + half)
    return Comparison(mcnemar(first == labels, second == labels), **differences)
