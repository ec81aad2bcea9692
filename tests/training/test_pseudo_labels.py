"""Pseudo-labels of probabilities: alignment and thresholds as in their papers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animals_pl.training.pseudo_labels import CONFIDENCE, align, class_thresholds, pseudo_labels


def probabilities(seed: int, images: int, classes: int, sharpness: float = 6.0) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(0, sharpness, (images, classes))
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


@given(st.integers(0, 10**6), st.integers(1, 60), st.integers(2, 8))
def test_aligned_rows_are_probabilities_in_the_proportions_of_remixmatch(seed, images, classes):
    given_rows = probabilities(seed, images, classes, 2.0)
    frequencies = np.random.default_rng(seed).integers(1, 50, classes)
    aligned = align(given_rows, frequencies)
    np.testing.assert_allclose(aligned.sum(axis=1), 1)
    # Normalize(q * p(y) / p~(y)), row by row
    for row, expected in zip(aligned, given_rows, strict=True):
        product = [q * p / mean for q, p, mean in zip(expected, frequencies, given_rows.mean(axis=0), strict=True)]
        np.testing.assert_allclose(row, np.array(product) / sum(product))


def test_alignment_changes_nothing_if_the_mean_prediction_has_the_frequencies():
    rows = probabilities(0, 40, 4)
    np.testing.assert_allclose(align(rows, rows.mean(axis=0) * 1000), rows)


def test_a_class_without_labelled_images_gets_no_pseudo_label():
    labels, _ = pseudo_labels(probabilities(1, 200, 3), np.array([10, 0, 20]))
    assert not (labels == 1).any()
    assert (labels == 0).any()
    assert (labels == 2).any()


def test_thresholds_are_those_of_flexmatch():
    # 40, 10 and 0 confident images: b = 1, 1/4 and 0
    rows = np.array([[0.98, 0.01, 0.01]] * 40 + [[0.01, 0.98, 0.01]] * 10 + [[0.2, 0.2, 0.6]] * 5)
    np.testing.assert_allclose(class_thresholds(rows), [0.95, 0.95 * 0.25 / 1.75, 0])


def test_no_class_has_confident_images():
    rows = np.full((4, 2), 0.5)
    np.testing.assert_array_equal(class_thresholds(rows), [0, 0])


@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(2, 8))
def test_labels_are_the_most_probable_classes_above_their_threshold(seed, images, classes):
    rows, frequencies = probabilities(seed, images, classes), np.ones(classes)
    labels, best = pseudo_labels(rows, frequencies)
    assert labels.shape == best.shape == (images,)
    if not images:
        return
    aligned = align(rows, frequencies)
    thresholds = class_thresholds(aligned)
    for row, label, probability in zip(aligned, labels, best, strict=True):
        assert probability == pytest.approx(row.max())
        assert label == (row.argmax() if row.max() > thresholds[row.argmax()] else -1)
    most = np.bincount(labels[best > CONFIDENCE], minlength=classes)
    if most.max() > 0:  # the class with the most confident images keeps the full threshold
        assert (best[labels == most.argmax()] > CONFIDENCE - 1e-12).all()
