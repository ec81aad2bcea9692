"""Pseudo-labels of probabilities: estimated frequencies and thresholds as in their papers."""

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
    found = at_estimated_frequencies(rows, np.ones(3) / 3)
    np.testing.assert_allclose(found.mean(axis=0), np.bincount(labels) / len(labels), atol=0.01)
    assert (found.argmax(1) == labels).mean() >= (rows.argmax(1) == labels).mean()


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(5, 40), st.integers(2, 4))
def test_the_estimate_has_the_highest_likelihood(seed, images, classes):
    rows = probabilities(seed, images, classes, 1.5)
    prior = np.random.default_rng(seed).dirichlet(np.full(classes, 5.0))
    found = at_estimated_frequencies(rows, prior).mean(axis=0)

    def loss(free: np.ndarray) -> float:
        return -np.log((rows / prior) @ softmax(np.append(free, 0.0))).mean()

    best = min(minimize(loss, start, method="L-BFGS-B").fun for start in (np.zeros(classes - 1), np.ones(classes - 1)))
    assert -np.log((rows / prior) @ found).mean() <= best + 1e-4


def test_the_prior_of_the_model_is_taken_out():
    """A model trained on images of which 90 % are of the first class, applied to images of equal frequencies."""
    _, rows = calibrated([0.5, 0.5], 20_000)
    prior = np.array([0.9, 0.1])
    biased = rows * prior / (rows * prior).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(at_estimated_frequencies(biased, prior), at_estimated_frequencies(rows, np.ones(2)))


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
    labels, best = pseudo_labels(rows, prior)
    assert labels.shape == best.shape == (images,)
    if not images:
        return
    adjusted = at_estimated_frequencies(rows, prior)
    thresholds = class_thresholds(adjusted)
    for row, label, probability in zip(adjusted, labels, best, strict=True):
        assert probability == pytest.approx(row.max())
        assert label == (row.argmax() if row.max() > thresholds[row.argmax()] else -1)
