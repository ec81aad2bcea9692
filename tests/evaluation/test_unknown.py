"""Scores of unknown images against pytorch-ood's values, scikit-learn and scipy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf
from sklearn.metrics import roc_curve

from animals_pl.errors import UsageError
from animals_pl.evaluation.unknown import (
    auroc,
    energy,
    fit_feature_model,
    fpr_at_tpr,
    maximum_probability,
    threshold_for_known_rate,
    threshold_for_precision,
)

IMAGES = np.arange(400)
LABELS = IMAGES % 4
LOGITS = 3 * np.sin(1.7 * IMAGES[:, None] + np.arange(4) * 2.3) + 4 * np.eye(4)[LABELS] * (
    np.cos(IMAGES)[:, None] > -0.6
)
FEATURES = np.sin(IMAGES[:, None] * (1 + np.arange(5)) * 0.37) + 2 * np.eye(5)[LABELS]
OTHERS = np.cos(IMAGES[:100, None] * (1 + np.arange(5)) * 0.61) * 2
KNOWN, UNKNOWN = np.sin(IMAGES * 1.3) + 1, np.cos(IMAGES[:300] * 0.7) * 1.5
"""Values by formulas, which pytorch-ood 0.4.0 was given as well."""

SCORES = st.lists(st.integers(-5, 5), min_size=1, max_size=40).map(np.array)


def test_the_energy_is_pytorch_ood_s() -> None:
    # -EnergyBased.score(LOGITS)
    assert energy(LOGITS)[:3] == pytest.approx([4.24399805, 3.56483058, 6.96878641])
    assert energy(np.array([[1000.0, 0.0]]), temperature=2) == pytest.approx([1000])


def test_distances_are_pytorch_ood_s() -> None:
    model = fit_feature_model(FEATURES, LABELS, shrinkage=0)
    # its covariance is not divided by the 400 images; its Mahalanobis distance is halved
    assert model.relative_mahalanobis(OTHERS)[:3] == pytest.approx([-5.903816, -1.2004242, -2.3633673], rel=1e-5)
    assert model.mahalanobis(OTHERS)[:3] == pytest.approx([2 * d for d in (-15.926656, -7.1630545, -11.073017)], 1e-5)


def test_the_rates_are_pytorch_ood_s() -> None:
    # auroc and fpr_at_tpr of -scores, with the known images as the positive ones
    assert auroc(KNOWN, UNKNOWN) == pytest.approx(0.7621916666666666)
    assert fpr_at_tpr(KNOWN, UNKNOWN) == pytest.approx(0.4867, abs=5e-5)
    assert fpr_at_tpr(KNOWN, UNKNOWN, 0.8) == pytest.approx(0.46)


def test_distances_use_the_shrunk_covariance_around_the_class_means() -> None:
    model = fit_feature_model(FEATURES, LABELS)
    means = np.stack([FEATURES[label == LABELS].mean(0) for label in range(4)])
    within = LedoitWolf(assume_centered=True).fit(FEATURES - means[LABELS])
    whole = LedoitWolf().fit(FEATURES)
    distance = cdist(OTHERS, means, "mahalanobis", VI=within.precision_) ** 2
    background = cdist(OTHERS, whole.location_[None], "mahalanobis", VI=whole.precision_) ** 2
    np.testing.assert_allclose(model.mahalanobis(OTHERS), -distance.min(1), rtol=1e-8)
    np.testing.assert_allclose(model.relative_mahalanobis(OTHERS), -(distance - background).min(1), rtol=1e-7)
    np.testing.assert_allclose(model.cosine(OTHERS), 1 - cdist(OTHERS, means, "cosine").min(1), rtol=1e-9)


def test_distances_do_not_change_with_the_scale_and_origin_of_the_features() -> None:
    moved = fit_feature_model(1000 * FEATURES + 50_000, LABELS)
    model = fit_feature_model(FEATURES, LABELS)
    np.testing.assert_allclose(moved.mahalanobis(1000 * OTHERS + 50_000), model.mahalanobis(OTHERS), rtol=1e-6)


def test_more_features_than_images_need_shrinkage() -> None:
    features = np.random.default_rng(0).normal(size=(20, 50))
    labels = np.arange(20) % 2
    assert np.isfinite(fit_feature_model(features, labels).mahalanobis(features)).all()
    with pytest.raises(UsageError, match=r"features of 20 images with 50 values .* shrinkage=None"):
        fit_feature_model(features, labels, shrinkage=0)
    with pytest.raises(UsageError, match="singular"):
        fit_feature_model(np.ones((20, 3)), labels)


def test_classes_without_images_have_no_mean() -> None:
    model = fit_feature_model(FEATURES[LABELS != 1], LABELS[LABELS != 1])
    assert model.means.shape == (3, 5)


def test_the_maximum_probability_is_that_of_the_prediction() -> None:
    assert maximum_probability(np.array([[0.2, 0.5, 0.3], [1, 0, 0]])).tolist() == [0.5, 1]


@given(SCORES, SCORES)
def test_auroc_counts_pairs_and_half_of_the_ties(known: np.ndarray, unknown: np.ndarray) -> None:
    difference = known[:, None] - unknown
    assert auroc(known, unknown) == pytest.approx(np.mean((difference > 0) + 0.5 * (difference == 0)))


@given(SCORES, SCORES, st.sampled_from([0.5, 0.8, 0.95, 1.0]))
def test_the_false_positive_rate_is_that_of_the_roc_curve(known: np.ndarray, unknown: np.ndarray, rate: float) -> None:
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    false, true, _ = roc_curve(truth, np.concatenate([known, unknown]), drop_intermediate=False)
    assert fpr_at_tpr(known, unknown, rate) == pytest.approx(false[np.argmax(true >= rate - 1e-9)])


@given(SCORES, st.sampled_from([0.1, 0.5, 0.9, 0.95, 1.0]))
def test_the_threshold_is_the_highest_that_enough_known_images_reach(known: np.ndarray, rate: float) -> None:
    threshold = threshold_for_known_rate(known, rate)
    assert np.mean(known >= threshold) >= rate - 1e-9
    assert np.mean(known > threshold) < rate


def test_19_of_20_images_are_95_percent() -> None:
    assert threshold_for_known_rate(np.arange(20)) == 1


@given(st.lists(st.tuples(st.integers(0, 8), st.booleans()), min_size=1, max_size=40), st.sampled_from([0.3, 0.9, 1]))
def test_the_threshold_for_a_precision_is_the_lowest_that_has_it(images: list, precision: float) -> None:
    scores, correct = (np.array(values) for values in zip(*images, strict=True))
    reached = [t for t in np.unique(scores) if correct[scores >= t].mean() >= precision - 1e-9]
    assert threshold_for_precision(scores, correct, precision) == (min(reached) if reached else None)
