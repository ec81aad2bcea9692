"""Pseudo-labels from probabilities: frequencies as in Saerens et al., thresholds as in FlexMatch."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize
from scipy.special import softmax

from animals_pl.training.pseudo_labels import (
    CONFIDENCE,
    LEAST_CONFIDENCE,
    PRIOR_WEIGHT,
    at_estimated_frequencies,
    class_thresholds,
    pseudo_labels,
)


def probabilities(seed: int, images: int, classes: int, sharpness: float = 4.0) -> np.ndarray:
    return softmax(np.random.default_rng(seed).normal(0, sharpness, (images, classes)), axis=1)


def calibrated(frequencies: list[float], images: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Labels (N,) with the given frequencies, and probabilities (N, C) of a model with equal priors.

    An image of class c is a normal vector around the unit vector of c, so that the likelihoods are known.
    """
    rng = np.random.default_rng(seed)
    classes = len(frequencies)
    labels = rng.choice(classes, images, p=frequencies)
    points = np.eye(classes)[labels] + rng.normal(0, 0.5, (images, classes))
    return labels, softmax(points / 0.25, axis=1)


@pytest.mark.parametrize("frequencies", [[0.6, 0.3, 0.1], [0.02, 0.08, 0.9], [1 / 3, 1 / 3, 1 / 3]])
def test_the_frequencies_of_the_images_are_found(frequencies):
    labels, rows = calibrated(frequencies, 20_000)
    found = at_estimated_frequencies(rows, np.ones(3) / 3, np.array([5, 4, 6]))
    np.testing.assert_allclose(found.mean(axis=0), np.bincount(labels) / len(labels), atol=0.03)
    assert (found.argmax(1) == labels).mean() >= (rows.argmax(1) == labels).mean()


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(2, 4))
def test_the_estimate_has_the_highest_posterior_density(seed, images, classes):
    rows = probabilities(seed, images, classes, 1.5)
    rng = np.random.default_rng(seed)
    prior, counts = rng.dirichlet(np.full(classes, 5.0)), rng.integers(1, 30, classes)
    labelled = counts / counts.sum()
    adjusted = at_estimated_frequencies(rows, prior, counts)
    found = (adjusted.mean(axis=0) + PRIOR_WEIGHT * labelled) / (1 + PRIOR_WEIGHT)

    def loss(frequencies: np.ndarray) -> float:
        return -np.log((rows / prior) @ frequencies).mean() - PRIOR_WEIGHT * (labelled @ np.log(frequencies))

    starts = (np.zeros(classes - 1), np.ones(classes - 1))
    best = min(minimize(lambda x: loss(softmax(np.append(x, 0.0))), start, method="L-BFGS-B").fun for start in starts)
    assert loss(found) <= best + 1e-4


def test_the_prior_of_the_model_is_taken_out():
    """A model trained on images of which 90 % are of the first class, applied to images of equal frequencies."""
    _, rows = calibrated([0.5, 0.5], 20_000)
    prior, counts = np.array([0.9, 0.1]), np.array([90, 10])
    biased = rows * prior / (rows * prior).sum(axis=1, keepdims=True)
    expected = at_estimated_frequencies(rows, np.ones(2), counts)
    np.testing.assert_allclose(at_estimated_frequencies(biased, prior, counts), expected)


def test_a_class_without_labelled_images_gets_no_pseudo_label():
    labels, _ = pseudo_labels(probabilities(1, 200, 3), np.ones(3), np.array([10, 0, 20]))
    assert set(labels) == {-1, 0, 2}


def test_unsure_predictions_do_not_all_become_one_class():
    """Without the weight of the labelled images, the estimate for random predictions would be a single class."""
    rows = softmax(np.random.default_rng(0).normal(0, 0.3, (60, 3)), axis=1)
    labels, best = pseudo_labels(rows, np.ones(3), np.array([20, 20, 20]))
    assert best.max() < 0.9
    assert (labels >= 0).mean() < 0.2


def test_thresholds_are_those_of_flexmatch_with_a_minimum():
    # 40, 30, 10 and 0 confident images: b = 1, 3/4, 1/4 and 0
    confident = np.full((4, 4), 0.01) + np.eye(4) * 0.96
    rows = np.concatenate([confident[[0] * 40 + [1] * 30 + [2] * 10], np.array([[0.1, 0.1, 0.1, 0.7]] * 5)])
    expected = [CONFIDENCE, CONFIDENCE * 0.75 / 1.25, CONFIDENCE * 0.25 / 1.75, 0]
    assert expected[1] < LEAST_CONFIDENCE
    np.testing.assert_allclose(class_thresholds(rows), np.maximum(expected, LEAST_CONFIDENCE))
    rows = np.concatenate([confident[[0] * 40 + [1] * 38], rows[-5:]])
    np.testing.assert_allclose(class_thresholds(rows)[:2], [CONFIDENCE, CONFIDENCE * 0.95 / 1.05])


def test_no_class_has_confident_images():
    assert class_thresholds(np.full((4, 2), 0.5)).tolist() == [LEAST_CONFIDENCE] * 2


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(2, 8))
def test_labels_are_the_most_probable_classes_above_their_threshold(seed, images, classes):
    rows, prior = probabilities(seed, images, classes), np.ones(classes)
    counts = np.arange(1, classes + 1)
    labels, best = pseudo_labels(rows, prior, counts)
    assert labels.shape == best.shape == (images,)
    if not images:
        return
    adjusted = at_estimated_frequencies(rows, prior, counts)
    thresholds = class_thresholds(adjusted)
    for row, label, probability in zip(adjusted, labels, best, strict=True):
        assert probability == pytest.approx(row.max())
        assert label == (row.argmax() if row.max() > thresholds[row.argmax()] else -1)
