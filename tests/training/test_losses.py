"""Class weights against the reference's published list and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from animals_pl.data.catalog import ANIMALS10_COUNTS
from animals_pl.errors import UsageError
from animals_pl.training.losses import class_weights

REFERENCE_WEIGHTS = {
    "cane": 1.0,
    "cavallo": 1.854,
    "elefante": 3.363,
    "farfalla": 2.303,
    "gallina": 1.57,
    "gatto": 2.915,
    "mucca": 2.606,
    "pecora": 2.672,
    "ragno": 1.009,
    "scoiattolo": 2.612,
}

some_counts = st.lists(st.integers(1, 10_000), min_size=1, max_size=12).map(np.array)


def test_reference_weights_are_the_published_ones() -> None:
    weights = class_weights("reference", np.array(list(ANIMALS10_COUNTS.values())))
    assert dict(zip(ANIMALS10_COUNTS, weights.tolist(), strict=True)) == REFERENCE_WEIGHTS


@settings(deadline=None)
@given(counts=some_counts)
def test_reference_weights_are_the_largest_class_over_each_to_three_decimals(counts: np.ndarray) -> None:
    expected = [round(max(counts.tolist()) / count, 3) for count in counts.tolist()]
    np.testing.assert_allclose(class_weights("reference", counts), expected, rtol=0, atol=1e-9)


@settings(deadline=None)
@given(counts=st.lists(st.integers(1, 60), min_size=1, max_size=8).map(np.array))
def test_balanced_weights_are_scikit_learn_s(counts: np.ndarray) -> None:
    labels = np.repeat(np.arange(len(counts)), counts)
    expected = compute_class_weight("balanced", classes=np.arange(len(counts)), y=labels)
    np.testing.assert_allclose(class_weights("balanced", counts), expected, rtol=1e-12)


@settings(deadline=None)
@given(counts=some_counts)
def test_balanced_weights_give_every_class_the_same_sum(counts: np.ndarray) -> None:
    np.testing.assert_allclose(class_weights("balanced", counts) * counts, counts.sum() / len(counts), rtol=1e-12)


@pytest.mark.parametrize("counts", [[5, 1, 9], [5, 0, 9], [0, 0]])
def test_none_counts_every_photograph_once_even_where_a_class_is_absent(counts: list[int]) -> None:
    np.testing.assert_array_equal(class_weights("none", np.array(counts)), [1.0] * len(counts), strict=True)


@pytest.mark.parametrize("option", ["none", "balanced", "reference"])
def test_weights_are_float64_one_per_class(option: str) -> None:
    weights = class_weights(option, np.array([4, 2, 1], dtype=np.int32))
    assert (weights.shape, weights.dtype) == ((3,), np.float64)


@pytest.mark.parametrize("option", ["balanced", "reference"])
@pytest.mark.parametrize(("counts", "absent"), [([5, 0, 9], 1), ([0, 3, 0], 2)])
def test_a_class_without_photographs_cannot_be_weighted(option: str, counts: list[int], absent: int) -> None:
    with pytest.raises(UsageError, match=rf"model\.class_weights='{option}': {absent} .*model\.class_weights=none"):
        class_weights(option, np.array(counts))
