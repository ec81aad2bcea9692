"""Which pictures are near each other, and the groups of duplicates that follow."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from animals_pl.data import duplicates
from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.duplicates import LARGE, NEAR, components, duplicate_groups, near_pairs
from animals_pl.data.inspection import inspect, perceptual_hash
from animals_pl.data.practice import draw_animal

BITS = 256

ODD_COLUMNS = int("01" * (BITS // 2), 2)
"""The bits that change when a picture is mirrored: rows are 16 bits long, so odd columns are odd bits."""


def text(number):
    return f"{number:064x}"


def bits_apart(one, other):
    """Return the least number of bits that differ between (hash, hash of the middle) of two pictures, bit by bit."""
    pairs = [(one[0], other[0]), (one[0], other[1]), (one[1], other[0])]
    return min((int(a, 16) ^ int(b, 16) ^ mirrored).bit_count() for a, b in pairs for mirrored in (0, ODD_COLUMNS))


def all_near(pictures, distance=NEAR):
    """Compare every two pictures, one after the other."""
    found = []
    for i, j in itertools.combinations(range(len(pictures)), 2):
        if (apart := bits_apart(pictures[i], pictures[j])) <= distance:
            found.append([i, j, apart])
    return found


def joined(count, pairs):
    """Return the sets that are left when every pair is merged, largest numbers included."""
    leader = list(range(count))

    def find(node):
        while leader[node] != node:
            node = leader[node]
        return node

    for i, j in pairs:
        leader[find(i)] = find(j)
    return partition([find(node) for node in range(count)])


def partition(numbers):
    """Return the sets of places with the same number."""
    sets = {}
    for place, number in enumerate(numbers):
        sets.setdefault(number, set()).add(place)
    return {frozenset(places) for places in sets.values()}


def groups_of(numbers):
    """Return the sets of places in a group; -1 is in none."""
    return partition([number if number >= 0 else ("alone", place) for place, number in enumerate(np.asarray(numbers))])


def flipped(number, count, rng):
    """Flip so many random bits of a hash."""
    for place in rng.choice(BITS, count, replace=False).tolist():
        number ^= 1 << place
    return number


def random_hash(rng):
    return int.from_bytes(rng.bytes(BITS // 8), "big")


def planted(count, seed, kinds=4):
    """Return (hash, hash of the middle) pairs of which many lie near each other, some just in and some just out."""
    rng = np.random.default_rng(seed)
    bases, pictures = [random_hash(rng) for _ in range(kinds)], []
    for _ in range(count):
        copy = flipped(bases[rng.integers(kinds)], int(rng.integers(0, 60)), rng)
        copy ^= ODD_COLUMNS * int(rng.integers(2))
        other = random_hash(rng) if rng.random() < 0.5 else flipped(copy, int(rng.integers(0, 50)), rng)
        pictures.append((text(copy), text(other))[:: int(rng.choice([-1, 1]))])
    return pictures


def as_lists(pictures):
    return [one[0] for one in pictures], [one[1] for one in pictures]


# Near pairs


@pytest.mark.parametrize("chunk", [1, 7, 16, 512])
@pytest.mark.parametrize("seed", range(3))
def test_near_pairs_are_those_of_comparing_bit_by_bit(monkeypatch, chunk, seed):
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    rng = np.random.default_rng(seed)
    strangers = [(text(random_hash(rng)), text(random_hash(rng))) for _ in range(20)]
    pictures = planted(30, seed) + strangers + planted(10, seed)
    expected = all_near(pictures)
    assert len(expected) > 40
    found = near_pairs(*as_lists(pictures))
    assert found.dtype == np.int64
    assert found.tolist() == expected


@pytest.mark.parametrize("distance", [0, 1, 52, 100, BITS])
def test_distance_is_a_bound_that_is_itself_near(distance):
    pictures = planted(25, seed=9)
    assert near_pairs(*as_lists(pictures), distance).tolist() == all_near(pictures, distance)


@pytest.mark.parametrize(("apart", "near"), [(0, True), (1, True), (NEAR, True), (NEAR + 1, False)])
@pytest.mark.parametrize("mirrored", [0, ODD_COLUMNS])
@pytest.mark.parametrize("met", ["whole and whole", "whole and middle", "middle and whole"])
def test_every_way_to_meet_counts_to_the_bit(apart, near, mirrored, met):
    rng = np.random.default_rng(3)
    one, far, other_far = (random_hash(rng) for _ in range(3))
    copy = flipped(one, apart, rng) ^ mirrored
    first = (one, far) if met.startswith("whole") else (far, one)
    second = (copy, other_far) if met.endswith("whole") else (other_far, copy)
    found = near_pairs(*as_lists([tuple(map(text, first)), tuple(map(text, second))]))
    assert found.tolist() == ([[0, 1, apart]] if near else [])


def test_two_equal_middles_alone_are_not_near():
    rng = np.random.default_rng(4)
    middle = text(random_hash(rng))
    assert len(near_pairs([text(random_hash(rng)), text(random_hash(rng))], [middle, middle])) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_a_pair(count):
    assert near_pairs([text(1)] * count, [text(2)] * count).shape == (0, 3)


# Connected parts


@settings(deadline=None)
@given(data=st.data(), count=st.integers(1, 25))
def test_components_are_those_of_merging_sets(data, count):
    node = st.integers(0, count - 1)
    pairs = data.draw(st.lists(st.tuples(node, node), max_size=30))
    numbers = components(count, np.array(pairs, dtype=np.int64).reshape(-1, 2))
    assert (numbers.shape, numbers.dtype) == ((count,), np.int64)
    assert partition(numbers.tolist()) == joined(count, pairs)
    assert sorted(set(numbers.tolist())) == list(range(numbers.max() + 1))


def test_components_of_nothing():
    assert components(0, np.empty((0, 2), np.int64)).shape == (0,)


# Groups


UNREAD, FLAT = ("", "", ""), ("flat", "", "")


def some_files():
    """Return a strategy for lists of (content, hash, hash of the middle): copies, near-copies, strangers, failures."""
    rng = np.random.default_rng(11)
    pool = [UNREAD, FLAT, ("another flat", "", "")]
    for base in range(4):
        start = random_hash(rng)
        for copy in range(4):
            near = flipped(start, 30 * copy, rng)  # the last is near to those between, not to the first
            pool.append((f"content {base} {copy}", text(near), text(flipped(near, 20, rng))))
    return st.lists(st.sampled_from(pool), max_size=24)


def expected_groups(files):
    """Join files of the same content, and near ones, without any taking apart."""
    hashed = [place for place, file in enumerate(files) if file[1]]
    near = [(hashed[i], hashed[j]) for i, j, _ in all_near([files[place][1:] for place in hashed])]
    same = [
        (i, j) for i, j in itertools.combinations(range(len(files)), 2) if files[i][0] and files[i][0] == files[j][0]
    ]
    return joined(len(files), near + same)


def grouped(files):
    contents, hashes, centres = zip(*files, strict=True) if files else ((), (), ())
    return duplicate_groups(contents, hashes, centres)


@settings(max_examples=150, deadline=None)
@given(files=some_files())
def test_groups_are_files_of_the_same_content_and_chains_of_near_ones(files):
    numbers = grouped(files)
    assert (numbers.shape, numbers.dtype) == ((len(files),), np.int64)
    assert groups_of(numbers) == expected_groups(files)


@settings(max_examples=100, deadline=None)
@given(files=some_files())
def test_groups_are_numbered_in_the_order_of_their_first_member(files):
    numbers = grouped(files)
    in_order = list(dict.fromkeys(numbers[numbers >= 0].tolist()))
    assert in_order == list(range(len(in_order)))
    assert all((numbers == number).sum() > 1 for number in in_order)


@settings(max_examples=100, deadline=None)
@given(files=some_files(), data=st.data())
def test_groups_do_not_depend_on_the_order_of_the_files(files, data):
    order = data.draw(st.permutations(range(len(files))))
    moved = grouped([files[place] for place in order])
    back = np.full(len(files), -1)
    back[order] = moved
    assert groups_of(back) == groups_of(grouped(files))


def test_what_could_not_be_read_is_nobodys_duplicate():
    assert grouped([UNREAD] * 5).tolist() == [-1] * 5


def test_flat_pictures_are_duplicates_by_content_alone():
    assert grouped([FLAT, UNREAD, ("white", "", ""), FLAT, ("white", "", ""), ("grey", "", "")]).tolist() == [
        0,
        -1,
        1,
        0,
        1,
        -1,
    ]


def test_same_content_is_together_and_strangers_are_not():
    rng = np.random.default_rng(0)
    files = [(name, text(random_hash(rng)), text(random_hash(rng))) for name in "abcd"]
    assert grouped([files[place] for place in (3, 0, 1, 0, 2, 1, 0)]).tolist() == [-1, 0, 1, 0, -1, 1, 0]


def chain(length, step=20, seed=0):
    """Return pictures of which each differs from the one before in ``step`` bits, and from earlier ones in more."""
    rng = np.random.default_rng(seed)
    start, places = random_hash(rng), rng.permutation(BITS).tolist()
    files = []
    for number in range(length):
        whole = start
        for place in places[: step * number]:
            whole ^= 1 << place
        files.append((f"content {seed} {number}", text(whole), text(random_hash(rng))))
    return files


def test_chain_as_long_as_allowed_is_one_group():
    files = chain(LARGE)
    assert bits_apart(files[0][1:], files[-1][1:]) > NEAR
    assert grouped(files).tolist() == [0] * LARGE


def test_exact_copies_do_not_make_a_chain_longer():
    assert grouped(chain(LARGE) * 3).tolist() == [0] * (3 * LARGE)


@pytest.mark.parametrize(("length", "step"), [(LARGE + 1, 20), (12, 20), (60, 4), (40, 6), (LARGE + 1, 6)])
def test_longer_chain_is_taken_apart_until_every_two_of_a_group_are_near(length, step):
    files = chain(length, step)
    assert joined(length, [pair[:2] for pair in all_near([file[1:] for file in files])]) == {frozenset(range(length))}
    copies = files + files[::3]
    numbers = grouped(copies)
    for group in groups_of(numbers):
        assert all(bits_apart(copies[i][1:], copies[j][1:]) <= NEAR for i, j in itertools.combinations(group, 2))
    assert numbers[length:].tolist() == numbers[:length:3].tolist()
    assert (len(groups_of(numbers)) == 1) == (step * (length - 1) <= NEAR)


@pytest.mark.parametrize(("length", "step"), [(30, 10), (60, 4)])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_no_two_parts_of_a_long_chain_could_have_stayed_together(monkeypatch, chunk, length, step):
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    files = chain(length, step)
    parts = groups_of(grouped(files))
    for one, other in itertools.combinations(parts, 2):
        assert max(bits_apart(files[i][1:], files[j][1:]) for i in one for j in other) > NEAR
    for part in parts:
        assert all(bits_apart(files[i][1:], files[j][1:]) <= NEAR for i, j in itertools.combinations(part, 2))


def test_only_the_long_chain_is_taken_apart():
    long, short = chain(30, 10, seed=1), chain(LARGE, 20, seed=2)
    numbers = grouped(short + long)
    assert numbers[:LARGE].tolist() == [0] * LARGE
    assert len(set(numbers[LARGE:].tolist()) - {-1}) > 1
    assert 0 not in numbers[LARGE:]


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(30)))
def test_parts_of_a_long_chain_do_not_depend_on_the_order_of_the_files(order):
    files = chain(30, 10)  # of equal steps: every distance occurs many times, and ties must not be broken by order
    back = np.empty(30, np.int64)
    back[order] = grouped([files[place] for place in order])
    assert groups_of(back) == groups_of(grouped(files))


# Pictures

DRAWN = 6
"""Drawings of each class."""


@pytest.fixture(scope="module")
def drawings():
    """Return the first drawings of every class of the practice set."""
    return [
        draw_animal(name, np.random.default_rng([0, index, number]))
        for index, name in enumerate(ANIMALS10)
        for number in range(1, DRAWN + 1)
    ]


def cut(picture, left, top, right, bottom):
    width, height = picture.size
    return picture.crop(
        (round(left * width), round(top * height), round((1 - right) * width), round((1 - bottom) * height))
    )


def scaled(picture, factor, resampling):
    return picture.resize((round(picture.width * factor), round(picture.height * factor)), resampling)


COPIES = {
    "half size": (lambda picture, rng: scaled(picture, 0.5, Image.Resampling.BILINEAR), {}),
    "1.7 times": (lambda picture, rng: scaled(picture, 1.7, Image.Resampling.BICUBIC), {}),
    "quality 30": (lambda picture, rng: picture, {"quality": 30}),
    "cut by up to 3 % a side": (lambda picture, rng: cut(picture, *rng.uniform(0, 0.03, 4)), {}),
    "cut by 5 % at every side": (lambda picture, rng: cut(picture, 0.05, 0.05, 0.05, 0.05), {}),
    "mirrored": (lambda picture, rng: ImageOps.mirror(picture), {}),
    "brighter": (lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.3), {}),
    "as PNG": (lambda picture, rng: picture, {"format": "PNG"}),
}


@pytest.fixture(scope="module")
def inspected(drawings, tmp_path_factory):
    """Return what is found in the drawings, saved as JPEG, and in each kind of copy of them."""
    folder, rng, found = tmp_path_factory.mktemp("drawings"), np.random.default_rng(0), {}
    for kind, (edit, options) in {"original": (lambda picture, rng: picture, {}), **COPIES}.items():
        found[kind] = []
        for number, picture in enumerate(drawings):
            file = folder / f"{number}.jpg"
            edit(picture, rng).save(file, **{"format": "JPEG", "quality": 90, **options})
            found[kind].append(inspect(file))
            assert found[kind][-1].problem == ""
    return found


def hashes(found):
    return [one.perceptual_hash for one in found], [one.centre_hash for one in found]


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_near_its_original_and_to_no_other_animal(inspected, kind):
    count = len(inspected["original"])
    pairs = near_pairs(*hashes([*inspected["original"], *inspected[kind]]))[:, :2]
    assert {(place, place + count) for place in range(count)} <= set(map(tuple, pairs.tolist()))
    class_of = np.arange(2 * count) % count // DRAWN  # drawings of one class share a sketch, and may be near
    assert (class_of[pairs[:, 0]] == class_of[pairs[:, 1]]).all()


def test_all_copies_of_a_drawing_are_one_group(inspected):
    found = [one for kind in inspected.values() for one in kind[::DRAWN]]
    groups = duplicate_groups([one.sha256 for one in found], *hashes(found))
    assert groups.tolist() == [*range(len(ANIMALS10))] * len(inspected)


def test_mirrored_picture_has_the_hash_with_odd_columns_flipped(drawings, tmp_path):
    for picture in drawings:
        small = picture.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
        thumbnail = np.asarray(small, np.float32)
        flipped_hash = text(int(perceptual_hash(thumbnail), 16) ^ ODD_COLUMNS)
        assert perceptual_hash(np.ascontiguousarray(thumbnail[:, ::-1])) == flipped_hash
        found = []
        for view in (small, ImageOps.mirror(small)):
            view.save(tmp_path / "a.png")
            found.append(inspect(tmp_path / "a.png"))
        assert near_pairs(*hashes(found)).tolist() == [[0, 1, 0]]
        assert found[1].perceptual_hash == flipped_hash
