"""The order of an epoch, its batches and their division over processes."""

from collections import Counter
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from animals_pl.data.catalog import ANIMALS10_COUNTS
from animals_pl.data.sampling import KeyBatchSampler, SampleKey, batch_bounds, repeats, shuffled, weighted

COUNT, BATCH, WORLD = st.integers(1, 300), st.integers(1, 20), st.integers(1, 5)
UNEQUAL = np.repeat([0, 1, 2, 3], [90, 40, 12, 3])


def make(labels, *, batch=4, sampling="shuffle", seed=0, size=lambda epoch: 32, at=(0, 0), rank=0, world=1):
    return KeyBatchSampler(labels, batch, sampling, seed, size, lambda: at, rank, world)


def ranks(labels, world, **options):
    """Return the batches of every rank."""
    return [list(make(labels, rank=rank, world=world, **options)) for rank in range(world)]


def flat(batches):
    return list(chain.from_iterable(batches))


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1))
def test_repeats_counts_earlier_occurrences(indices):
    seen, expected = Counter(), []
    for index in indices:
        expected.append(seen[index])
        seen[index] += 1
    assert repeats(np.array(indices)).tolist() == expected


@settings(deadline=None)
@given(count=COUNT, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 1000))
def test_shuffled_is_a_permutation(count, seed, epoch):
    order = shuffled(count, seed, epoch)
    assert sorted(order.tolist()) == list(range(count))
    assert np.array_equal(order, shuffled(count, seed, epoch))


def test_every_seed_and_epoch_has_its_own_order():
    orders = {tuple(shuffled(50, seed, epoch)) for seed in range(20) for epoch in range(20)}
    assert len(orders) == 400


def test_every_position_is_equally_likely():
    firsts = Counter(int(shuffled(10, 0, epoch)[0]) for epoch in range(2000))
    assert chisquare([firsts[index] for index in range(10)]).pvalue > 0.001


@settings(deadline=None)
@given(count=COUNT, batch=BATCH, world=WORLD)
def test_bounds_cover_the_epoch_once_in_full_batches(count, batch, world):
    bounds = batch_bounds(count, batch, world)
    assert flat(range(start, end) for start, end in bounds) == list(range(count))
    assert all(end - start == batch * world for start, end in bounds[:-1])
    assert 0 < bounds[-1][1] - bounds[-1][0] < batch * world + 2 * world


@settings(deadline=None)
@given(count=COUNT, batch=BATCH, world=WORLD)
def test_no_rank_gets_fewer_than_two_samples_unless_it_must(count, batch, world):
    for start, end in batch_bounds(count, batch, world):
        for rank in range(world):
            assert len(range(start + rank, end, world)) >= min(2, batch, count // world)


@pytest.mark.parametrize(
    ("count", "batch", "world", "sizes"),
    [
        (10, 5, 1, [5, 5]),
        (11, 5, 1, [5, 6]),
        (12, 5, 1, [5, 5, 2]),
        (3, 5, 1, [3]),
        (1, 5, 1, [1]),
        (3, 1, 1, [1, 1, 1]),
        (23, 5, 2, [10, 13]),
        (24, 5, 2, [10, 10, 4]),
        (21, 10, 2, [21]),
    ],
)
def test_a_rest_too_small_joins_the_batch_before(count, batch, world, sizes):
    assert [end - start for start, end in batch_bounds(count, batch, world)] == sizes


@settings(deadline=None)
@given(count=COUNT, batch=BATCH, world=WORLD, seed=st.integers(0, 99), epoch=st.integers(0, 99))
def test_shuffled_epoch_visits_every_image_once_over_all_ranks(count, batch, world, seed, epoch):
    shares = ranks(np.zeros(count, np.int64), world, batch=batch, seed=seed, at=(epoch, 0))
    keys = flat(flat(share) for share in shares)
    assert sorted(key.index for key in keys) == list(range(count))
    assert all((key.epoch, key.repeat) == (epoch, 0) for key in keys)
    assert {len(share) for share in shares} == {len(make(np.zeros(count, np.int64), batch=batch, world=world))}


@settings(deadline=None)
@given(count=COUNT, batch=BATCH, world=WORLD, sampling=st.sampled_from(["shuffle", "weighted", "weighted_sqrt"]))
def test_ranks_take_turns_in_one_global_order(count, batch, world, sampling):
    labels = np.arange(count) % 3
    alone = flat(make(labels, batch=batch, sampling=sampling, at=(3, 0)))
    together = []
    for parts in zip(*ranks(labels, world, batch=batch, sampling=sampling, at=(3, 0)), strict=True):
        merged = [None] * sum(map(len, parts))
        for rank, part in enumerate(parts):
            merged[rank::world] = part
        together += merged
    assert together == alone


@settings(deadline=None)
@given(
    count=COUNT,
    batch=BATCH,
    world=WORLD,
    sampling=st.sampled_from(["shuffle", "weighted", "weighted_sqrt"]),
    epoch=st.integers(0, 50),
    data=st.data(),
)
def test_an_interrupted_epoch_goes_on_with_its_rest(count, batch, world, sampling, epoch, data):
    labels = np.arange(count) % 3
    rank = data.draw(st.integers(0, world - 1))
    options = {"batch": batch, "sampling": sampling, "rank": rank, "world": world}
    whole = list(make(labels, at=(epoch, 0), **options))
    done = data.draw(st.integers(0, len(whole)))
    resumed = make(labels, at=(epoch, done), **options)
    assert list(resumed) == whole[done:]
    assert len(resumed) == len(whole)


@pytest.mark.parametrize("sampling", ["shuffle", "weighted", "weighted_sqrt"])
def test_position_is_read_when_an_iteration_starts(sampling):
    position = [0, 0]
    sampler = KeyBatchSampler(UNEQUAL, 8, sampling, 0, lambda epoch: 32, lambda: tuple(position))
    first = list(sampler)
    position[:] = 1, 2
    assert list(sampler) == list(make(UNEQUAL, batch=8, sampling=sampling, at=(1, 2)))
    position[:] = 0, 0
    assert list(sampler) == first


@pytest.mark.parametrize("sampling", ["shuffle", "weighted", "weighted_sqrt"])
def test_epochs_and_seeds_differ_and_repeat_themselves(sampling):
    def indices(seed, epoch):
        return tuple(key.index for key in flat(make(UNEQUAL, sampling=sampling, seed=seed, at=(epoch, 0))))

    drawn = {(seed, epoch): indices(seed, epoch) for seed in range(5) for epoch in range(5)}
    assert len(set(drawn.values())) == 25
    assert all(indices(*key) == order for key, order in drawn.items())


@pytest.mark.parametrize("sampling", ["shuffle", "weighted", "weighted_sqrt"])
def test_keys_are_unique_within_an_epoch(sampling):
    keys = flat(make(UNEQUAL, sampling=sampling, at=(5, 0)))
    assert len({(key.index, key.epoch, key.repeat) for key in keys}) == len(keys) == len(UNEQUAL)


@pytest.mark.parametrize("sampling", ["weighted", "weighted_sqrt"])
def test_repeats_of_weighted_keys_count_up_over_all_ranks(sampling):
    keys = flat(flat(share) for share in ranks(UNEQUAL, 3, sampling=sampling))
    by_index = {index: sorted(k.repeat for k in keys if k.index == index) for index in {k.index for k in keys}}
    assert all(found == list(range(len(found))) for found in by_index.values())
    assert max(map(len, by_index.values())) > 1


@pytest.mark.parametrize(("epoch", "size"), [(0, 32), (3, 32), (4, 64), (9, 64)])
def test_size_follows_the_schedule(epoch, size):
    keys = flat(make(UNEQUAL, size=lambda at: 32 if at < 4 else 64, at=(epoch, 1)))
    assert {key.size for key in keys} == {size}
    assert {key.epoch for key in keys} == {epoch}


def test_keys_hold_plain_integers():
    key = next(iter(make(UNEQUAL)))[0]
    assert isinstance(key, SampleKey)
    assert [type(value) for value in key] == [int, int, int, int]


@pytest.mark.parametrize("seed", [0, 1])
def test_weighted_draws_make_classes_equally_likely(seed):
    labels = np.repeat(np.arange(10), [count // 10 for count in ANIMALS10_COUNTS.values()])
    found = sum(np.bincount(labels[weighted(labels, seed, epoch)], minlength=10) for epoch in range(10))
    assert found.sum() == 10 * len(labels)
    assert chisquare(found).pvalue > 0.001


def drawn_classes(labels, draw):
    """Return how often the draws of 20 epochs took each class."""
    return sum(np.bincount(labels[draw(epoch)], minlength=labels.max() + 1) for epoch in range(20))


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("power", "exponent"), [(0.0, 1.0), (0.5, 0.5), (0.75, 0.25), (1.0, 0.0)])
def test_weighted_draws_classes_in_proportion_to_a_power_of_their_count(seed, power, exponent):
    labels = np.repeat(np.arange(10), [count // 10 for count in ANIMALS10_COUNTS.values()])
    found = drawn_classes(labels, lambda epoch: weighted(labels, seed, epoch, power))
    wanted = np.bincount(labels) ** exponent
    assert chisquare(found, wanted * found.sum() / wanted.sum()).pvalue > 0.001


@pytest.mark.parametrize(
    ("sampling", "exponent"),
    [("shuffle", 1.0), ("weighted", 0.0), ("weighted_sqrt", 0.5)],
    ids=str,
)
def test_an_epoch_has_the_classes_that_its_sampling_promises(sampling, exponent):
    labels = np.repeat(np.arange(4), [900, 400, 100, 25])
    found = drawn_classes(
        labels, lambda epoch: [key.index for key in flat(make(labels, sampling=sampling, at=(epoch, 0)))]
    )
    wanted = {name: np.bincount(labels) ** power for name, power in (("own", exponent), ("other", 0.25))}
    fits = {name: chisquare(found, ratio * found.sum() / ratio.sum()).pvalue for name, ratio in wanted.items()}
    assert fits["own"] > 0.001 > fits["other"]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weighted_draws_are_uniform_within_a_class(power):
    labels = np.repeat([0, 1], [20, 5])
    drawn = np.concatenate([weighted(labels, 7, epoch, power) for epoch in range(1000)])
    found = np.bincount(drawn, minlength=25)
    assert chisquare(found[:20]).pvalue > 0.001
    assert chisquare(found[20:]).pvalue > 0.001


@settings(deadline=None)
@given(
    labels=st.lists(st.integers(0, 12), min_size=1, max_size=80),
    seed=st.integers(0, 999),
    epoch=st.integers(0, 99),
    power=st.floats(0, 1),
)
def test_weighted_draws_as_many_as_there_are_images(labels, seed, epoch, power):
    order = weighted(np.array(labels), seed, epoch, power)
    assert np.array_equal(order, weighted(np.array(labels), seed, epoch, power))
    assert len(order) == len(labels)
    assert order.min() >= 0 and order.max() < len(labels)
