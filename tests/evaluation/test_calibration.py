"""Calibration against netcal's values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from sklearn.calibration import calibration_curve
from sklearn.metrics import log_loss

from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import (
    TEMPERATURE_RANGE,
    calibrated_log_probabilities,
    calibrated_probabilities,
    expected_calibration_error,
    fit_temperature,
    log_prior_shift,
    negative_log_likelihood,
    reliability_bins,
)

IMAGES = np.arange(400)
LABELS = IMAGES % 4
LOGITS = 3 * np.sin(1.7 * IMAGES[:, None] + np.arange(4) * 2.3) + 4 * np.eye(4)[LABELS] * (
    np.cos(IMAGES)[:, None] > -0.6
)
"""Too confident logits of 4 classes by a formula, which other implementations were given as well."""


def test_the_temperature_is_netcal_s() -> None:
    # netcal 1.4.0: 1 / TemperatureScaling().fit(softmax(LOGITS), LABELS).temperature
    assert fit_temperature(LOGITS, LABELS) == pytest.approx(2.44528622, rel=1e-4)


@settings(deadline=None, max_examples=100)
@given(st.integers(2, 6), st.floats(0.05, 30), st.integers(0, 1000), st.booleans())
def test_the_temperature_is_that_of_a_search_over_its_logarithm(
    classes: int, scale: float, seed: int, prior: bool
) -> None:
    random = np.random.default_rng(seed)
    labels = random.integers(classes, size=40)
    logits = scale * (random.normal(size=(40, classes)) + np.eye(classes)[labels])
    counts = np.bincount(labels, minlength=classes)
    shift = log_prior_shift(counts, np.ones(classes)) if prior else np.zeros(classes)

    def loss(log_temperature: float) -> float:
        log_probabilities = calibrated_log_probabilities(logits, np.exp(log_temperature), shift)
        return float(negative_log_likelihood(log_probabilities, labels).mean())

    bounds = np.log(TEMPERATURE_RANGE)
    found = minimize_scalar(loss, bounds=bounds, method="bounded", options={"xatol": 1e-7})
    expected = np.exp(min(found.x, *bounds, key=loss))
    assert fit_temperature(logits, labels, shift) == pytest.approx(expected, rel=1e-3)


# netcal 1.4.0: ECE(bins).measure(softmax(LOGITS / temperature), LABELS)
@pytest.mark.parametrize(
    ("temperature", "bins", "expected"),
    [
        (0.8, 15, 0.28897512736369707),
        (2.4, 10, 0.15156401861044244),
        (2.4, 15, 0.14555731790635862),
        (6.0, 10, 0.17888041291324688),
        (6.0, 15, 0.19112875047316785),
    ],
)
def test_the_calibration_error_is_netcal_s(temperature: float, bins: int, expected: float) -> None:
    probabilities = calibrated_probabilities(LOGITS, temperature)
    assert expected_calibration_error(probabilities, LABELS, bins) == pytest.approx(expected, rel=1e-9)


def test_temperature_lowers_the_loss_and_the_calibration_error_and_keeps_the_predictions() -> None:
    temperature = fit_temperature(LOGITS, LABELS)
    before, after = calibrated_probabilities(LOGITS), calibrated_probabilities(LOGITS, temperature)
    assert log_loss(LABELS, after) < log_loss(LABELS, before)
    assert expected_calibration_error(after, LABELS) < expected_calibration_error(before, LABELS)
    np.testing.assert_array_equal(after.argmax(1), before.argmax(1))


@settings(deadline=None, max_examples=30)
@given(st.floats(0.3, 5), st.integers(0, 1000))
def test_the_temperature_of_labels_drawn_from_the_probabilities_is_found(true: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    logits = random.normal(size=(20_000, 4)) * 2 * true
    cumulative = calibrated_probabilities(logits, true).cumsum(1)
    labels = (random.random((len(logits), 1)) > cumulative[:, :-1]).sum(1)
    assert fit_temperature(logits, labels) == pytest.approx(true, rel=0.06)


def test_the_temperature_is_fitted_with_the_prior_of_the_images() -> None:
    random = np.random.default_rng(0)
    shift = log_prior_shift(np.array([80, 15, 5]), np.ones(3))
    logits = random.normal(size=(50_000, 3)) * 4
    cumulative = calibrated_probabilities(logits, 2.0, shift).cumsum(1)
    labels = (random.random((len(logits), 1)) > cumulative[:, :-1]).sum(1)
    assert fit_temperature(logits, labels, shift) == pytest.approx(2, rel=0.03)
    assert fit_temperature(logits, labels) > 2.2  # without it, the temperature makes up for the prior


@pytest.mark.parametrize(("sign", "expected"), [(1, TEMPERATURE_RANGE[0]), (-1, TEMPERATURE_RANGE[1])])
def test_the_temperature_stays_in_its_range_where_all_images_are_right_or_wrong(sign: int, expected: float) -> None:
    logits = sign * np.eye(3)[[0, 1, 2, 0]]
    assert fit_temperature(logits, np.array([0, 1, 2, 0])) == expected


def test_large_logits_give_finite_probabilities() -> None:
    logits = np.array([[1e4, 0, -1e4], [0.0, 1e4, 0.0]])
    assert fit_temperature(logits, np.array([0, 1])) == 1
    assert np.isfinite(calibrated_log_probabilities(logits)).all()
    assert calibrated_probabilities(logits).sum(1).tolist() == [1, 1]


def test_a_temperature_needs_images_and_finite_logits() -> None:
    with pytest.raises(UsageError, match="no images"):
        fit_temperature(np.empty((0, 3)), np.empty(0, int))
    with pytest.raises(UsageError, match="not finite"):
        fit_temperature(np.array([[np.nan, 1.0]]), np.array([0]))


def test_the_shift_changes_the_prior_of_bayes_rule() -> None:
    likelihood = np.random.default_rng(1).dirichlet(np.ones(3), 20)
    model, target = np.array([0.2, 0.3, 0.5]), np.array([0.7, 0.3, 0.0])
    posterior = likelihood * model
    expected = likelihood * target / (likelihood * target).sum(1, keepdims=True)
    shift = log_prior_shift(10 * target, 20 * model)
    np.testing.assert_allclose(calibrated_probabilities(np.log(posterior), 1.0, shift), expected, atol=1e-12)


def test_equal_priors_shift_nothing() -> None:
    assert log_prior_shift(np.array([2, 4]), np.array([0.1, 0.2])) == pytest.approx([0, 0])


@pytest.mark.parametrize(
    ("target", "model", "message"),
    [
        ([1, 1, 1], [1, 1], "3 frequencies for 2 classes"),
        ([-1, 2], [1, 1], "negative"),
        ([0, 0], [1, 1], "only zeros"),
        ([np.nan, 1], [1, 1], "not a number"),
        ([1, 1], [0, 1], "not above 0"),
    ],
)
def test_a_prior_that_is_none_is_refused(target: list[float], model: list[float], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        log_prior_shift(np.array(target), np.array(model))


def test_the_mean_negative_log_likelihood_is_scikit_learn_s_log_loss() -> None:
    scores = calibrated_log_probabilities(LOGITS)
    assert negative_log_likelihood(scores, LABELS).mean() == pytest.approx(log_loss(LABELS, np.exp(scores)))


def test_the_reliability_bins_are_scikit_learn_s() -> None:
    probabilities = calibrated_probabilities(LOGITS, 3.0)
    correct = probabilities.argmax(1) == LABELS
    accuracy, confidence = calibration_curve(correct, probabilities.max(1), n_bins=15)
    bins = reliability_bins(probabilities, LABELS)
    filled = bins.counts > 0
    np.testing.assert_allclose(bins.accuracy[filled], accuracy)
    np.testing.assert_allclose(bins.confidence[filled], confidence)
    assert bins.counts.sum() == len(LABELS)
    assert np.isnan(bins.accuracy[~filled]).all()
    gap = np.abs(bins.accuracy - bins.confidence)[filled] @ bins.counts[filled] / len(LABELS)
    assert expected_calibration_error(probabilities, LABELS) == pytest.approx(gap)


def test_a_confidence_of_one_is_in_the_last_bin() -> None:
    probabilities = np.array([[1.0, 0.0], [0.0, 1.0], [0.96, 0.04]])
    bins = reliability_bins(probabilities, np.array([0, 0, 0]))
    assert bins.counts.tolist() == [0] * 14 + [3]
    assert bins.accuracy[-1] == pytest.approx(2 / 3)
    assert expected_calibration_error(probabilities, np.array([0, 0, 0])) == pytest.approx((2.96 - 2) / 3)
