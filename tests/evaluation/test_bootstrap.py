"""The bootstrap over groups: its numbers, and the coverage of its intervals by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_array
from sklearn.metrics import balanced_accuracy_score, f1_score

from animals_pl.evaluation.bootstrap import ece_standard_error, group_bootstrap, indicator, metric_intervals
from animals_pl.evaluation.calibration import expected_calibration_error
from animals_pl.evaluation.comparison import compare_predictions
from animals_pl.evaluation.intervals import wilson

RANDOM = np.random.default_rng(5)


def draw(random: np.random.Generator, recall: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of as many images of each class; mistakes go to the next class."""
    labels = np.repeat(np.arange(len(recall)), sizes)
    right = random.random(len(labels)) < recall[labels]
    return labels, np.where(right, labels, (labels + 1) % len(recall))


def test_values_are_those_of_the_images_themselves() -> None:
    labels, predictions = draw(RANDOM, np.array([0.6, 0.9, 0.8]), np.array([20, 30, 50]))
    losses = RANDOM.exponential(size=100)
    metrics = metric_intervals(labels, predictions, 4, losses=losses).metrics
    assert {name: interval.value for name, interval in metrics.items()} == pytest.approx(
        {
            "acc": np.mean(labels == predictions),
            "macro_recall": balanced_accuracy_score(labels, predictions),
            "macro_f1": f1_score(labels, predictions, labels=[0, 1, 2], average="macro"),
            "loss": losses.mean(),
        }
    )
    for interval in metrics.values():
        assert interval.low < interval.value < interval.high


def test_the_images_are_left_as_they_were() -> None:
    labels, predictions = draw(RANDOM, np.array([0.5, 0.5]), np.array([20, 20]))
    before = labels.copy(), predictions.copy()
    metric_intervals(labels, predictions, 2)
    ece_standard_error(np.eye(2)[predictions], labels)
    compare_predictions(labels, predictions, labels, 2)
    np.testing.assert_array_equal((labels, predictions), before)


def test_sums_have_the_variance_of_independent_groups() -> None:
    labels, groups = np.repeat([0, 1], [200, 80]), np.concatenate([np.arange(200) // 4, 50 + np.arange(80) // 2])
    values = RANDOM.normal(size=280) + RANDOM.normal(size=90)[groups]
    totals = group_bootstrap(csr_array(values[:, None]), groups, labels, n_resamples=20_000)[:, 0]
    sums = np.bincount(groups, weights=values)
    expected = 50 * sums[:50].var(ddof=1) + 40 * sums[50:].var(ddof=1)
    assert totals.mean() == pytest.approx(values.sum(), abs=4 * np.sqrt(expected / 20_000))
    assert totals.var(ddof=1) == pytest.approx(expected, rel=0.04)


def test_resamples_do_not_depend_on_how_many_are_drawn_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    labels = np.repeat([0, 1, 2], [5, 1, 30])
    matrix = indicator(labels, 3)
    whole = group_bootstrap(matrix, strata=labels, n_resamples=50)
    np.testing.assert_allclose(whole, np.tile([5, 1, 30], (50, 1)))  # strata keep their sizes
    monkeypatch.setattr("animals_pl.evaluation.bootstrap.MOST_WEIGHTS", 100)
    np.testing.assert_allclose(group_bootstrap(matrix, strata=labels, n_resamples=50), whole)


def test_no_class_vanishes_and_a_single_group_is_in_every_resample() -> None:
    labels, predictions = np.array([0] * 40 + [1, 1, 2]), np.array([0] * 30 + [1] * 10 + [1, 0, 2])
    groups = np.array([*range(40), 40, 40, 41])
    totals = group_bootstrap(indicator(labels, 3, labels == predictions), groups, labels)
    assert set(totals[:, 1]) == {1}
    assert set(totals[:, 2]) == {1}
    assert totals[:, 0].std() > 0
    assert np.isfinite([interval.low for interval in metric_intervals(labels, predictions, 3).metrics.values()]).all()


def test_a_group_may_hold_images_of_several_classes() -> None:
    labels, groups = np.arange(120) % 3, np.arange(120) // 12
    predictions = np.where(groups % 5 == 0, 0, labels)
    interval = metric_intervals(labels, predictions, 3, groups=groups).metrics["macro_recall"]
    alone = metric_intervals(labels, predictions, 3).metrics["macro_recall"]
    assert interval.value == alone.value
    assert interval.high - interval.low > 1.3 * (alone.high - alone.low)


def test_copies_of_images_add_nothing() -> None:
    labels, predictions = draw(RANDOM, np.array([0.7, 0.9]), np.array([40, 60]))
    once = metric_intervals(labels, predictions, 2).metrics
    copied = metric_intervals(*(np.repeat(a, 5) for a in (labels, predictions)), 2, groups=np.arange(500) // 5).metrics
    for name, interval in once.items():
        assert (copied[name].low, copied[name].high) == pytest.approx((interval.low, interval.high))


def test_the_interval_does_not_shrink_to_a_point_where_all_images_are_right() -> None:
    labels = np.repeat([0, 1, 2], [30, 60, 0])
    found = metric_intervals(labels, labels, 3)
    assert found.metrics["acc"].low == pytest.approx(float(wilson(90, 90)[0]))
    assert found.metrics["macro_recall"].low == pytest.approx(float(wilson(80, 80)[0]))  # 4 / (1/30 + 1/60)
    first, second, absent = found.f1_per_class
    assert first is not None
    assert second is not None
    assert (first.low, second.low) == pytest.approx(tuple(float(wilson(n, n)[0]) for n in (30, 60)))
    assert absent is None


def test_thousand_classes_need_little_memory() -> None:
    labels = np.arange(20_000) % 1000
    predictions = np.where(RANDOM.random(20_000) < 0.8, labels, RANDOM.integers(0, 1000, 20_000))
    found = metric_intervals(labels, predictions, 1000, n_resamples=100)
    low, high = wilson((labels == predictions).sum(), 20_000)
    assert found.metrics["acc"].low == pytest.approx(low, abs=0.002)
    assert found.metrics["acc"].high == pytest.approx(high, abs=0.002)


def test_the_same_seed_gives_the_same_interval() -> None:
    labels, predictions = draw(RANDOM, np.array([0.7, 0.9]), np.array([40, 60]))
    once, again, other = (metric_intervals(labels, predictions, 2, seed=seed) for seed in (0, 0, 1))
    assert once == again != other


def test_the_standard_error_of_the_calibration_error_is_its_spread_over_samples() -> None:
    random = np.random.default_rng(0)
    confidence = random.uniform(0.5, 1, 400 * 400)
    probabilities = np.stack([confidence, 1 - confidence], 1).reshape(400, 400, 2)
    labels = (random.random((400, 400)) > probabilities[..., 0] ** 2).astype(int)  # too confident by up to 0.25
    values = [expected_calibration_error(*sample) for sample in zip(probabilities, labels, strict=True)]
    errors = [ece_standard_error(p, y, n_resamples=200) for p, y in zip(probabilities[:50], labels, strict=False)]
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.12)


def test_the_standard_error_of_the_calibration_error_grows_with_duplicates() -> None:
    probabilities, labels = RANDOM.dirichlet(np.ones(2), 300), RANDOM.integers(0, 2, 300)
    copied, copies = np.repeat(probabilities, 4, axis=0), np.repeat(labels, 4)
    error = ece_standard_error(probabilities, labels)
    assert ece_standard_error(copied, copies, groups=np.arange(1200) // 4) == pytest.approx(error)
    assert ece_standard_error(copied, copies) < 0.65 * error


TEN = np.full(10, 30)
SETTINGS = {
    "all 0.9": (np.full(10, 0.9), TEN, 1),
    "all 0.97": (np.full(10, 0.97), TEN, 1),
    "0.6 to 0.99": (np.linspace(0.6, 0.99, 10), TEN, 1),
    "one hard class": (np.array([0.99] * 9 + [0.7]), TEN, 1),
    "two classes": (np.array([0.9, 0.8]), TEN[:2], 1),
    "30 to 300 images": (np.linspace(0.99, 0.7, 10), np.linspace(30, 300, 10).astype(int), 1),
    "30 groups of 1 to 4 images": (np.linspace(0.6, 0.99, 10), TEN, 4),
    "fifty classes": (np.linspace(0.8, 0.99, 50), np.full(50, 30), 1),
}


def simulate_coverage(recall: np.ndarray, sizes: np.ndarray, most: int, samples: int) -> float:
    """Share of samples whose interval holds the true macro recall; images of a group are all right or all wrong."""
    random = np.random.default_rng(17)
    covered = 0
    for _ in range(samples):
        labels, predictions = draw(random, recall, sizes)
        copies = random.integers(1, most + 1, len(labels))
        images = (np.repeat(a, copies) for a in (labels, predictions))
        groups = np.repeat(np.arange(len(labels)), copies)
        found = metric_intervals(*images, len(recall), groups=groups, n_resamples=300).metrics["macro_recall"]
        covered += found.low <= recall.mean() <= found.high
    return covered / samples


@pytest.mark.slow
@pytest.mark.parametrize(("recall", "sizes", "most"), SETTINGS.values(), ids=SETTINGS)
def test_the_interval_of_macro_recall_covers_92_to_97_percent(recall: np.ndarray, sizes: np.ndarray, most: int) -> None:
    assert 0.92 <= simulate_coverage(recall, sizes, most, 600) <= 0.97


def test_macro_f1_of_a_class_that_is_hardly_found_is_not_too_sure() -> None:
    """In small samples, a class with a recall near 0 has no hits in most resamples, and so no variance."""
    recall, size = np.array([0.05, 0.96, 0.96]), 10
    rng, covered, samples = np.random.default_rng(0), 0, 200
    labels = np.repeat(np.arange(3), size)
    population = np.repeat(np.arange(3), 20_000)

    def predict(truth: np.ndarray) -> np.ndarray:
        return np.where(rng.random(len(truth)) < recall[truth], truth, (truth + 1) % 3)

    true_value = f1_score(population, predict(population), average="macro")
    for seed in range(samples):
        found = metric_intervals(labels, predict(labels), 3, n_resamples=200, seed=seed).metrics["macro_f1"]
        covered += found.low <= true_value <= found.high
    assert covered / samples >= 0.92
