"""The benchmark of scores of unknown images: separation against pytorch-ood's values, scores against scipy, table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from scipy.spatial.distance import cdist
from sklearn.covariance import LedoitWolf

from animals_pl.evaluation.calibration import Calibration
from animals_pl.evaluation.unknown import unknown_scores
from scripts.bench.unknown import Fold, Images, Separation, saved, scores, separation, table

IMAGES = np.arange(400)
LABELS = IMAGES % 4
KNOWN, UNKNOWN = np.sin(IMAGES * 1.3) + 1, np.cos(IMAGES[:300] * 0.7) * 1.5


def test_rates_are_pytorch_ood_s() -> None:
    # auroc and fpr_at_tpr of pytorch-ood 0.4.0
    found = separation(KNOWN, LABELS, UNKNOWN)
    assert found.auroc == pytest.approx(0.7621916666666666)
    assert found.fpr == pytest.approx(0.4867, abs=5e-5)


def test_macro_tpr_is_the_mean_over_the_classes() -> None:
    found = separation(np.arange(20.0), np.array([0] * 2 + [1] * 18), np.array([-1.0]))
    assert found == Separation(1.0, 0.0, (1 / 2 + 1) / 2)


def test_scores_of_feature_space_and_of_the_product() -> None:
    features = np.sin(IMAGES[:, None] * (1 + np.arange(5)) * 0.37) + 2 * np.eye(5)[LABELS]
    others = Images(np.cos(IMAGES[:50, None] * (1 + np.arange(5)) * 0.61), np.sin(IMAGES[:50, None] + np.arange(4)))
    calibration = Calibration(0.9, np.full(4, 0.25), np.array([10, 40, 20, 30]))
    found = {name: score(others) for name, score in scores(Images(features, features), LABELS, calibration).items()}
    means = np.stack([features[label == LABELS].mean(0) for label in range(4)])
    precision = LedoitWolf(assume_centered=True).fit(features - means[LABELS]).precision_
    distances = cdist(others.features, means, "mahalanobis", VI=precision) ** 2
    np.testing.assert_allclose(found["Mahalanobis distance"], -distances.min(1), rtol=1e-8)
    cosines = 1 - cdist(others.features, means, "cosine")
    np.testing.assert_allclose(found["cosine to class means"], cosines.max(1), rtol=1e-9)
    np.testing.assert_allclose(found["energy, training prior"], -unknown_scores(others.logits, calibration))


@pytest.mark.parametrize(
    ("fold", "expected"),
    [
        ("mean", "75.0 / 25.0 85.0 / 15.0 80.0 / 20.0 75.0"),
        ("min", "70.0 / 20.0 80.0 / 10.0 75.0 / 15.0 70.0"),
        ("max", "80.0 / 30.0 90.0 / 20.0 85.0 / 25.0 80.0"),
    ],
)
def test_the_table_has_means_over_kinds_and_values_over_folds(fold: Fold, expected: str) -> None:
    folds = [
        {"energy": {"a": Separation(0.9, 0.1, 0.8), "b": Separation(0.7, 0.3, 0.6)}},
        {"energy": {"a": Separation(0.8, 0.2, 0.9), "b": Separation(0.6, 0.4, 0.7)}},
    ]
    console = Console(width=120)
    with console.capture() as capture:
        console.print(table(folds, {"both": ["a", "b"], "only a": ["a"]}, fold))
    (row,) = (line.split() for line in capture.get().splitlines() if "energy" in line)
    assert " ".join(row) == f"energy {expected}"


def test_results_are_read_from_their_file(tmp_path: Path) -> None:
    found = {"energy": {"a": Separation(0.9, 0.1, 0.8)}}
    assert saved(tmp_path / "fold0.json", lambda: found) == found
    assert saved(tmp_path / "fold0.json", lambda: {}) == found
