"""Which pictures are near each other, and the groups of duplicates that follow."""

from __future__ import annotations

import functools
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance, ImageOps

from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.decode import decode
from animals_pl.data.inspection import duplicates
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import (
    MAX_COLOUR_RMSE,
    MAX_COMPONENT,
    MAX_DISTANCE,
    components,
    duplicate_groups,
    near_pairs,
)
from animals_pl.data.inspection.image_facts import inspect, perceptual_hash
from animals_pl.data.sources.practice.practice_set import draw_animal
from animals_pl.data.walk import find_images
from scripts.bench.duplicates import COPIES as BENCHMARK_COPIES

BITS, DIGITS = 256, 64

ODD_COLUMNS = int("01" * (BITS // 2), 2)
"""The bits that change when a picture is mirrored: rows are 16 bits long, so odd columns are odd bits."""

COLOURS = np.random.default_rng(48).integers(60, 200, (4, 4, 3))


def text(number, colours=COLOURS):
    """Return the perceptual hash of this structure and these (4, 4, 3) colours."""
    return f"{number:064x}" + np.asarray(colours).astype(np.uint8).tobytes().hex()


def parts(hash_text):
    fields = np.frombuffer(bytes.fromhex(hash_text[DIGITS:]), np.uint8).reshape(4, 4, 3)
    return int(hash_text[:DIGITS], 16), fields.astype(np.float64)


def mirrored(hash_text):
    """Return the hash of the mirrored picture."""
    number, colours = parts(hash_text)
    return text(number ^ ODD_COLUMNS, colours[:, ::-1])


def colours_apart(one, other):
    """Bring both to mean 0 and to the geometric mean of their deviations, and return what is left between them."""
    one, other = one - one.mean(), other - other.mean()
    common = math.sqrt(one.std() * other.std())
    if common == 0:
        return 0.0
    return math.sqrt(((one * common / one.std() - other * common / other.std()) ** 2).mean())


@functools.cache
def views(one, other):
    """Return, for each way to compare two (hash, hash of the middle), the bits and the colours in which they differ."""
    found = []
    for mine, yours in ((one[0], other[0]), (one[0], other[1]), (one[1], other[0])):
        for view in (mine, mirrored(mine)):
            (bits, colours), (other_bits, other_colours) = parts(view), parts(yours)
            found.append(((bits ^ other_bits).bit_count(), colours_apart(colours, other_colours)))
    return found


def bits_apart(one, other):
    """Return the least number of bits that differ in any view, bit by bit, whatever the colours."""
    pairs = [(one[0], other[0]), (one[0], other[1]), (one[1], other[0])]
    differing = [int(a[:DIGITS], 16) ^ int(b[:DIGITS], 16) for a, b in pairs]
    return min((bits ^ turned).bit_count() for bits in differing for turned in (0, ODD_COLUMNS))


def no(i, j):
    """Find no two to be one picture, when asked."""
    return False


def yes(i, j):
    """Find any two to be one picture, when asked."""
    return True


def unasked(i, j):
    """Be asked of no two."""
    raise AssertionError("their colours agree, or their structures do not")


def all_near(pictures, distance=MAX_DISTANCE, same=no):
    """Compare every two pictures, one after the other, and return who is near and in which views."""
    found = {}
    for i, j in itertools.combinations(range(len(pictures)), 2):
        near = [view for view in views(pictures[i], pictures[j]) if view[0] <= distance]
        if near and (min(colours for _, colours in near) <= MAX_COLOUR_RMSE or same(i, j)):
            found[i, j] = {bits for bits, _ in near}
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
    """Flip so many random bits of a structure."""
    for place in rng.choice(BITS, count, replace=False).tolist():
        number ^= 1 << place
    return number


def random_bits(rng):
    return int.from_bytes(rng.bytes(BITS // 8), "big")


def random_colours(rng):
    return rng.integers(40, 216, (4, 4, 3))


def planted(count, seed, kinds=4):
    """Return (hash, hash of the middle) pairs of which many are near each other, some just in and some just out."""
    rng = np.random.default_rng(seed)
    bases, pictures = [(random_bits(rng), random_colours(rng)) for _ in range(kinds)], []
    for _ in range(count):
        bits, colours = bases[rng.integers(kinds)]
        light = rng.uniform(0.6, 1.3) * (colours - 128) + 128 + rng.uniform(-20, 20)  # brightness and contrast
        copy = flipped(bits, int(rng.integers(0, 60)), rng)
        copy = text(copy, (light + rng.normal(0, rng.choice([1, 4, 9]), (4, 4, 3))).clip(0, 255))
        if rng.random() < 0.5:
            copy = mirrored(copy)
        strange = text(random_bits(rng), random_colours(rng))
        near = text(flipped(parts(copy)[0], int(rng.integers(0, 50)), rng), parts(copy)[1])
        other = strange if rng.random() < 0.5 else near
        pictures.append((copy, other)[:: int(rng.choice([-1, 1]))])
    return pictures


def as_lists(pictures):
    return [one[0] for one in pictures], [one[1] for one in pictures]


# Near pairs


def some_pairs(i, j):
    return (i + j) % 3 == 0


@pytest.mark.parametrize("chunk", [1, 7, 16, 512])
@pytest.mark.parametrize("same", [no, yes, some_pairs])
def test_near_pairs_are_those_of_comparing_one_by_one(monkeypatch, chunk, same):
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    rng = np.random.default_rng(1)
    strangers = [(text(random_bits(rng)), text(random_bits(rng))) for _ in range(15)]
    pictures = planted(25, 0) + strangers + planted(10, 0)
    expected = all_near(pictures, same=same)
    assert len(all_near(pictures, same=yes)) > len(all_near(pictures)) + 10 > 30
    found = near_pairs(*as_lists(pictures), same)
    assert found.dtype == np.int64
    assert list(map(tuple, found[:, :2].tolist())) == sorted(expected)
    for i, j, bits in found.tolist():
        assert bits in expected[i, j]


@pytest.mark.parametrize("distance", [0, 1, 52, 100, BITS])
def test_distance_is_a_bound_that_is_itself_near(distance):
    pictures = planted(25, seed=9)
    found = near_pairs(*as_lists(pictures), some_pairs, distance)
    assert list(map(tuple, found[:, :2].tolist())) == sorted(all_near(pictures, distance, some_pairs))
    assert (found[:, 2] <= distance).all()


@pytest.mark.parametrize(("apart", "near"), [(0, True), (1, True), (MAX_DISTANCE, True), (MAX_DISTANCE + 1, False)])
@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "mirrored"])
@pytest.mark.parametrize("met", ["whole and whole", "whole and middle", "middle and whole"])
def test_every_way_to_meet_counts_to_the_bit(apart, near, turned, met):
    rng = np.random.default_rng(3)
    one, far, other_far = (text(random_bits(rng)) for _ in range(3))
    copy = text(flipped(parts(one)[0], apart, rng))
    copy = mirrored(copy) if turned else copy
    first = (one, far) if met.startswith("whole") else (far, one)
    second = (copy, other_far) if met.endswith("whole") else (other_far, copy)
    assert near_pairs(*as_lists([first, second]), unasked).tolist() == ([[0, 1, apart]] if near else [])


def test_two_equal_middles_alone_are_not_near():
    rng = np.random.default_rng(4)
    middle = text(random_bits(rng))
    assert len(near_pairs([text(random_bits(rng)), text(random_bits(rng))], [middle, middle], yes)) == 0


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_for_a_pair(count):
    assert near_pairs([text(1)] * count, [text(2)] * count, unasked).shape == (0, 3)


def test_strangers_are_no_pairs():
    rng = np.random.default_rng(5)
    hashes = [text(random_bits(rng)) for _ in range(8)]
    assert near_pairs(hashes, hashes, unasked).shape == (0, 3)


# Colours


def two_of(colours, other_colours, turned=False):
    """Return the hashes of two pictures of the same structure in these colours, and of strange middles."""
    rng = np.random.default_rng(6)
    bits = random_bits(rng)
    second = text(bits, other_colours)
    middles = [text(random_bits(rng), colours), text(random_bits(rng), other_colours)]
    return [text(bits, colours), mirrored(second) if turned else second], middles


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "mirrored"])
@pytest.mark.parametrize("answer", [yes, no])
def test_pair_of_other_colours_is_left_to_a_closer_look(turned, answer):
    asked = []
    hashes, middles = two_of(COLOURS, COLOURS[::-1], turned)
    found = near_pairs(hashes, middles, lambda i, j: asked.append((i, j)) or answer(i, j))
    assert asked == [(0, 1)]
    assert found.tolist() == ([[0, 1, 0]] if answer is yes else [])


@pytest.mark.parametrize("turned", [False, True], ids=["as it is", "mirrored"])
@pytest.mark.parametrize(
    "change",
    [
        lambda c: c + 40,
        lambda c: c - 55,
        lambda c: 0.5 * c,
        lambda c: 1.2 * c,
        lambda c: c + np.indices(c.shape)[0] * 3,
    ],
    ids=["brighter", "darker", "less contrast", "more contrast", "light from below"],
)
def test_light_and_contrast_do_not_make_other_colours(turned, change):
    assert near_pairs(*two_of(COLOURS, change(COLOURS), turned), unasked).tolist() == [[0, 1, 0]]


@pytest.mark.parametrize(("share", "agree"), [(0.98, True), (1.02, False)])
@pytest.mark.parametrize("scale", [0.6, 1.0])
def test_colours_agree_up_to_the_bound(share, agree, scale):
    rng = np.random.default_rng(7)
    noise, colours = rng.normal(0, 1, (4, 4, 3)), np.linspace(40, 200, 48).reshape(4, 4, 3)

    def other(strength):
        return scale * (colours + strength * noise)

    strength = min(
        np.linspace(0, 20, 2001), key=lambda x: abs(colours_apart(colours, other(x)) - share * MAX_COLOUR_RMSE)
    )
    hashes, middles = two_of(colours, other(strength))
    assert (colours_apart(parts(hashes[0])[1], parts(hashes[1])[1]) <= MAX_COLOUR_RMSE) == agree
    assert len(near_pairs(hashes, middles, unasked if agree else no)) == agree


def test_picture_of_one_colour_agrees_with_any():
    flat = np.full((4, 4, 3), 90)
    for colours in (flat, flat + 50, COLOURS):
        assert near_pairs(*two_of(flat, colours), unasked).tolist() == [[0, 1, 0]]


def test_each_pair_is_asked_of_once_in_order():
    rng, asked = np.random.default_rng(8), []
    bits = random_bits(rng)
    hashes = [text(bits, random_colours(rng)) for _ in range(5)]
    near_pairs(hashes, hashes, lambda i, j: asked.append((i, j)))
    assert asked == list(itertools.combinations(range(5), 2))
    assert all(type(index) is int for pair in asked for index in pair)


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
        start, colours = random_bits(rng), random_colours(rng)
        for copy in range(4):
            near = flipped(start, 30 * copy, rng)  # the last is near to those between, not to the first
            shade = colours if copy % 2 else random_colours(rng)
            pool.append((f"content {base} {copy}", text(near, shade), text(flipped(near, 20, rng), shade)))
    return st.lists(st.sampled_from(pool), max_size=24)


def look(files):
    """Return the closer look at files: some of other colours are one picture, and which does not depend on places."""
    return lambda i, j: (len(files[i][0]) + sum(map(ord, files[i][0] + files[j][0]))) % 3 > 0


def expected_groups(files):
    """Join files of the same content, and near ones, without any taking apart."""
    hashed = [place for place, file in enumerate(files) if file[1]]
    same = look(files)
    near = all_near([files[place][1:] for place in hashed], same=lambda i, j: same(hashed[i], hashed[j]))
    pairs = [(hashed[i], hashed[j]) for i, j in near]
    pairs += [
        (i, j) for i, j in itertools.combinations(range(len(files)), 2) if files[i][0] and files[i][0] == files[j][0]
    ]
    return joined(len(files), pairs)


def grouped(files, same=None):
    contents, hashes, centres = zip(*files, strict=True) if files else ((), (), ())
    return duplicate_groups(contents, hashes, centres, same or look(files))


@settings(max_examples=50, deadline=None)
@given(files=some_files())
def test_groups_are_files_of_the_same_content_and_chains_of_near_ones(files):
    numbers = grouped(files)
    assert (numbers.shape, numbers.dtype) == ((len(files),), np.int64)
    assert groups_of(numbers) == expected_groups(files)


@settings(max_examples=40, deadline=None)
@given(files=some_files())
def test_groups_are_numbered_in_the_order_of_their_first_member(files):
    numbers = grouped(files)
    in_order = list(dict.fromkeys(numbers[numbers >= 0].tolist()))
    assert in_order == list(range(len(in_order)))
    assert all((numbers == number).sum() > 1 for number in in_order)


@settings(max_examples=40, deadline=None)
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
    files = [(name, text(random_bits(rng)), text(random_bits(rng))) for name in "abcd"]
    assert grouped([files[place] for place in (3, 0, 1, 0, 2, 1, 0)]).tolist() == [-1, 0, 1, 0, -1, 1, 0]


def chain(length, step=20, seed=0):
    """Return pictures of which each differs from the one before in ``step`` bits, and from earlier ones in more."""
    rng = np.random.default_rng(seed)
    start, places = random_bits(rng), rng.permutation(BITS).tolist()
    files = []
    for number in range(length):
        whole = start
        for place in places[: step * number]:
            whole ^= 1 << place
        files.append((f"content {seed} {number}", text(whole), text(random_bits(rng))))
    return files


def test_chain_as_long_as_allowed_is_one_group():
    files = chain(MAX_COMPONENT)
    assert bits_apart(files[0][1:], files[-1][1:]) > MAX_DISTANCE
    assert grouped(files).tolist() == [0] * MAX_COMPONENT


def test_exact_copies_do_not_make_a_chain_longer():
    assert grouped(chain(MAX_COMPONENT) * 3).tolist() == [0] * (3 * MAX_COMPONENT)


@pytest.mark.parametrize(
    ("length", "step"), [(MAX_COMPONENT + 1, 20), (12, 20), (60, 4), (40, 6), (MAX_COMPONENT + 1, 6)]
)
def test_longer_chain_is_taken_apart_until_every_two_of_a_group_are_near(length, step):
    files = chain(length, step)
    assert joined(length, all_near([file[1:] for file in files])) == {frozenset(range(length))}
    copies = files + files[::3]
    numbers = grouped(copies)
    for group in groups_of(numbers):
        assert all(
            bits_apart(copies[i][1:], copies[j][1:]) <= MAX_DISTANCE for i, j in itertools.combinations(group, 2)
        )
    assert numbers[length:].tolist() == numbers[:length:3].tolist()
    assert (len(groups_of(numbers)) == 1) == (step * (length - 1) <= MAX_DISTANCE)


@pytest.mark.parametrize(("length", "step"), [(30, 10), (60, 4)])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_no_two_parts_of_a_long_chain_could_have_stayed_together(monkeypatch, chunk, length, step):
    monkeypatch.setattr(duplicates, "_CHUNK", chunk)
    files = chain(length, step)
    parts = groups_of(grouped(files))
    for one, other in itertools.combinations(parts, 2):
        assert max(bits_apart(files[i][1:], files[j][1:]) for i in one for j in other) > MAX_DISTANCE
    for part in parts:
        assert all(bits_apart(files[i][1:], files[j][1:]) <= MAX_DISTANCE for i, j in itertools.combinations(part, 2))


def test_two_of_a_long_chain_that_are_two_pictures_are_kept_apart():
    first, rng = np.linspace(40, 200, 48).reshape(4, 4, 3), np.random.default_rng(12)
    last = first + rng.normal(0, 8, (4, 4, 3))
    between = (first + last) / 2
    assert colours_apart(first, last) > MAX_COLOUR_RMSE > max(colours_apart(between, one) for one in (first, last))
    files = chain(12, 1)
    for place, colours in enumerate([first] + [between] * 10 + [last]):
        files[place] = (files[place][0], text(parts(files[place][1])[0], colours), files[place][2])
    numbers = grouped(files, no)
    assert numbers[0] != numbers[-1]
    assert all(len(group) > 1 for group in groups_of(numbers) if not group & {0, 11})
    assert len(set(grouped(files, yes).tolist())) == 1


def test_closer_look_is_asked_of_the_first_images_of_each_content():
    rng, asked = np.random.default_rng(13), []
    bits = random_bits(rng)
    one, other = (
        (name, text(bits, random_colours(rng)), text(random_bits(rng), random_colours(rng))) for name in ("b", "a")
    )
    files = [UNREAD, FLAT, one, UNREAD, one, other, other, one]
    numbers = grouped(files, lambda i, j: asked.append({i, j}) or True)
    assert asked == [{2, 5}]
    assert numbers.tolist() == [-1, -1, 0, -1, 0, 0, 0, 0]


def test_only_the_long_chain_is_taken_apart():
    long, short = chain(30, 10, seed=1), chain(MAX_COMPONENT, 20, seed=2)
    numbers = grouped(short + long)
    assert numbers[:MAX_COMPONENT].tolist() == [0] * MAX_COMPONENT
    assert len(set(numbers[MAX_COMPONENT:].tolist()) - {-1}) > 1
    assert 0 not in numbers[MAX_COMPONENT:]


def test_long_chains_among_each_other_are_each_taken_apart():
    files = chain(20, 12, seed=1) + chain(30, 10, seed=2)
    order = np.random.default_rng(0).permutation(50)
    files = [(f"content {rank:02}", *file[1:]) for rank, file in zip(order, files, strict=True)]
    found = groups_of(grouped(files))
    apart = {
        pair: bits_apart(files[pair[0]][1:], files[pair[1]][1:]) for pair in itertools.product(range(50), repeat=2)
    }
    for group in found:
        assert max(apart[pair] for pair in itertools.product(group, repeat=2)) <= MAX_DISTANCE
    for one, other in itertools.combinations(found, 2):
        assert max(apart[pair] for pair in itertools.product(one, other)) > MAX_DISTANCE


@settings(max_examples=25, deadline=None)
@given(order=st.permutations(range(30)))
def test_parts_of_a_long_chain_do_not_depend_on_the_order_of_the_files(order):
    files = chain(30, 10)  # of equal steps: every distance occurs many times, and ties must not be broken by order
    back = np.empty(30, np.int64)
    back[order] = grouped([files[place] for place in order])
    assert groups_of(back) == groups_of(grouped(files))


# Pictures

DRAWN = 3
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
    "brighter by 20 %": (lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.2), {}),
    "darker by 40 %": (lambda picture, rng: ImageEnhance.Brightness(picture).enhance(0.6), {}),
    "as PNG": (lambda picture, rng: picture, {"format": "PNG"}),
}


@pytest.fixture(scope="module")
def saved(drawings, tmp_path_factory):
    """Return the files of the drawings, saved as JPEG, and of each kind of copy of them."""
    rng, files = np.random.default_rng(0), {}
    for kind, (edit, options) in {"original": (lambda picture, rng: picture, {}), **COPIES}.items():
        folder = tmp_path_factory.mktemp("drawings")
        files[kind] = [folder / f"{number}.jpg" for number in range(len(drawings))]
        for file, picture in zip(files[kind], drawings, strict=True):
            edit(picture, rng).save(file, **{"format": "JPEG", "quality": 90, **options})
    return files


def hashes_of(files):
    found = [inspect(file) for file in files]
    assert all(one.problem == "" for one in found)
    return [one.perceptual_hash for one in found], [one.centre_hash for one in found]


def groups_of_files(files):
    return duplicate_groups(list(map(str, files)), *hashes_of(files), lambda i, j: same_picture(files[i], files[j]))


@pytest.mark.parametrize("kind", COPIES)
def test_every_copy_is_near_its_original_and_to_no_other(saved, kind):
    files, count = [*saved["original"], *saved[kind]], len(saved["original"])
    pairs = near_pairs(*hashes_of(files), lambda i, j: same_picture(files[i], files[j]))
    assert pairs[:, :2].tolist() == [[place, place + count] for place in range(count)]


def test_different_drawings_are_in_no_group(saved):
    assert (groups_of_files(saved["original"]) == -1).all()


def test_all_copies_of_a_drawing_are_one_group(saved):
    count = len(saved["original"])
    files = [file for kind in saved.values() for file in kind]
    assert groups_of_files(files).tolist() == [*range(count)] * len(saved)


def test_mirrored_picture_has_the_hash_with_odd_columns_flipped(drawings, tmp_path):
    for picture in drawings:
        small = picture.resize((32, 32), Image.Resampling.LANCZOS)
        assert perceptual_hash(ImageOps.mirror(small)) == mirrored(perceptual_hash(small))
        files = [tmp_path / "a.png", tmp_path / "b.png"]
        small.save(files[0])
        ImageOps.mirror(small).save(files[1])
        hashes, centres = hashes_of(files)
        assert hashes[1] == mirrored(hashes[0])
        assert near_pairs(hashes, centres, unasked).tolist() == [[0, 1, 0]]


# More images than can be compared in pairs


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), different=st.integers(0, 6), band=st.integers(0, 1))
def test_index_finds_every_pair_with_three_equal_blocks(seed, different, band):
    """The pigeonhole principle: such a pair is in one of the tables, wherever its bits differ."""
    rng = np.random.default_rng(seed)
    bits = rng.integers(0, 2, (2, 256), dtype=np.uint8)
    bits[1] = bits[0]
    bits[1, duplicates._BANDS[1 - band][::3]] ^= 1
    for block in rng.permutation(9)[:different]:
        bits[1, duplicates._BANDS[band][block::9]] ^= 1
    numbers = [int.from_bytes(np.packbits(each).tobytes(), "big") for each in bits]
    hashes = duplicates._Hashes.parse(map(text, numbers))
    found = np.concatenate(list(duplicates._indexed(hashes, hashes, MAX_DISTANCE)))
    assert set(map(tuple, found[:, :3].tolist())) == {(0, 1, (numbers[0] ^ numbers[1]).bit_count())}


@pytest.mark.parametrize("limit", [1, 1000, 2**22])
def test_index_finds_the_pairs_of_comparing_all(monkeypatch, limit):
    rng = np.random.default_rng(5)
    bases = [random_bits(rng) for _ in range(10)]
    copies = [text(flipped(base, int(rng.integers(4)), rng)) for base in bases for _ in range(6)]
    pictures = [(copy, text(random_bits(rng))) for copy in rng.permutation(copies).tolist()]
    expected = near_pairs(*as_lists(pictures), yes)
    monkeypatch.setattr(duplicates, "MAX_EXHAUSTIVE", 0)
    monkeypatch.setattr(duplicates, "_MAX_CANDIDATES", limit)
    assert len(expected) == 10 * 15
    assert near_pairs(*as_lists(pictures), yes).tolist() == expected.tolist()


def test_index_finds_999_of_1000_copies(saved, monkeypatch):
    """Recall against comparing all pairs, among copies of drawings resized, compressed, cut, mirrored and brighter."""
    hashes, count = hashes_of([file for files in saved.values() for file in files]), len(saved["original"])

    def copies() -> set[tuple[int, int]]:
        pairs = near_pairs(*hashes, yes)[:, :2]
        return set(map(tuple, pairs[pairs[:, 0] % count == pairs[:, 1] % count].tolist()))

    expected = copies()
    monkeypatch.setattr(duplicates, "MAX_EXHAUSTIVE", 0)
    found = copies()
    assert len(expected) >= 44 * count  # of the 45 pairs of 10 files
    assert found <= expected
    assert len(found) >= 0.999 * len(expected)


def test_index_finds_999_of_1000_near_pairs_of_photographs(animals10_root, tmp_path, monkeypatch):
    """Recall among photographs and their edited copies, whatever they show."""
    rng, files = np.random.default_rng(0), find_images(animals10_root)[::40]
    pictures = [Image.fromarray(decode(file)) for file in files]
    for kind, (edit, quality) in BENCHMARK_COPIES.items():
        for number, picture in enumerate(pictures):
            files.append(tmp_path / f"{kind} {number}.jpg")
            edit(picture, rng).save(files[-1], quality=quality)
    hashes = hashes_of(files)
    expected = set(map(tuple, near_pairs(*hashes, yes)[:, :2].tolist()))
    monkeypatch.setattr(duplicates, "MAX_EXHAUSTIVE", 0)
    found = set(map(tuple, near_pairs(*hashes, yes)[:, :2].tolist()))
    assert len(expected) > 25 * len(pictures)
    assert found <= expected
    assert len(found) >= 0.999 * len(expected)
