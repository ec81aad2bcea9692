"""Drawing, saving, loading and verifying the split."""

import csv
import warnings
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
    """Return a catalog of photographs that need not exist."""
    paths = [f"{name}/{index}.jpg" for name, count in counts.items() for index in range(count)]
    labels = np.repeat(np.arange(len(counts)), list(counts.values()))
    return Catalog(Path("photographs"), list(counts), paths, labels)


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


@settings(max_examples=200, deadline=None)
@given(counts=COUNTS, fractions=FRACTIONS, seed=st.integers(0, 2**32 - 1))
def test_folds_are_disjoint_complete_and_within_one_of_their_share(counts, fractions, seed):
    catalog = listing(counts)
    try:
        split = stratified_split(catalog, *fractions, seed)
    except UsageError:
        # Rightly refused only where no class has a whole photograph to give to training and to validation.
        share = min(fractions[0], 1 - sum(fractions))
        assert all(count * share < 1 for count in counts.values())
        return
    folds = [split.train, split.val, split.test]
    assert sorted(split.train + split.val + split.test) == sorted(catalog.paths)
    assert all(fold == sorted(fold) for fold in folds)
    for fold, fraction in zip(folds, (1 - sum(fractions), *fractions), strict=True):
        found = per_class(fold)
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


def test_every_photograph_is_equally_likely_to_be_validated():
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
def test_a_new_photograph_moves_at_most_one_other(count, seed, name):
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
def test_too_few_photographs_are_refused(counts, val):
    message = refusal(stratified_split, listing(counts), val)
    assert f"data.root='photographs' holds only {sum(counts.values())} photographs" in message
    assert f"data.val_fraction={val}" in message
    assert "add photographs" in message


@pytest.mark.parametrize("test_fraction", [0.0, 0.2])
def test_saved_split_is_loaded_again(tiny_tree, tmp_path, recwarn, test_fraction):
    catalog = scan_folder(tiny_tree)
    split = stratified_split(catalog, 0.3, test_fraction)
    split.save(tmp_path / "split.csv", catalog)
    assert load_split(tmp_path / "split.csv", catalog) == split
    assert load_split(str(tmp_path / "split.csv"), catalog) == split
    assert not recwarn.list


def test_saved_file_names_path_class_and_fold_of_every_photograph(tiny_tree, tmp_path):
    catalog = scan_folder(tiny_tree)
    split = stratified_split(catalog, 0.3, 0.2)
    split.save(tmp_path / "split.csv", catalog)
    rows = list(csv.reader((tmp_path / "split.csv").open(newline="", encoding="utf-8")))
    assert rows[0] == ["path", "label", "split", "sha256", "group"]
    assert [row[0] for row in rows[1:]] == catalog.paths
    assert all(path.split("/")[0] == label for path, label, *_ in rows[1:])
    assert all(path in getattr(split, fold) for path, _, fold, *_ in rows[1:])
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
        ("file,label,split\na/0.jpg,a,train\n", "needs a path and a split"),
        ("path,label,fold\na/0.jpg,a,train\n", "needs a path and a split"),
        (HEADER + "a/0.jpg,a,valid\n", "'valid'"),
        (HEADER + "a/0.jpg,a,\n", "train, val or test"),
        (HEADER + "a/0.jpg\n", "'a/0.jpg'"),
        ("a/0.jpg,a,train\na/1.jpg,a,train\n", "needs a path and a split"),
        (HEADER + WHOLE + "a/0.jpg,a,val\n", "1 photographs more than once"),
        (HEADER + WHOLE + "a/0.jpg,a,train\n" * 2, "2 photographs more than once"),
        (
            HEADER + WHOLE + "a/99.jpg,a,val\nb/0.jpg,b,val\n",
            "2 photographs that are not in 'photographs' (first: a/99.jpg)",
        ),
    ],
)
def test_malformed_split_file_is_refused_by_name(tmp_path, text, says):
    file = written(tmp_path, text)
    message = refusal(load_split, file, listing({"a": 3}))
    assert f"data.split={str(file)!r}" in message
    assert says in message


@pytest.mark.parametrize("text", ["", HEADER, HEADER + "a/0.jpg,a,val\n"])
@pytest.mark.filterwarnings("ignore:.*are not named in")
def test_split_file_without_training_photographs_is_refused(tmp_path, text):
    file = written(tmp_path, text)
    assert f"data.split={str(file)!r}" in refusal(load_split, file, listing({"a": 3}))


def test_split_file_that_is_not_text_is_refused(tmp_path):
    file = tmp_path / "split.csv"
    file.write_bytes(b"\xff\xfe\x00\x81" * 50)
    assert f"data.split={str(file)!r}" in refusal(load_split, file, listing({"a": 3}))


@pytest.mark.parametrize("name", ["absent.csv", "."])
def test_missing_split_file_is_named_with_a_remedy(tmp_path, name):
    message = refusal(load_split, tmp_path / name, listing({"a": 3}))
    assert f"data.split={str(tmp_path / name)!r} is not a file" in message
    assert "split.csv of a run" in message


def test_columns_may_stand_in_another_order_and_label_may_be_absent(tmp_path):
    file = written(tmp_path, "split,path\nval,a/1.jpg\ntrain,a/2.jpg\ntrain,a/0.jpg\n")
    assert load_split(file, listing({"a": 3})) == Split(train=["a/0.jpg", "a/2.jpg"], val=["a/1.jpg"])


def test_photographs_that_the_file_does_not_name_are_left_out_with_a_warning(tmp_path):
    file = written(tmp_path, HEADER + WHOLE)
    with pytest.warns(UserWarning, match=r"^2 photographs in photographs are not named in .*split\.csv") as caught:
        split = load_split(file, listing({"a": 5}))
    assert len(caught) == 1
    assert split == Split(train=["a/0.jpg", "a/1.jpg"], val=["a/2.jpg"])


def test_complete_file_gives_no_warning(tmp_path):
    file = written(tmp_path, HEADER + WHOLE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load_split(file, listing({"a": 3})).val == ["a/2.jpg"]
