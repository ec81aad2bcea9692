"""Label errors from features: which rows are suspected, and by which classifiers."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from animals_pl.reports import label_errors
from animals_pl.reports.label_errors import out_of_sample_probabilities, suspects

SINGLE = 1000 + np.arange(90)


def separable(counts: list[int], seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, 50) in well separated clusters, and labels (N,)."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    return rng.normal(size=(len(counts), 50))[labels] + rng.normal(0, 0.3, (len(labels), 50)), labels


def test_suspects_have_a_much_more_probable_class_and_are_sorted_by_self_confidence():
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2], [0.2, 0.0, 0.8], [0.24, 0.75, 0.01], [0.0, 0.5, 0.5]]
    )
    assert suspects(probabilities, np.array([0, 0, 0, 1, 0, 2])).tolist() == [3, 2, 4]


def test_unchecked_rows_are_not_suspected():
    probabilities = np.array([[np.nan, np.nan], [0.1, 0.9]])
    assert suspects(probabilities, np.array([0, 0])).tolist() == [1]


def test_no_image_is_predicted_by_a_classifier_trained_on_it_or_its_duplicate(monkeypatch):
    labels = np.repeat([0, 1, 2], 30)
    features = np.random.default_rng(0).normal(size=(90, 4)) + labels[:, None]
    features[:, 0] = np.arange(90)  # identifies the images
    groups = SINGLE.copy()
    groups[[3, 40, 70]], groups[[4, 5]] = 0, 1
    folds: list[tuple[set[int], set[int]]] = []
    fit, predict = LogisticRegression.fit, LogisticRegression.predict_proba
    monkeypatch.setattr(label_errors, "StandardScaler", lambda: "passthrough")

    def record_fit(self, x, y, **options):
        self.trained_on = set(x[:, 0].astype(int))
        return fit(self, x, y, **options)

    def record_predict(self, x):
        folds.append((self.trained_on, set(x[:, 0].astype(int))))
        return predict(self, x)

    monkeypatch.setattr(LogisticRegression, "fit", record_fit)
    monkeypatch.setattr(LogisticRegression, "predict_proba", record_predict)
    probabilities = out_of_sample_probabilities(features, labels, groups)
    assert probabilities.shape == (90, 3)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(90))
    assert len(folds) == label_errors.FOLDS
    assert sorted(index for _, predicted in folds for index in predicted) == list(range(90))
    for trained_on, predicted in folds:
        assert trained_on | predicted == set(range(90))
        assert not trained_on & predicted
        for group in ({3, 40, 70}, {4, 5}):
            assert group <= trained_on or group <= predicted


def test_planted_errors_among_separable_features_are_the_suspects():
    features, labels = separable([60, 40, 20, 12])
    wrong = [0, 61, 105, 121]
    labels[wrong] = (labels[wrong] + 1) % 4
    probabilities = out_of_sample_probabilities(features, labels, np.arange(len(labels)))
    assert sorted(suspects(probabilities, labels)) == wrong


@pytest.mark.parametrize("count", [1, 8], ids=["a single image", "one duplicate group"])
def test_class_without_independent_images_is_unchecked_and_the_others_are_checked(count):
    features, labels = separable([30, 30, count])
    labels[3] = 1
    groups = np.where(labels == 2, -7, np.arange(len(labels)))
    probabilities = out_of_sample_probabilities(features, labels, groups)
    assert (np.isnan(probabilities).any(axis=1) == (labels == 2)).all()
    assert suspects(probabilities, labels).tolist() == [3]


@pytest.mark.parametrize("counts", [[5], [1, 1], [1]])
def test_labels_cannot_be_checked_without_other_images(counts):
    features, labels = separable(counts)
    probabilities = out_of_sample_probabilities(features, labels, np.arange(len(labels)))
    assert np.isnan(probabilities).all()
    assert suspects(probabilities, labels).size == 0
