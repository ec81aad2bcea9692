"""Class weights against the reference's published list and scikit-learn, losses against their papers' formulas."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor
from torch.nn import functional as F

from animals_pl.data.catalog import ANIMALS10_COUNTS
from animals_pl.data.class_weights import class_weights
from animals_pl.errors import UsageError
from animals_pl.training.losses import ClassificationLoss

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
def test_none_counts_every_image_once_even_where_a_class_is_absent(counts: list[int]) -> None:
    np.testing.assert_array_equal(class_weights("none", np.array(counts)), [1.0] * len(counts), strict=True)


@pytest.mark.parametrize("option", ["none", "balanced", "reference", "effective"])
def test_weights_are_float64_one_per_class(option: str) -> None:
    weights = class_weights(option, np.array([4, 2, 1], dtype=np.int32))
    assert (weights.shape, weights.dtype) == ((3,), np.float64)


@pytest.mark.parametrize("option", ["balanced", "reference", "effective"])
@pytest.mark.parametrize(("counts", "absent"), [([5, 0, 9], 1), ([0, 3, 0], 2)])
def test_a_class_without_images_cannot_be_weighted(option: str, counts: list[int], absent: int) -> None:
    with pytest.raises(
        UsageError,
        match=rf"model\.class_weights='{option}': no training images in {absent} .*model\.class_weights=none",
    ):
        class_weights(option, np.array(counts))


# ---------------------------------------------------------------- effective number of samples


@settings(deadline=None)
@given(
    counts=st.lists(st.integers(1, 300), min_size=1, max_size=6).map(np.array),
    beta=st.sampled_from([0.0, 0.5, 0.9, 0.99, 0.999, 0.9999]),
)
def test_effective_weights_are_one_over_a_sum_of_powers_with_the_mean_one(counts: np.ndarray, beta: float) -> None:
    numbers = [math.fsum(beta**power for power in range(count)) for count in counts.tolist()]
    weights = class_weights("effective", counts, beta)
    np.testing.assert_allclose(weights * numbers, weights[0] * numbers[0], rtol=1e-9)
    assert weights.mean() == pytest.approx(1, rel=1e-12)


@settings(deadline=None)
@given(counts=some_counts)
def test_effective_weights_lie_between_all_alike_and_one_over_the_count(counts: np.ndarray) -> None:
    np.testing.assert_array_equal(class_weights("effective", counts, 0.0), np.ones(len(counts)))
    inverse = 1 / counts
    np.testing.assert_allclose(class_weights("effective", counts, 1 - 1e-9), inverse / inverse.mean(), rtol=1e-4)


def test_effective_weights_of_the_full_dataset_grow_apart_with_beta() -> None:
    counts = np.array(list(ANIMALS10_COUNTS.values()))
    spread = [np.ptp(class_weights("effective", counts, beta)) for beta in (0.9, 0.99, 0.999, 0.9999)]
    assert spread == sorted(spread)
    assert 0 <= spread[0] < 1e-9
    assert 0.1 < spread[2] < spread[3]


# ---------------------------------------------------------------- the loss of a batch

COUNTS = np.array([50, 9, 200, 1])
WEIGHTS = np.array([0.5, 2.0, 0.125, 4.0])
KINDS: dict[str, dict[str, Any]] = {
    "cross_entropy": {},
    "focal": {"loss": "focal"},
    "focal_sharp": {"loss": "focal", "gamma": 0.5},
    "logit_adjusted": {"loss": "logit_adjusted"},
    "smoothed": {"label_smoothing": 0.1},
    "weighted": {"weights": WEIGHTS},
    "everything": {"loss": "focal", "gamma": 3.0, "weights": WEIGHTS, "label_smoothing": 0.2},
}
each_kind = pytest.mark.parametrize("kind", list(KINDS))


def batch(size: int = 32, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return float64 logits (B, C) and labels (B,)."""
    generator = torch.Generator().manual_seed(size)
    logits = scale * torch.randn(size, len(COUNTS), generator=generator, dtype=torch.float64)
    return logits, torch.randint(0, len(COUNTS), (size,), generator=generator)


def blended(size: int = 32) -> Tensor:
    """Return probabilities (B, C) of two classes each, as MixUp makes them."""
    generator = torch.Generator().manual_seed(size)
    share = torch.rand(size, 1, generator=generator, dtype=torch.float64)
    pair = torch.randint(0, len(COUNTS), (2, size), generator=generator)
    return share * F.one_hot(pair[0], len(COUNTS)) + (1 - share) * F.one_hot(pair[1], len(COUNTS))


def by_hand(logits: Tensor, targets: Tensor, **options: Any) -> np.ndarray:
    """Return the losses (B,) of probabilities (B, C) by loops over plain numbers."""
    kind, tau = options.get("loss", "cross_entropy"), options.get("tau", 1.0)
    gamma = options.get("gamma", 2.0) if kind == "focal" else 0.0
    smoothing = options.get("label_smoothing", 0.0)
    weights = options.get("weights", np.ones(len(COUNTS)))
    losses = []
    for row, target in zip(logits.double().tolist(), targets.double().tolist(), strict=True):
        scores = list(row)
        if kind == "logit_adjusted":
            scores = [z + tau * math.log(n / sum(COUNTS)) for z, n in zip(row, COUNTS, strict=True)]
        total = math.fsum(math.exp(score) for score in scores)
        terms = []
        for score, t in zip(scores, target, strict=True):
            p = math.exp(score) / total
            smooth = (1 - smoothing) * t + smoothing / len(COUNTS)
            terms.append(-smooth * (1 - p) ** gamma * math.log(p))
        factor = math.fsum(w * t for w, t in zip(weights, target, strict=True))
        losses.append(factor * math.fsum(terms))
    return np.array(losses)


@each_kind
def test_losses_are_the_formula_s(kind: str) -> None:
    logits, labels = batch()
    one_hot = F.one_hot(labels, len(COUNTS)).double()
    loss = ClassificationLoss(COUNTS, **KINDS[kind])
    for targets, probabilities in ((labels, one_hot), (blended(), blended())):
        found = loss(logits, targets)
        assert found.shape == (32,)
        np.testing.assert_allclose(found.numpy(), by_hand(logits, probabilities, **KINDS[kind]), rtol=1e-4, atol=1e-6)


@settings(deadline=None)
@given(
    logits=st.lists(st.lists(st.floats(-20, 20, width=32), min_size=4, max_size=4), min_size=1, max_size=4),
    gamma=st.floats(0, 5),
    label_smoothing=st.floats(0, 0.9),
    data=st.data(),
)
def test_focal_losses_are_the_formula_s_for_any_numbers(
    logits: list[list[float]], gamma: float, label_smoothing: float, data: st.DataObject
) -> None:
    labels = torch.tensor([data.draw(st.integers(0, 3)) for _ in logits])
    options: dict[str, Any] = {"loss": "focal", "gamma": gamma, "label_smoothing": label_smoothing, "weights": WEIGHTS}
    rows = torch.tensor(logits, dtype=torch.float64)
    expected = by_hand(rows, F.one_hot(labels, 4), **options)
    # Where 1 - p is below the loss's floor of 1e-6, both losses are next to nothing.
    np.testing.assert_allclose(ClassificationLoss(COUNTS, **options)(rows, labels), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1, 0.7], ids=["hard", "smooth", "smoother"])
@pytest.mark.parametrize("soft", [False, True], ids=["labels", "blends"])
def test_cross_entropy_is_torch_s(soft: bool, label_smoothing: float) -> None:
    logits, labels = batch()
    targets = blended() if soft else labels
    found = ClassificationLoss(COUNTS, label_smoothing=label_smoothing)(logits.float(), targets)
    expected = F.cross_entropy(logits, targets, reduction="none", label_smoothing=label_smoothing)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_focal_without_focus_is_cross_entropy_to_the_last_bit() -> None:
    logits, labels = batch()
    plain = ClassificationLoss(COUNTS)(logits, labels)
    assert torch.equal(ClassificationLoss(COUNTS, "focal", gamma=0.0)(logits, labels), plain)
    assert (ClassificationLoss(COUNTS, "focal", gamma=2.0)(logits, labels) < plain).all()


@pytest.mark.parametrize("option", ["gamma", "tau"])
def test_numbers_of_another_loss_change_nothing(option: str) -> None:
    logits, labels = batch()
    plain = ClassificationLoss(COUNTS)(logits, labels)
    assert torch.equal(ClassificationLoss(COUNTS, **{option: 5.0})(logits, labels), plain)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 2.0], ids=["none", "half", "full", "twice"])
def test_logit_adjusted_is_cross_entropy_of_logits_plus_log_frequencies(tau: float) -> None:
    logits, labels = batch()
    found = ClassificationLoss(COUNTS, "logit_adjusted", tau=tau)(logits, labels)
    shifted = logits + tau * torch.tensor(COUNTS / COUNTS.sum()).log()
    np.testing.assert_allclose(found, F.cross_entropy(shifted, labels, reduction="none"), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0], ids=["none", "half", "full"])
def test_a_net_that_sees_nothing_learns_the_frequencies_less_what_is_adjusted(tau: float) -> None:
    """Its best logits are those of p ∝ count^(1 - tau): with tau 1, all classes alike."""
    counts = np.array([60, 30, 10])
    labels = torch.from_numpy(np.repeat([0, 1, 2], counts))
    loss = ClassificationLoss(counts, "logit_adjusted", tau=tau)
    logits = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-10, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        mean = loss(logits.expand(len(labels), 3), labels).mean()
        mean.backward()
        return mean

    optimizer.step(closure)
    expected = counts ** (1 - tau) / (counts ** (1 - tau)).sum()
    np.testing.assert_allclose(logits.detach().softmax(0), expected, atol=1e-4)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "logit_adjusted", "smoothed"])
def test_weights_are_factors_of_the_images_losses(kind: str) -> None:
    """Their mean is mean(wᵢ · ℓᵢ); torch's ``weight`` divides by the sum of the weights."""
    logits, labels = batch()
    plain, weighted = (ClassificationLoss(COUNTS, **KINDS[kind], weights=weights) for weights in (None, WEIGHTS))
    expected = (torch.from_numpy(WEIGHTS)[labels] * plain(logits, labels)).mean()
    assert float(weighted(logits, labels).mean()) == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("kind", ["cross_entropy", "focal", "logit_adjusted", "smoothed"])
def test_losses_are_linear_in_unweighted_targets(kind: str) -> None:
    logits, labels = batch()
    loss = ClassificationLoss(COUNTS, **KINDS[kind])
    first, second = (F.one_hot(some, len(COUNTS)).double() for some in (labels, labels.roll(1)))
    found = loss(logits, 0.3 * first + 0.7 * second)
    np.testing.assert_allclose(found, 0.3 * loss(logits, first) + 0.7 * loss(logits, second), rtol=1e-6)
    assert torch.equal(loss(logits, first), loss(logits, labels))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("gap", [0.0, 20.0, 100.0, 1e4], ids=["even", "sure", "surer", "surest"])
@each_kind
def test_losses_and_gradients_of_saturated_logits_are_finite(kind: str, gap: float, dtype: torch.dtype) -> None:
    logits = torch.zeros(2, len(COUNTS), dtype=dtype)
    logits[:, 2] = gap
    logits.requires_grad_()
    losses = ClassificationLoss(COUNTS, **KINDS[kind])(logits, torch.tensor([2, 0]))  # right and wrong
    losses.sum().backward()
    assert losses.isfinite().all() and logits.grad is not None
    assert logits.grad.isfinite().all()
    assert logits.grad[1].any()
    assert losses[1] > losses[0] or gap == 0


@each_kind
def test_gradients_are_those_of_finite_differences(kind: str) -> None:
    """Of the formula in float64, as the loss itself computes in float32."""
    logits, _ = batch(6)
    leaf = logits.float().requires_grad_()
    ClassificationLoss(COUNTS, **KINDS[kind])(leaf, blended(6)).sum().backward()
    expected, step = np.zeros(leaf.shape), 1e-6
    for column in range(len(COUNTS)):
        shift = torch.zeros_like(logits)
        shift[:, column] = step
        above, below = (by_hand(leaf.detach() + sign * shift, blended(6), **KINDS[kind]) for sign in (1, -1))
        expected[:, column] = (above - below) / (2 * step)
    assert leaf.grad is not None
    np.testing.assert_allclose(leaf.grad.numpy(), expected, rtol=1e-3, atol=1e-4)


@each_kind
def test_losses_under_autocast_are_those_of_full_precision_but_for_rounding(kind: str) -> None:
    generator = torch.Generator().manual_seed(0)
    features, labels = torch.randn(64, 16, generator=generator), torch.arange(64) % len(COUNTS)
    layer = torch.nn.Linear(16, len(COUNTS))
    with torch.no_grad():
        layer.weight.copy_(torch.randn(len(COUNTS), 16, generator=generator) / 4)
        layer.bias.zero_()
    loss = ClassificationLoss(COUNTS, **KINDS[kind])
    with torch.autocast("cpu", torch.bfloat16):
        logits = layer(features)
        assert logits.dtype == torch.bfloat16
        losses = loss(logits, labels)
    losses.float().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in layer.parameters())
    np.testing.assert_allclose(losses.float().detach(), loss(logits.float(), labels).detach(), rtol=0.02, atol=0.005)


def test_class_weights_keep_their_precision_under_autocast() -> None:
    loss = ClassificationLoss(np.array([3363, 1000]), weights=np.array([1.0, 3.363]))
    with torch.autocast("cpu", torch.bfloat16):
        losses = loss(torch.zeros(2, 2, dtype=torch.bfloat16), torch.tensor([0, 1]))
    # bfloat16 would round 3.363 to 3.359.
    assert losses.tolist() == pytest.approx([math.log(2), 3.363 * math.log(2)], rel=1e-6)


@pytest.mark.parametrize(("counts", "absent"), [([5, 0, 9], 1), ([0, 3, 0], 2)], ids=["one", "two"])
def test_logits_cannot_be_adjusted_to_a_class_without_images(counts: list[int], absent: int) -> None:
    with pytest.raises(
        UsageError, match=rf"model\.loss='logit_adjusted': no training images in {absent} .*model\.loss=cross_entropy"
    ):
        ClassificationLoss(np.array(counts), "logit_adjusted")
    for loss in ("cross_entropy", "focal"):
        assert ClassificationLoss(np.array(counts), loss)(torch.zeros(1, 3), torch.tensor([1])).isfinite().all()


def test_the_loss_leaves_nothing_in_a_checkpoint() -> None:
    assert ClassificationLoss(COUNTS, "logit_adjusted", WEIGHTS).state_dict() == {}
