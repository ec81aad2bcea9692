"""Cross-validation folds, pooled macro recall and its bootstrap. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.errors import UsageError, one_line

DRAWS = 2000
"""Number of bootstrap samples."""
CHUNK = 2**20
"""Images drawn at a time; limits the bootstrap's memory to about 10 MB."""


@dataclass(frozen=True)
class Outcome:
    """Pooled predictions of one variant.

    Attributes:
        predicted: Predicted classes (N,); -1 for folds that were not read.
        seconds: Median training time per fit.
    """

    predicted: np.ndarray
    seconds: float


def draw_folds(catalog: Catalog, folds: int, seed: int) -> np.ndarray:
    """Test fold of each image (N,), stratified by class, duplicates in the same fold.

    Raises:
        UsageError: There are fewer than 2 folds, or more folds than images in the largest class.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    from animals_pl.data.grouping import single_groups

    groups = single_groups(catalog.groups)
    fold_of = np.empty(len(groups), dtype=int)
    try:
        splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(groups, catalog.labels, groups)):
            fold_of[held_out] = fold
    except ValueError as error:
        raise UsageError(f"folds={folds}: {one_line(error).rstrip('.')}. Choose another --folds, 2 or more.") from error
    return fold_of


def macro_recall(labels: np.ndarray, predicted: np.ndarray) -> float:
    """Mean recall of the classes that have images, from true and predicted classes (N,)."""
    images, correct = np.bincount(labels), np.bincount(labels, labels == predicted)
    return float(np.mean(correct[images > 0] / images[images > 0]))


def bootstrap_macro_recall(labels: np.ndarray, predicted: np.ndarray, seed: int = 0) -> np.ndarray:
    """Macro recall (V, DRAWS) of V variants on bootstrap samples of the images.

    Each sample draws as many images from a class as the class has. All variants are evaluated on the same samples,
    so that differences between them are paired. Takes time linear in N.

    Args:
        labels: True classes (N,).
        predicted: Predicted classes (V, N) of each variant.
        seed: Seed of the samples.
    """
    rng = np.random.default_rng(seed)
    classes = np.unique(labels)
    total = np.zeros((len(predicted), DRAWS))
    for label in classes:
        correct = predicted[:, labels == label] == label
        size = correct.shape[1]
        rows = max(1, CHUNK // size)
        for start in range(0, DRAWS, rows):
            drawn = rng.integers(0, size, (min(rows, DRAWS - start), size))
            total[:, start : start + rows] += [variant[drawn].mean(1) for variant in correct]
    return total / len(classes)
