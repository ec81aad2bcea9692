"""Score and threshold of unknown images against pytorch-ood's values, the plain formula and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from animals_pl.evaluation.calibration import Calibration
from animals_pl.evaluation.unknown import called_unknown, fit_unknown_threshold, unknown_scores

IMAGES = np.arange(400)
LOGITS = 3 * np.sin(1.7 * IMAGES[:, None] + np.arange(4) * 2.3) + 4 * np.eye(4)[IMAGES % 4] * (
    np.cos(IMAGES)[:, None] > -0.6
)
SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=60).map(np.array)


def test_the_score_is_pytorch_ood_s_energy_where_the_logits_belong_to_the_training_images() -> None:
    counts = np.array([10, 40, 20, 30])
    for calibration in (Calibration(), Calibration(2.0, counts / 100, counts)):
        # EnergyBased.score(LOGITS) of pytorch-ood 0.4.0
        assert unknown_scores(LOGITS, calibration)[:3] == pytest.approx([-4.24399805, -3.56483058, -6.96878641])


def test_classes_are_weighted_by_their_training_images_whatever_prior_the_logits_belong_to() -> None:
    model, counts = np.array([0.25, 0.25, 0.2, 0.3]), np.array([60, 20, 20, 0])
    expected = -np.log((np.exp(LOGITS) * counts / 100 / model).sum(1))
    calibration = Calibration(1.3, model, counts)
    np.testing.assert_allclose(unknown_scores(LOGITS, calibration), expected, rtol=1e-12)
    np.testing.assert_array_equal(
        unknown_scores(LOGITS, calibration.with_target(np.array([1, 2, 3, 4]))), unknown_scores(LOGITS, calibration)
    )


def test_large_logits_do_not_overflow() -> None:
    assert unknown_scores(np.array([[1000.0, 0.0]]), Calibration()) == pytest.approx([-1000])


@given(SCORES, st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]))
def test_the_threshold_accepts_enough_images_and_no_lower_one_does(scores: np.ndarray, share: float) -> None:
    threshold = fit_unknown_threshold(scores, share)
    assert np.mean(scores <= threshold) >= share - 1e-9
    assert np.mean(scores < scores[scores <= threshold].max()) < share


@pytest.mark.parametrize(("count", "unknown"), [(328, 16), (20, 1), (19, 0), (1, 0)])
def test_at_most_5_percent_of_the_known_images_are_called_unknown(count: int, unknown: int) -> None:
    scores = np.sin(np.arange(count) * 1.3)
    assert (scores > fit_unknown_threshold(scores)).sum() == unknown


def test_the_threshold_is_halfway_between_two_scores() -> None:
    assert fit_unknown_threshold(np.arange(20.0)) == 18.5


def test_the_share_called_unknown_has_wilson_s_interval() -> None:
    scores = unknown_scores(LOGITS, Calibration())
    found = called_unknown(LOGITS, Calibration(unknown_threshold=fit_unknown_threshold(scores, 0.9)))
    low, high = binomtest(40, 400).proportion_ci(method="wilson")
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((0.1, low, high))


def test_without_a_threshold_no_share_is_known() -> None:
    assert called_unknown(LOGITS, Calibration()) is None
