"""Risk-coverage curves against their definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animals_pl.evaluation.selective import risk_coverage

IMAGES = st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30)


def arrays(images: list[tuple[int, bool]]) -> tuple[np.ndarray, np.ndarray]:
    scores, correct = zip(*images, strict=True)
    return np.array(scores), np.array(correct)


def test_a_curve_worked_by_hand() -> None:
    curve = risk_coverage(np.array([0.9, 0.8, 0.7, 0.6]), np.array([True, False, True, False]))
    assert curve.coverage.tolist() == [0.25, 0.5, 0.75, 1]
    assert curve.risk == pytest.approx([0, 1 / 2, 1 / 3, 2 / 4])
    assert curve.aurc == pytest.approx((0 + 1 / 2 + 1 / 3 + 1 / 2) / 4)
    # the best order has its errors last: risks 0, 0, 1/3, 2/4
    assert curve.excess_aurc == pytest.approx(curve.aurc - (1 / 3 + 1 / 2) / 4)


@given(IMAGES)
def test_tied_images_count_as_in_random_order(images: list[tuple[int, bool]]) -> None:
    scores, correct = arrays(images)
    curve = risk_coverage(scores, correct)
    random = np.random.default_rng(0)
    shuffled = random.permutation(len(scores))
    assert risk_coverage(scores[shuffled], correct[shuffled]).risk == pytest.approx(curve.risk)
    for threshold in np.unique(scores):  # at the end of a tie the order does not matter
        accepted = scores >= threshold
        assert curve.risk[accepted.sum() - 1] == pytest.approx(np.mean(~correct[accepted]))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_the_excess_is_zero_for_the_best_order_only(correct: list[bool]) -> None:
    right = np.array(correct)
    best = risk_coverage(right.astype(float) + np.linspace(0, 0.5, len(right)), right)
    assert best.excess_aurc == pytest.approx(0, abs=1e-12)
    worst = risk_coverage(-right.astype(float), right)
    assert (worst.excess_aurc > 1e-9) == (0 < right.sum() < len(right))


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_scores_without_information_have_the_error_rate_everywhere(correct: list[bool]) -> None:
    right = np.array(correct)
    assert risk_coverage(np.zeros(len(right)), right).risk == pytest.approx(np.full(len(right), np.mean(~right)))
