"""Two models on the same images."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from animals_pl.errors import UsageError
from animals_pl.evaluation.comparison import compare_predictions, mcnemar


def outcomes(both: int, first: int, second: int, none: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each model is right, for numbers of images that both, one and none of them have right."""
    counts = [both, first, second, none]
    return np.repeat([True, True, False, False], counts), np.repeat([True, False, True, False], counts)


def test_mcnemar_s_test_is_that_of_statsmodels() -> None:
    # statsmodels 0.15.0: mcnemar([[50, 3], [11, 30]], exact=True)
    test = mcnemar(*outcomes(50, 3, 11, 30))
    assert (test.only_first, test.only_second) == (3, 11)
    assert test.p_value == pytest.approx(0.057373046875)
    assert mcnemar(*outcomes(50, 7, 7, 30)).p_value == 1
    assert mcnemar(*outcomes(50, 0, 0, 30)).p_value == 1
    assert mcnemar(*outcomes(0, 0, 20, 0)).p_value == pytest.approx(2 * 0.5**20)


def draw(random: np.random.Generator, images: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Three classes, a model with recall 0.8, and one that corrects half of its mistakes and makes some others."""
    labels = np.arange(images) % 3
    right = random.random(images) < 0.8
    other = np.where(right, random.random(images) < 0.96, random.random(images) < 0.5)
    return labels, np.where(right, labels, (labels + 1) % 3), np.where(other, labels, (labels + 1) % 3)


def test_differences_are_second_minus_first() -> None:
    labels, first, second = draw(np.random.default_rng(0), 300)
    found = compare_predictions(labels, first, second, 4)
    for interval, score in ((found.acc, accuracy_score), (found.macro_recall, balanced_accuracy_score)):
        assert interval.value == pytest.approx(score(labels, second) - score(labels, first))
        assert interval.low < interval.value < interval.high
    swapped = compare_predictions(labels, second, first, 4)
    assert (swapped.acc.low, swapped.acc.high) == pytest.approx((-found.acc.high, -found.acc.low))
    assert found.test == mcnemar(first == labels, second == labels)


def test_the_interval_of_the_accuracy_is_wald_s_for_paired_images() -> None:
    labels, first, second = draw(np.random.default_rng(0), 900)
    difference = (second == labels).astype(float) - (first == labels)
    half = 1.959964 * difference.std(ddof=1) / 30
    found = compare_predictions(labels, first, second, 3, n_resamples=5000).acc
    assert (found.low, found.high) == pytest.approx((difference.mean() - half, difference.mean() + half), abs=0.002)


def test_pairs_are_closer_than_their_own_intervals() -> None:
    labels, first, _ = draw(np.random.default_rng(0), 900)
    second = first.copy()
    second[:5] = labels[:5]
    found = compare_predictions(labels, first, second, 3).acc
    assert found.high - found.low < 0.01


def test_copies_of_images_add_nothing() -> None:
    data = draw(np.random.default_rng(0), 150)
    once = compare_predictions(*data, 3).macro_recall
    copied = compare_predictions(*(np.repeat(a, 4) for a in data), 3, groups=np.arange(600) // 4).macro_recall
    assert (copied.low, copied.high) == pytest.approx((once.low, once.high))


def test_models_without_a_difference_are_not_shown_to_be_equal() -> None:
    labels = np.arange(100) % 2
    found = compare_predictions(labels, labels, labels, 2)
    assert found.acc.high == -found.acc.low == pytest.approx(1 - 0.025 ** (1 / 100))  # 0 of 100 differ


def test_predictions_must_be_of_the_same_images() -> None:
    with pytest.raises(UsageError, match="3 and 2 predictions for 3 images"):
        compare_predictions(np.zeros(3, int), np.zeros(3, int), np.zeros(2, int), 2)


@pytest.mark.slow
def test_the_interval_covers_the_true_difference() -> None:
    random = np.random.default_rng(3)
    true = 0.2 * 0.5 - 0.8 * 0.04
    found = [compare_predictions(*draw(random, 150), 3, n_resamples=300) for _ in range(1000)]
    for intervals in ([f.acc for f in found], [f.macro_recall for f in found]):
        assert 0.92 <= np.mean([i.low <= true <= i.high for i in intervals]) <= 0.97
