"""Drawing, saving, loading and verifying the split."""

import csv
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import train_test_split

from animals_pl.data.catalog import ANIMALS10_COUNTS, Catalog, scan_folder
from animals_pl.data.splits import Split, load_split, stratified_split
from animals_pl.errors import UsageError


def listing(counts: dict[str, int]) -> Catalog:
    """Return a catalog of images that need not exist."""
    paths = [f"{name}/{index}.jpg" for name, count in counts.items() for index in range(count)]
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    return Catalog(Path("images"), list(counts), paths, labels)


def reordered(catalog: Catalog, order: np.ndarray) -> Catalog:
    return Catalog(catalog.root, catalog.class_names, [catalog.paths[i] for i in order], catalog.labels[order])


def per_class(paths: list[str]) -> dict[str, int]:
    names = [path.split("/")[0] for path in paths]
    return {name: names.count(name) for name in set(names)}


def refusal(function, *args) -> str:
    with pytest.raises(UsageError) as caught:
        function(*args)
    assert "\n" not in str(caught.value)
    return str(caught.value)


COUNTS = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 60), min_size=1)
FRACTIONS = st.tuples(st.floats(0.05, 0.6), st.one_of(st.just(0.0), st.floats(0.01, 0.35)))


@settings(max_examples=60, deadline=None)
@given(counts=COUNTS, fractions=FRACTIONS, seed=st.integers(0, 2**32 - 1))
def test_folds_are_disjoint_complete_and_within_one_of_their_share(counts, fractions, seed):
    catalog = listing(counts)
    try:
        split = stratified_split(catalog, *fractions, seed)
    except UsageError:
        # Rightly refused only where no class has a whole image to give to training and to validation.
        share = min(fractions[0], 1 - sum(fractions))
        assert all(count * share < 1 for count in counts.values())
        return
    splits = [split.train, split.val, split.test]
    assert sorted(split.train + split.val + split.test) == sorted(catalog.paths)
    assert all(split_name == sorted(split_name) for split_name in splits)
    for split_name, fraction in zip(splits, (1 - sum(fractions), *fractions), strict=True):
        found = per_class(split_name)
        for name, count in counts.items():
            assert abs(found.get(name, 0) - count * fraction) < 1 + 1e-6


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS, fractions=FRACTIONS, seed=st.integers(0, 99), shuffle=st.integers(0, 99))
def test_split_does_not_depend_on_the_order_of_the_files(counts, fractions, seed, shuffle):
    catalog = listing(counts)
    assume(min(counts.values()) * min(fractions[0], 1 - sum(fractions)) >= 1)
    order = np.random.default_rng(shuffle).permutation(len(catalog.paths))
    assert stratified_split(reordered(catalog, order), *fractions, seed) == stratified_split(catalog, *fractions, seed)


def test_split_is_this_very_one_on_every_machine():
    assert stratified_split(listing({"a": 10, "b": 4}), 0.3, 0.2, seed=42) == Split(
        train=["a/0.jpg", "a/1.jpg", "a/2.jpg", "a/3.jpg", "a/9.jpg", "b/0.jpg", "b/2.jpg"],
        val=["a/4.jpg", "a/6.jpg", "a/7.jpg", "b/3.jpg"],
        test=["a/5.jpg", "a/8.jpg", "b/1.jpg"],
    )


def test_seed_42_is_the_default():
    catalog = listing({"a": 40, "b": 40})
    assert stratified_split(catalog, 0.3) == stratified_split(catalog, 0.3, 0.0, 42)


def test_every_seed_gives_another_split():
    catalog = listing({"a": 50, "b": 50})
    drawn = {tuple(stratified_split(catalog, 0.3, 0.2, seed).val) for seed in range(50)}
    assert len(drawn) == 50


def test_every_image_is_equally_likely_to_be_validated():
    catalog = listing({"a": 20, "b": 30})
    draws = 400
    seen = dict.fromkeys(catalog.paths, 0)
    for seed in range(draws):
        for path in stratified_split(catalog, 0.3, 0.0, seed).val:
            seen[path] += 1
    # Five standard deviations of a binomial count.
    assert max(abs(count - 0.3 * draws) for count in seen.values()) < 5 * np.sqrt(draws * 0.3 * 0.7)


@settings(max_examples=60, deadline=None)
@given(count=st.integers(10, 60), seed=st.integers(0, 999), name=st.text("xyz", min_size=1, max_size=5))
def test_a_new_image_moves_at_most_one_other(count, seed, name):
    before = stratified_split(listing({"a": count, "b": 20}), 0.3, 0.0, seed)
    catalog = listing({"a": count, "b": 20})
    grown = Catalog(catalog.root, ["a", "b"], [*catalog.paths, f"a/{name}.jpg"], np.r_[catalog.labels, 0])
    after = stratified_split(grown, 0.3, 0.0, seed)
    moved = {path for path in before.train if path in after.val} | {path for path in before.val if path in after.train}
    assert len(moved) <= 1
    assert not any(path.startswith("b/") for path in moved)


def test_animals10_divides_as_in_the_reference():
    catalog = listing(ANIMALS10_COUNTS)
    split = stratified_split(catalog, 0.3)
    assert (len(split.train), len(split.val), len(split.test)) == (18_325, 7_854, 0)
    _, reference = train_test_split(catalog.paths, test_size=0.3, stratify=catalog.labels, random_state=42)
    theirs, ours = per_class(reference), per_class(split.val)
    assert all(abs(theirs[name] - ours[name]) <= 1 for name in ANIMALS10_COUNTS)


def test_ties_of_a_class_of_one_go_to_training():
    split = stratified_split(listing({"many": 10, "one": 1}), 0.5)
    assert "one/0.jpg" in split.train


@pytest.mark.parametrize(
    ("val", "test"),
    [
        (0.0, 0.0),
        (1.0, 0.0),
        (-0.1, 0.2),
        (0.3, -0.1),
        (0.5, 0.5),
        (0.7, 0.4),
        (1.5, 0.0),
        (0.3, 1.0),
        (float("nan"), 0),
    ],
)
def test_fractions_that_do_not_fit_are_refused(val, test):
    message = refusal(stratified_split, listing({"a": 50}), val, test)
    assert f"data.val_fraction={val}" in message
    assert f"data.test_fraction={test}" in message
    assert "a sum below 1" in message


@pytest.mark.parametrize(("counts", "val"), [({"a": 1}, 0.3), ({"a": 1}, 0.9), ({"a": 1, "b": 1}, 0.3), ({}, 0.3)])
def test_too_few_images_are_refused(counts, val):
    message = refusal(stratified_split, listing(counts), val)
    assert f"data.root='images' has too few images ({sum(counts.values())}) for" in message
    assert f"data.val_fraction={val}" in message
    assert "Add images" in message


@pytest.mark.parametrize("test_fraction", [0.0, 0.2])
def test_saved_split_is_loaded_again(tiny_tree, tmp_path, recwarn, test_fraction):
    catalog = scan_folder(tiny_tree)
    split = stratified_split(catalog, 0.3, test_fraction)
    split.save(tmp_path / "split.csv", catalog)
    assert load_split(tmp_path / "split.csv", catalog) == split
    assert load_split(str(tmp_path / "split.csv"), catalog) == split
    assert not recwarn.list


def test_saved_file_names_path_class_and_fold_of_every_image(tiny_tree, tmp_path):
    catalog = scan_folder(tiny_tree)
    split = stratified_split(catalog, 0.3, 0.2)
    split.save(tmp_path / "split.csv", catalog)
    rows = list(csv.reader((tmp_path / "split.csv").open(newline="", encoding="utf-8")))
    assert rows[0] == ["path", "label", "split", "sha256", "group"]
    assert [row[0] for row in rows[1:]] == catalog.paths
    assert all(path.split("/")[0] == label for path, label, *_ in rows[1:])
    assert all(path in getattr(split, split_name) for path, _, split_name, *_ in rows[1:])
    assert [file.name for file in tmp_path.iterdir()] == ["split.csv"]


def test_awkward_file_names_survive_the_file(tmp_path):
    paths = ["a/com,ma.jpg", 'a/"quoted".jpg', "a/nüß 犬.jpg", "a/two\nlines.jpg", "a/ blank .jpg"]
    catalog = Catalog(tmp_path, ["a"], sorted(paths), np.zeros(5, np.int64))
    split = stratified_split(catalog, 0.4, 0.2)
    split.save(tmp_path / "split.csv", catalog)
    assert load_split(tmp_path / "split.csv", catalog) == split


@pytest.mark.parametrize("old", [None, "the old content"])
def test_interrupted_save_leaves_what_was_there(tmp_path, old):
    class Interrupting(list):
        def __iter__(self):
            yield from super().__iter__()
            raise KeyboardInterrupt

    file = tmp_path / "split.csv"
    if old:
        file.write_text(old)
    catalog = listing({"a": 9})
    cut_short = Catalog(catalog.root, catalog.class_names, Interrupting(catalog.paths), catalog.labels)
    with pytest.raises(KeyboardInterrupt):
        stratified_split(catalog, 0.3).save(file, cut_short)
    assert (file.read_text() if file.exists() else None) == old


def test_save_replaces_an_older_file(tmp_path):
    catalog = listing({"a": 9})
    file = tmp_path / "split.csv"
    file.write_text("older\n" * 1000)
    split = stratified_split(catalog, 0.3)
    split.save(file, catalog)
    assert load_split(file, catalog) == split


HEADER = "path,label,split\n"
WHOLE = "a/0.jpg,a,train\na/1.jpg,a,train\na/2.jpg,a,val\n"


def written(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "split.csv"
    file.write_text(text, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("file,label,split\na/0.jpg,a,train\n", "has no column 'path'"),
        ("path,label,subset\na/0.jpg,a,train\n", "has no column 'split'"),
        (HEADER + "a/0.jpg,a,treno\n", "'treno'"),
        (HEADER + "a/0.jpg,a,\n", "train, val or test"),
        (HEADER + "a/0.jpg\n", "'a/0.jpg'"),
        ("a/0.jpg,a,train\na/1.jpg,a,train\n", "has no column 'path'"),
        (HEADER + WHOLE + "a/0.jpg,a,val\n", "images more than once (1 extra row, first: a/0.jpg)"),
        (HEADER + WHOLE + "a/1.jpg,a,train\n" * 2, "images more than once (2 extra rows, first: a/1.jpg)"),
        (
            HEADER + WHOLE + "a/99.jpg,a,val\nb/0.jpg,b,val\n",
            "2 images not in 'images' (first: a/99.jpg)",
        ),
    ],
)
def test_malformed_split_file_is_refused_by_name(tmp_path, text, says):
    file = written(tmp_path, text)
    message = refusal(load_split, file, listing({"a": 3}))
    assert f"data.split={str(file)!r}" in message
    assert says in message


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "a/0.jpg,a,val\n"])
@pytest.mark.filterwarnings("ignore:.*not in this split")
def test_split_file_without_training_images_is_refused(tmp_path, text):
    file = written(tmp_path, text)
    assert f"data.split={str(file)!r}" in refusal(load_split, file, listing({"a": 3}))


@pytest.mark.filterwarnings("ignore:.*not in this split")
@pytest.mark.parametrize(("split", "absent"), [("val", "train"), ("train", "val"), ("test", "train or val")])
def test_the_splits_without_images_are_named(tmp_path, split, absent):
    file = written(tmp_path, f"{HEADER}a/0.jpg,a,{split}\n")
    assert f"lists no images for {absent}. Pass" in refusal(load_split, file, listing({"a": 3}))


def test_split_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "split.csv"
    file.write_bytes(b"\xff\xfe\x00\x81" * 50)
    assert f"data.split={str(file)!r}" in refusal(load_split, file, listing({"a": 3}))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_missing_split_file_is_named_with_a_remedy(tmp_path, name):
    message = refusal(load_split, tmp_path / name, listing({"a": 3}))
    assert f"data.split={str(tmp_path / name)!r} is not a file" in message
    assert "Fix the path or remove data.split." in message


@pytest.mark.parametrize("train", ["Train", "TRAINING", "train "])
@pytest.mark.parametrize("val", ["Val", "validation", " valid"])
def test_splits_may_have_the_names_of_folders(tmp_path, train, val):
    file = written(tmp_path, f"Path;Split\na/0.jpg;{train}\na/1.jpg;{val}\na/2.jpg;Left out\n")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_split(file, listing({"a": 3})) == Split(train=["a/0.jpg"], val=["a/1.jpg"])


def test_columns_may_stand_in_another_order_and_label_may_be_absent(tmp_path):
    file = written(tmp_path, "split,path\nval,a/1.jpg\ntrain,a/2.jpg\ntrain,a/0.jpg\n")
    assert load_split(file, listing({"a": 3})) == Split(train=["a/0.jpg", "a/2.jpg"], val=["a/1.jpg"])


def test_images_that_the_file_does_not_name_are_left_out_with_a_warning(tmp_path):
    file = written(tmp_path, HEADER + WHOLE)
    expected = r"^2 images in images are not in this split and are left out: .*split\.csv"
    with pytest.warns(UserWarning, match=expected) as caught:
        split = load_split(file, listing({"a": 5}))
    assert len(caught) == 1
    assert split == Split(train=["a/0.jpg", "a/1.jpg"], val=["a/2.jpg"])


def test_complete_file_gives_no_warning(tmp_path):
    file = written(tmp_path, HEADER + WHOLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_split(file, listing({"a": 3})).val == ["a/2.jpg"]


# ---------------------------------------------------------------- groups


SPLITS = ("train", "val", "test")
PERCENT = st.tuples(st.integers(5, 60), st.integers(0, 35))
"""Parts of a hundred for validation and for test."""


@st.composite
def grouped(draw, mixed: bool) -> Catalog:
    """Return a catalog of groups of one class each, or of groups that may hold several; -1 and lone ones included."""
    counts = draw(st.dictionaries(st.sampled_from("abcde"), st.integers(1, 30), min_size=1))
    catalog = listing(counts)
    many = draw(st.integers(1, 12))
    groups = np.array(draw(st.lists(st.integers(-1, many), min_size=len(catalog.paths), max_size=len(catalog.paths))))
    if not mixed:
        groups = np.where(groups < 0, -1, groups + 100 * catalog.labels)
    return replace(catalog, groups=groups)


def divided(catalog: Catalog, split: Split) -> list[int]:
    """Return the numbers of the groups that are in more than one split."""
    splits: dict[int, set[str]] = {}
    for path, group in zip(catalog.paths, catalog.groups.tolist(), strict=True):
        if group >= 0:
            splits.setdefault(group, set()).update(
                split_name for split_name in SPLITS if path in getattr(split, split_name)
            )
    return [group for group, found in splits.items() if len(found) > 1]


def exact_quotas(count: int, parts: Sequence[Fraction]) -> list[int] | None:
    """Divide by largest remainder in whole numbers; None where two remainders tie for the last image."""
    whole = [count * part // 1 for part in parts]
    remainders = [count * part % 1 for part in parts]
    missing = count - sum(whole)
    ranked = sorted(remainders, reverse=True)
    if 0 < missing < len(parts) and ranked[missing - 1] == ranked[missing]:
        return None
    return [int(w) + (missing > 0 and r >= ranked[missing - 1]) for w, r in zip(whole, remainders, strict=True)]


def largest_groups(catalog: Catalog) -> list[int]:
    """Return the size of the largest group of each class; an image without one counts as a group of one."""
    sizes = Counter(zip(catalog.labels.tolist(), catalog.groups.tolist(), strict=True))
    return [
        max([1, *(size for (of, group), size in sizes.items() if of == label and group >= 0)])
        for label in range(len(catalog.class_names))
    ]


@settings(max_examples=60, deadline=None)
@given(catalog=grouped(mixed=True), percent=PERCENT, seed=st.integers(0, 2**32 - 1))
def test_no_group_is_divided_and_every_image_is_in_one_fold(catalog, percent, seed):
    try:
        split = stratified_split(catalog, percent[0] / 100, percent[1] / 100, seed)
    except UsageError:
        assume(False)
    assert divided(catalog, split) == []
    assert sorted(split.train + split.val + split.test) == sorted(catalog.paths)
    assert all(getattr(split, split_name) == sorted(getattr(split, split_name)) for split_name in SPLITS)
    assert percent[1] or not split.test


@settings(max_examples=75, deadline=None)
@given(catalog=grouped(mixed=False), percent=PERCENT, seed=st.integers(0, 99))
def test_a_class_misses_its_quota_by_less_than_its_largest_group(catalog, percent, seed):
    val, test = (Fraction(part, 100) for part in percent)
    counts = np.bincount(catalog.labels).tolist()
    quotas = [exact_quotas(count, (1 - val - test, val, test)) for count in counts]
    assume(None not in quotas)
    largest = largest_groups(catalog)
    try:
        split = stratified_split(catalog, float(val), float(test), seed)
    except UsageError:
        # Rightly refused only where training or validation may be left without an image of any class.
        assert any(all(q[index] < most for q, most in zip(quotas, largest, strict=True)) for index in (0, 1))
        return
    for split_name, name in enumerate(SPLITS):
        found = per_class(getattr(split, name))
        for label, class_name in enumerate(catalog.class_names):
            assert abs(found.get(class_name, 0) - quotas[label][split_name]) < largest[label]


@settings(max_examples=50, deadline=None)
@given(counts=COUNTS, seed=st.integers(0, 99), numbers=st.randoms(use_true_random=False))
def test_groups_of_one_leave_the_split_as_it_is_without_groups(counts, seed, numbers):
    catalog = listing(counts)
    assume(max(counts.values()) >= 10)
    plain = stratified_split(catalog, 0.3, 0.2, seed)
    alone = np.array(numbers.sample(range(10 * len(catalog.paths)), len(catalog.paths)))
    none = np.full(len(catalog.paths), -1)
    some = np.where(np.arange(len(catalog.paths)) % 3 == 0, -1, alone)
    for groups in (none, alone, some):
        assert stratified_split(replace(catalog, groups=groups), 0.3, 0.2, seed) == plain


@settings(max_examples=40, deadline=None)
@given(catalog=grouped(mixed=True), seed=st.integers(0, 99), chance=st.randoms(use_true_random=False))
def test_neither_the_order_of_the_files_nor_the_numbers_of_the_groups_change_the_split(catalog, seed, chance):
    try:
        split = stratified_split(catalog, 0.3, 0.2, seed)
    except UsageError:
        assume(False)
    order = np.array(chance.sample(range(len(catalog.paths)), len(catalog.paths)))
    known = np.unique(catalog.groups[catalog.groups >= 0]).tolist()
    number = {-1: -1, **dict(zip(known, chance.sample(range(1000), len(known)), strict=True))}
    groups = np.array([number[group] for group in catalog.groups.tolist()])
    other = replace(reordered(catalog, order), groups=groups[order])
    assert stratified_split(other, 0.3, 0.2, seed) == split


def test_every_seed_puts_other_groups_in_validation():
    catalog = listing({"a": 60, "b": 60})
    catalog = replace(catalog, groups=np.arange(120) // 3)
    drawn = [stratified_split(catalog, 0.3, 0.2, seed) for seed in range(30)]
    assert len({tuple(split.val) for split in drawn}) == 30
    assert all(divided(catalog, split) == [] for split in drawn)


def test_groups_are_drawn_by_chance_and_not_by_name():
    catalog = replace(listing({"a": 40}), groups=np.arange(40) // 2)
    draws = 400
    seen = Counter(path for seed in range(draws) for path in stratified_split(catalog, 0.3, 0.0, seed).val)
    # Five standard deviations of a binomial count.
    assert max(abs(seen[path] - 0.3 * draws) for path in catalog.paths) < 5 * np.sqrt(draws * 0.3 * 0.7)


def test_large_groups_are_placed_while_there_is_room_for_them():
    catalog = listing({"a": 10})
    for seed in range(10):
        split = stratified_split(replace(catalog, groups=np.repeat([0, 1], [3, 7])), 0.3, 0.0, seed)
        assert (len(split.train), len(split.val)) == (7, 3)


def test_no_group_goes_to_a_fold_that_is_not_wanted():
    # Of the last group, training has too many of one class already, and validation of the other.
    groups = np.r_[np.zeros(15), 1, 2, -np.ones(3), np.ones(14), 2, -np.ones(5)].astype(np.int64)
    catalog = replace(listing({"a": 20, "b": 20}), groups=groups)
    for seed in range(5):
        split = stratified_split(catalog, 0.5, 0.0, seed)
        assert split.test == [] and len(split.train + split.val) == 40
        assert divided(catalog, split) == []


@pytest.mark.parametrize("counts", [{"a": 20}, {"a": 12, "b": 9}])
def test_one_group_of_everything_is_refused_with_the_keys_that_made_it(counts):
    catalog = listing(counts)
    message = refusal(stratified_split, replace(catalog, groups=np.zeros(len(catalog.paths), np.int64)), 0.3)
    assert "data.group_duplicates" in message and "data.group_by" in message
    assert ") for data.val_fraction=0.3" in message


def test_too_few_images_without_groups_are_not_blamed_on_groups():
    assert "group" not in refusal(stratified_split, listing({"a": 1}), 0.3)


# ---------------------------------------------------------------- contents


def hashed(counts: dict[str, int]) -> Catalog:
    """Return a catalog in which every image has a content of its own."""
    catalog = listing(counts)
    return replace(catalog, sha256=[f"content of {path}" for path in catalog.paths])


def changed(catalog: Catalog, contents: dict[str, str]) -> Catalog:
    """Return the catalog with other contents of some paths; new paths are added, those with an empty content removed.

    Paths begin with the name of their class.
    """
    content_of = dict(zip(catalog.paths, catalog.sha256, strict=True)) | contents
    paths = sorted(path for path, content in content_of.items() if content)
    labels = np.array([catalog.class_names.index(path.split("/")[0]) for path in paths], dtype=np.int64)
    return Catalog(catalog.root, catalog.class_names, paths, labels, [content_of[path] for path in paths])


def saved(tmp_path: Path, catalog: Catalog, seed: int = 42) -> tuple[Path, Split]:
    split = stratified_split(catalog, 0.3, 0.2, seed)
    split.save(tmp_path / "split.csv", catalog)
    return tmp_path / "split.csv", split


def split_of(split: Split) -> dict[str, str]:
    return {path: split_name for split_name in SPLITS for path in getattr(split, split_name)}


def quiet_load(*args) -> Split:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load_split(*args)


def warned_load(*args) -> tuple[Split, str]:
    """Return the split and the only warning."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        split = load_split(*args)
    assert len(caught) == 1
    return split, str(caught[0].message)


def test_saved_rows_hold_contents_groups_and_who_is_left_out(tmp_path):
    catalog = replace(hashed({"a": 10, "b": 8}), groups=np.array([7, 7, *[-1] * 14, 0, 0]))
    usable = catalog.select([path for path in catalog.paths if path not in ("a/9.jpg", "b/7.jpg")])
    split = stratified_split(usable, 0.3, 0.2)
    split.save(tmp_path / "split.csv", catalog)
    with (tmp_path / "split.csv").open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert list(rows[0]) == ["path", "label", "split", "sha256", "group"]
    assert {row["path"]: row["sha256"] for row in rows} == {path: f"content of {path}" for path in catalog.paths}
    assert {row["path"]: row["split"] for row in rows} == {
        **split_of(split),
        "a/9.jpg": "left out",
        "b/7.jpg": "left out",
    }
    assert {row["path"]: row["group"] for row in rows if row["group"]} == {
        **dict.fromkeys(("a/0.jpg", "a/1.jpg"), "7"),
        **dict.fromkeys(("b/6.jpg", "b/7.jpg"), "0"),
    }
    assert [row["label"] for row in rows] == [path[0] for path in catalog.paths]


def test_images_that_were_left_out_stay_out_without_a_word(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    split = stratified_split(catalog.select(catalog.paths[1:-1]), 0.3, 0.2)
    split.save(tmp_path / "split.csv", catalog)
    assert quiet_load(tmp_path / "split.csv", catalog) == split
    gone = changed(catalog, {catalog.paths[0]: ""})
    assert quiet_load(tmp_path / "split.csv", gone) == split


def test_a_changed_image_is_named_and_keeps_its_fold(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    loaded, message = warned_load(file, changed(catalog, {"a/3.jpg": "another content"}))
    assert loaded == split
    assert "1 image in images changed since this split was made: a/3.jpg" in message


@pytest.mark.parametrize("target", ["a/z.jpg", "a/deeper/0.jpg", "b/0 of another label.jpg"])
@pytest.mark.parametrize("split_name", SPLITS)
def test_a_moved_image_is_followed_to_where_it_is(tmp_path, split_name, target):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    source = next(path for path in getattr(split, split_name) if path.startswith("a/"))
    loaded, message = warned_load(file, changed(catalog, {source: "", target: f"content of {source}"}))
    assert split_of(loaded) == {target if path == source else path: name for path, name in split_of(split).items()}
    assert f"1 image in images moved since this split was made: {source} → {target}" in message


def test_two_moved_images_of_one_content_are_both_followed(tmp_path):
    twins = ["a/0.jpg", "a/1.jpg"]
    catalog = changed(hashed({"a": 10, "b": 8}), dict.fromkeys(twins, "twin"))
    catalog = replace(catalog, groups=np.array([0, 0, *[-1] * 16]))
    file, split = saved(tmp_path, catalog)
    split_name = split_of(split)[twins[0]]
    moves = {**dict.fromkeys(twins, ""), "a/x.jpg": "twin", "a/y.jpg": "twin"}
    loaded, message = warned_load(file, changed(catalog, moves))
    kept = {path: name for path, name in split_of(split).items() if path not in twins}
    assert split_of(loaded) == {**kept, "a/x.jpg": split_name, "a/y.jpg": split_name}
    assert "2 images" in message
    assert "a/0.jpg → a/x.jpg" in message and "a/1.jpg → a/y.jpg" in message


def test_a_copy_of_an_image_that_is_still_there_is_new_and_not_moved(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    loaded, message = warned_load(file, changed(catalog, {"a/copy.jpg": "content of a/0.jpg"}))
    assert loaded == split
    assert "1 image in images is not in this split and is left out: a/copy.jpg" in message


def test_image_is_not_taken_for_two_that_are_gone(tmp_path):
    catalog = changed(hashed({"a": 10, "b": 8}), {"a/0.jpg": "twin", "a/1.jpg": "twin"})
    file, _ = saved(tmp_path, catalog)
    message = refusal(load_split, file, changed(catalog, {"a/0.jpg": "", "a/1.jpg": "", "a/x.jpg": "twin"}))
    assert "lists 1 image not in 'images' (first: a/1.jpg)" in message


def test_added_images_are_named(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    added = {f"b/new {number}.jpg": f"new {number}" for number in range(5)}
    loaded, message = warned_load(file, changed(catalog, added))
    assert loaded == split
    assert "5 images in images are not in this split and are left out: " in message
    assert "b/new 0.jpg, b/new 1.jpg, b/new 2.jpg, …" in message


def test_a_missing_image_is_an_error_that_names_it(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, _ = saved(tmp_path, catalog)
    message = refusal(load_split, file, changed(catalog, {"b/2.jpg": "", "a/4.jpg": ""}))
    assert f"data.split={str(file)!r} lists 2 images not in 'images' (first: a/4.jpg)" in message


def test_images_left_out_on_purpose_are_dropped_from_their_folds(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    dropped = {split.train[0], split.val[0], split.test[0]}
    loaded = quiet_load(file, changed(catalog, dict.fromkeys(dropped, "")), dropped)
    assert split_of(loaded) == {path: split_name for path, split_name in split_of(split).items() if path not in dropped}


def test_image_left_out_on_purpose_is_not_followed_to_its_copy(tmp_path):
    catalog = hashed({"a": 10, "b": 8})
    file, split = saved(tmp_path, catalog)
    dropped = split.val[0]
    now = changed(catalog, {dropped: "", "a/copy.jpg": f"content of {dropped}"})
    loaded, message = warned_load(file, now, {dropped})
    assert "a/copy.jpg" not in split_of(loaded)
    assert "is not in this split and is left out: a/copy.jpg" in message


@pytest.mark.parametrize("contents", [True, False])
def test_a_file_without_contents_still_loads(tmp_path, contents):
    catalog = hashed({"a": 3}) if contents else listing({"a": 3})
    assert quiet_load(written(tmp_path, HEADER + WHOLE), catalog).train == ["a/0.jpg", "a/1.jpg"]


def test_without_contents_no_image_is_taken_for_another(tmp_path):
    file = written(tmp_path, HEADER + WHOLE)
    assert "(first: a/2.jpg)" in refusal(load_split, file, changed(hashed({"a": 3}), {"a/2.jpg": "", "a/x.jpg": "x"}))
    paths = ["a/0.jpg", "a/1.jpg", "a/x.jpg"]
    assert "(first: a/2.jpg)" in refusal(load_split, file, Catalog(Path("p"), ["a"], paths, np.zeros(3, np.int64)))
