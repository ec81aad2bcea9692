"""Folds, pooled macro recall and its bootstrap."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from animals_pl.data.catalog import Catalog
from animals_pl.errors import UsageError
from animals_pl.experiments import folds
from animals_pl.experiments.folds import bootstrap_macro_recall, draw_folds, macro_recall

LABELS = np.repeat([0, 1, 2], [40, 9, 3])


@pytest.fixture
def catalog() -> Catalog:
    labels = np.repeat(np.arange(4), 12)
    groups = np.full(48, -1)
    groups[[0, 1, 2, 30, 31]] = [7, 7, 7, 9, 9]
    names = list("abcd")
    return Catalog(Path("images"), names, [f"{names[k]}/{i}.jpg" for i, k in enumerate(labels)], labels, groups=groups)


@pytest.fixture
def predicted() -> np.ndarray:
    """Predictions of three variants for LABELS, 70 % of them right."""
    rng = np.random.default_rng(0)
    return np.where(rng.random((3, 52)) < 0.7, LABELS, rng.integers(0, 3, (3, 52)))


def test_folds_are_stratified(catalog):
    fold_of = draw_folds(catalog, 3, seed=0)
    counts = np.array([np.bincount(catalog.labels[fold_of == fold]) for fold in range(3)])
    assert counts.min() >= 3
    assert counts.sum() == 48


def test_folds_do_not_divide_duplicates(catalog):
    for seed in range(5):
        fold_of = draw_folds(catalog, 3, seed)
        assert len(set(fold_of[[0, 1, 2]])) == len(set(fold_of[[30, 31]])) == 1


def test_folds_depend_on_the_seed_only(catalog):
    first, again, other = (draw_folds(catalog, 3, seed) for seed in (0, 0, 1))
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("count", [1, 13])
def test_impossible_folds_are_refused(catalog, count):
    with pytest.raises(UsageError, match=rf"folds={count}: .*Choose another --folds"):
        draw_folds(catalog, count, 0)


def test_macro_recall_equals_scikit_learn(predicted):
    for each in predicted:
        assert macro_recall(LABELS, each) == pytest.approx(balanced_accuracy_score(LABELS, each))


def test_bootstrap_equals_scikit_learn_on_every_sample(predicted, monkeypatch):
    monkeypatch.setattr(folds, "CHUNK", 100)  # the chunks do not change the samples
    values = bootstrap_macro_recall(LABELS, predicted)
    assert values.shape == (3, folds.DRAWS)
    rng = np.random.default_rng(0)
    members = [np.flatnonzero(label == LABELS) for label in range(3)]
    taken = [each[rng.integers(0, len(each), (folds.DRAWS, len(each)))] for each in members]
    for draw in range(5):
        sample = np.concatenate([each[draw] for each in taken])
        for variant in range(3):
            expected = balanced_accuracy_score(LABELS[sample], predicted[variant, sample])
            assert values[variant, draw] == pytest.approx(expected)


def test_bootstrap_spreads_as_independent_proportions(predicted):
    values = bootstrap_macro_recall(LABELS, predicted)
    recalls = [[np.mean(each[label == LABELS] == label) for label in range(3)] for each in predicted]
    variances = [[p * (1 - p) / np.sum(label == LABELS) for label, p in enumerate(row)] for row in recalls]
    assert values.std(axis=1) == pytest.approx(np.sqrt(np.sum(variances, axis=1)) / 3, rel=0.1)


def test_equal_variants_have_equal_samples(predicted):
    first, second = bootstrap_macro_recall(LABELS, predicted[[0, 0]])
    assert (first == second).all()
    alone = bootstrap_macro_recall(LABELS, predicted[:1])
    assert first == pytest.approx(alone[0])


def test_bootstrap_of_a_large_class_is_exact_and_small(monkeypatch):
    """Counts of 40,000 images overflow int16; a matrix of all samples would need 160 MB."""
    monkeypatch.setattr(folds, "DRAWS", 500)
    labels = np.repeat([0, 1], [40_000, 100])
    predicted = np.zeros((1, len(labels)), dtype=int)
    predicted[0, :4000] = 1  # recall 0.9 and 0
    tracemalloc.start()
    values = bootstrap_macro_recall(labels, predicted)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert macro_recall(labels, predicted[0]) == pytest.approx(0.45)
    assert values.mean() == pytest.approx(0.45, abs=0.001)
    assert values.max() < 0.46
    assert peak < 60 * 2**20
