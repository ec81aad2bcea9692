"""Intervals against statsmodels' values, and their exact coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from animals_pl.evaluation.intervals import (
    clopper_pearson_upper,
    images_needed,
    independent_images,
    macro_trials,
    too_few,
    wilson,
    wilson_from_standard_error,
    wilson_interval,
)

COUNTS = st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))

# statsmodels 0.15.0: proportion_confint(successes, n, method="wilson"), and the upper end of method="beta", alpha=0.1
STATSMODELS = {
    (0, 10): ((0.0, 0.27753279986288926), 0.2588655508930523),
    (3, 10): ((0.10779126740630104, 0.6032218525388546), 0.6066242161054123),
    (29, 31): ((0.7928136326370187, 0.9821252164780855), 0.9884146841385564),
    (100, 100): ((0.9630065017930143, 1.0), 1.0),
    (57, 598): ((0.0742982305717679, 0.12150326680530543), 0.11742465946351785),
}


@pytest.mark.parametrize(("counts", "expected"), STATSMODELS.items())
def test_intervals_are_those_of_statsmodels(
    counts: tuple[int, int], expected: tuple[tuple[float, float], float]
) -> None:
    np.testing.assert_allclose(wilson(*counts), expected[0], rtol=1e-12)
    np.testing.assert_allclose(clopper_pearson_upper(*counts), expected[1], rtol=1e-9)


def test_intervals_of_arrays_are_those_of_their_elements() -> None:
    successes, n = np.array(list(STATSMODELS)).T
    for function in (wilson, clopper_pearson_upper):
        together = np.array(function(successes, n))
        np.testing.assert_array_equal(together.T, [function(*counts) for counts in STATSMODELS])


@given(COUNTS, st.floats(0.5, 0.999))
def test_an_interval_holds_its_proportion_and_is_mirrored_for_failures(
    counts: tuple[int, int], confidence: float
) -> None:
    successes, n = counts
    low, high = wilson(successes, n, confidence)
    assert 0 <= low <= successes / n <= high <= 1
    mirrored = wilson(n - successes, n, confidence)
    np.testing.assert_allclose((low, high), (1 - mirrored[1], 1 - mirrored[0]), atol=1e-12)


def test_nothing_is_known_without_images() -> None:
    assert wilson(0, 0) == (0, 1)
    assert clopper_pearson_upper(0, 0) == 1
    interval = wilson_interval(0, 0)
    assert np.isnan(interval.value)
    assert (interval.low, interval.high) == (0, 1)


def exact_coverage(n: int, p: float, low: np.ndarray, high: np.ndarray) -> float:
    """Probability that the interval of a binomial count holds p."""
    return float(stats.binom.pmf(np.arange(n + 1), n, p)[(low <= p) & (p <= high)].sum())


@pytest.mark.parametrize("n", [10, 31, 100])
def test_wilson_covers_95_percent_on_average_over_all_proportions(n: int) -> None:
    low, high = wilson(np.arange(n + 1), n)
    coverage = [exact_coverage(n, p, low, high) for p in np.linspace(0.0005, 0.9995, 1000)]
    assert np.mean(coverage) == pytest.approx(0.95, abs=0.01)


@pytest.mark.parametrize("n", [10, 31, 100])
@pytest.mark.parametrize("p", [0.5, 0.8, 0.9, 0.97])
def test_simulated_images_are_covered_as_often_as_the_binomial_sum_says(n: int, p: float) -> None:
    successes = (np.random.default_rng(n).random((20_000, n)) < p).sum(1)
    low, high = wilson(successes, n)
    simulated = np.mean((low <= p) & (p <= high))
    # the score test |successes - np| ≤ z·√(np(1 - p)), which Wilson's interval inverts
    count = np.arange(n + 1)
    accepted = np.abs(count - n * p) <= stats.norm.isf(0.025) * np.sqrt(n * p * (1 - p))
    assert simulated == pytest.approx(stats.binom.pmf(count, n, p)[accepted].sum(), abs=0.01)


@given(COUNTS, st.floats(0.5, 0.999))
def test_clopper_pearson_bounds_invert_the_binomial_tail(counts: tuple[int, int], confidence: float) -> None:
    successes, n = counts
    upper = clopper_pearson_upper(successes, n, confidence)
    if successes < n:
        assert stats.binom.cdf(successes, n, upper) == pytest.approx(1 - confidence, rel=1e-6)
    else:
        assert upper == 1


@pytest.mark.parametrize(("bound", "images"), [(0.03, 99), (1 / 200, 598), (0.05, 59), (1 - 0.95, 59), (0.5, 5)])
def test_images_needed_are_the_fewest_whose_bound_is_low_enough(bound: float, images: int) -> None:
    assert images_needed(bound) == images
    assert clopper_pearson_upper(0, images) <= bound < clopper_pearson_upper(0, images - 1)


@given(COUNTS)
def test_the_standard_error_of_a_proportion_gives_its_wilson_interval(counts: tuple[int, int]) -> None:
    successes, n = counts
    p = successes / n
    found = wilson_from_standard_error(p, np.sqrt(p * (1 - p) / n), n)
    np.testing.assert_allclose(found, wilson(successes, n), atol=1e-9)


def test_macro_trials_give_the_variance_of_the_mean_of_the_classes() -> None:
    sizes, p = np.array([30, 60, 0, 100]), 0.8
    variance = sum(p * (1 - p) / n for n in sizes if n) / 9
    assert p * (1 - p) / macro_trials(sizes) == pytest.approx(variance)


def test_duplicates_count_once_and_small_classes_are_flagged() -> None:
    labels = np.repeat([0, 1, 2], [30, 29, 40])
    assert too_few(labels, None, 4).tolist() == [False, True, False, True]
    groups = np.array([*range(59), *np.arange(40) // 2 + 100])
    assert independent_images(labels, groups, 4).tolist() == [30, 29, 20, 0]
    assert too_few(labels, groups, 4).tolist() == [False, True, True, True]


def test_a_group_over_two_classes_counts_in_both() -> None:
    assert independent_images(np.array([0, 0, 1, 1]), np.array(["a", "a", "a", "b"]), 2).tolist() == [1, 2]
