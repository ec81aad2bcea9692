"""Scanning a folder-per-class dataset and matching its folders to classes."""

import os
import warnings
from itertools import chain
from pathlib import Path
from unicodedata import normalize

import numpy as np
import pytest
from PIL import Image

from animals_pl.data.catalog import (
    ANIMALS10,
    ANIMALS10_COUNTS,
    display_name,
    english_name,
    match_classes,
    scan_folder,
)
from animals_pl.data.prediction import find_prediction_images
from animals_pl.data.walk import find_images
from animals_pl.errors import UsageError

ITALIAN = list(ANIMALS10)


def put(*files: Path) -> None:
    """Write a small image at each path, in the format that its suffix names."""
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4)).save(file)


def refusal(*args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        scan_folder(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_class_table_is_the_references():
    assert len(ANIMALS10) == 10
    assert sum(ANIMALS10_COUNTS.values()) == 26_179
    assert sorted(ANIMALS10) == ITALIAN == list(ANIMALS10_COUNTS)
    assert len(set(ANIMALS10.values()) | set(ANIMALS10)) == 20
    assert (ANIMALS10_COUNTS["cane"], ANIMALS10_COUNTS["elefante"]) == (4863, 1446)


@pytest.mark.parametrize(
    ("name", "english", "shown"),
    [
        ("cane", "dog", "cane (dog)"),
        ("Gatto", "cat", "Gatto (cat)"),
        ("dog", "dog", "dog"),
        ("zebra", "zebra", "zebra"),
    ],
)
def test_names_are_translated_and_others_left_alone(name, english, shown):
    assert english_name(name) == english
    assert display_name(name) == shown


def test_tiny_tree_is_listed_as_it_was_written(tiny_tree):
    catalog = scan_folder(tiny_tree)
    on_disk = sorted(path.relative_to(tiny_tree).as_posix() for path in tiny_tree.glob("*/*.jpg"))
    assert catalog.root == tiny_tree
    assert catalog.paths == on_disk
    assert catalog.class_names == ITALIAN
    assert catalog.labels.dtype == np.int64
    assert [ITALIAN[label] for label in catalog.labels] == [path.split("/")[0] for path in on_disk]
    assert catalog.counts() == {name: len(list((tiny_tree / name).iterdir())) for name in ITALIAN}


def test_nested_and_uppercase_and_every_format_are_found(tmp_path):
    names = [
        "x/a.jpg",
        "x/B.JPG",
        "x/c.JpEg",
        "x/deep/er/d.png",
        "y/e.webp",
        "y/f.bmp",
        "y/g.gif",
        "y/h.tif",
        "y/i.tiff",
    ]
    put(*(tmp_path / name for name in names))
    catalog = scan_folder(tmp_path)
    assert catalog.paths == sorted(names)
    assert catalog.counts() == {"x": 4, "y": 5}


@pytest.mark.parametrize(
    "stray",
    [
        "x/.hidden.jpg",
        "x/.thumbnails/small.jpg",
        "x/._a.jpg",
        "__MACOSX/x/a.jpg",
        ".cache/a.jpg",
        "loose.jpg",
    ],
)
def test_hidden_foreign_and_loose_images_are_passed_over(tmp_path, stray):
    put(tmp_path / "x/a.jpg", tmp_path / stray)
    catalog = scan_folder(tmp_path)
    assert (catalog.paths, catalog.class_names) == (["x/a.jpg"], ["x"])


@pytest.mark.parametrize("stray", ["x/notes.txt", "x/Thumbs.db", "x/jpg", "x/a.jpg.part", "readme.md"])
def test_files_that_are_no_images_are_passed_over(tmp_path, stray):
    put(tmp_path / "x/a.jpg")
    (tmp_path / stray).write_text("text")
    assert scan_folder(tmp_path).paths == ["x/a.jpg"]


def test_a_folder_named_like_an_image_is_not_an_image_but_is_searched(tmp_path):
    put(tmp_path / "x/album.jpg/a.jpg")
    assert scan_folder(tmp_path).paths == ["x/album.jpg/a.jpg"]


def test_linked_folders_are_followed(tmp_path):
    put(tmp_path / "set/x/a.jpg", tmp_path / "disk/b.jpg", tmp_path / "disk/deep/c.jpg", tmp_path / "y/d.jpg")
    (tmp_path / "set/x/more").symlink_to(tmp_path / "disk")
    (tmp_path / "set/y").symlink_to(tmp_path / "y")
    assert scan_folder(tmp_path / "set").paths == ["x/a.jpg", "x/more/b.jpg", "x/more/deep/c.jpg", "y/d.jpg"]


@pytest.mark.parametrize("target", [".", "..", "../..", "deep", "../other/x"])
def test_loops_of_links_are_harmless(tmp_path, target):
    put(tmp_path / "set/x/a.jpg", tmp_path / "set/x/deep/b.jpg", tmp_path / "set/y/c.jpg", tmp_path / "set/other/d.jpg")
    (tmp_path / "set/x/link").symlink_to(target)
    (tmp_path / "set/x/deep/up").symlink_to("..")
    (tmp_path / "set/other/x").symlink_to("../x")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        catalog = scan_folder(tmp_path / "set")
    assert [path for path in catalog.paths if path.startswith("x/")] == ["x/a.jpg", "x/deep/b.jpg"]
    assert catalog.counts()["y"] == 1


def test_a_folder_reached_twice_is_read_once_and_by_its_own_name(tmp_path):
    put(tmp_path / "x/real/a.jpg")
    (tmp_path / "x/alias").symlink_to("real")
    assert find_images(tmp_path) == [tmp_path / "x/real/a.jpg"]


def test_links_without_a_target_are_named(tmp_path):
    put(tmp_path / "x/a.jpg")
    for name in ("x/b.jpg", "x/more", "y"):
        (tmp_path / name).symlink_to(tmp_path / "gone")
    with pytest.warns(UserWarning) as caught:
        assert scan_folder(tmp_path).paths == ["x/a.jpg", "x/b.jpg"]  # b.jpg is listed as broken
    assert {str(warning.message) for warning in caught} == {
        f"{str(tmp_path / name)!r} is a link to a missing file or folder" for name in ("x/more", "y")
    }


def test_a_dataset_below_a_hidden_folder_is_found(tmp_path):
    put(tmp_path / ".cache/set/x/a.jpg")
    assert scan_folder(tmp_path / ".cache/set").paths == ["x/a.jpg"]


def test_paths_are_sorted_as_text_and_labels_follow(tmp_path):
    names = ["b/z.jpg", "b-c/a.jpg", "b/a.jpg", "a/10.jpg", "a/9.jpg"]
    put(*(tmp_path / name for name in names))
    catalog = scan_folder(tmp_path)
    assert catalog.paths == sorted(names)
    assert [catalog.class_names[label] for label in catalog.labels] == [p.split("/")[0] for p in sorted(names)]


def test_find_images_of_an_empty_folder_is_empty(tmp_path):
    assert find_images(tmp_path) == []


def test_find_images_returns_sorted_files(tmp_path):
    put(tmp_path / "b.png", tmp_path / "a/c.jpg", tmp_path / "A.jpg")
    assert find_images(tmp_path) == sorted([tmp_path / "b.png", tmp_path / "a/c.jpg", tmp_path / "A.jpg"])


def test_images_are_what_can_be_decoded_or_is_named_like_an_image(tmp_path):
    written = {
        "JPEG": ["a.jfif", "b.jpe", "c.JPG.jpg", "no_suffix", "d.jpg_large", "e.jpg?w=100", "f.txt", "g.heic"],
        "AVIF": ["h.avif"],
        "TIFF": ["i.tif", "j.TIFF"],
        "JPEG2000": ["k.jp2"],
        "PPM": ["l.pgm"],
    }
    for kind, names in written.items():
        for name in names:
            Image.new("RGB", (4, 4)).save(tmp_path / name, kind)
    undecodable = ["m.heic", "n.HEIF", "o.jxl", "p.svg", "q.cr2", "r.jpg", "s.png"]
    undecodable += ["t.dds", "u.icns", "v.PCX", "w.sgi", "x.hdr", "y.tga"]
    others = ["notes.txt", "P1", "BMW", "Thumbs.db", "labels.xml", ".hidden.jpg", "a.pdf", "a.eps", "a.mpg", "a.h5"]
    for name in undecodable + others:
        (tmp_path / name).write_text("P1 is not a bitmap, and BM neither.")
    (tmp_path / "s.png").unlink()
    (tmp_path / "s.png").symlink_to("nowhere.png")
    (tmp_path / "folder.jpg").mkdir()
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "z.jpg")
    (tmp_path / "za.png").symlink_to(os.devnull)
    undecodable += ["z.jpg", "za.png"]
    found = find_images(tmp_path)
    assert [path.name for path in found] == sorted(chain(*written.values(), undecodable))
    folder = find_prediction_images([tmp_path])
    assert sorted(folder.broken) == [str(tmp_path / name) for name in sorted(undecodable)]
    assert folder.broken[str(tmp_path / "z.jpg")] == "cannot be read: it is not a regular file"
    missing_or_endless = {tmp_path / name for name in ("s.png", "z.jpg", "za.png")}
    singly = find_prediction_images([path for path in found if path not in missing_or_endless])
    assert singly.decodable == folder.decodable
    assert singly.broken == {path: text for path, text in folder.broken.items() if Path(path) not in missing_or_endless}


@pytest.mark.parametrize("name", ["pipe", "pipe.jpg", "link.jpg"])
def test_only_regular_files_are_predicted(tmp_path, name):
    os.mkfifo(tmp_path / name.replace("link", "pipe"))
    if name == "link.jpg":
        (tmp_path / name).symlink_to("pipe.jpg")
    with pytest.raises(UsageError, match=rf"/{name}' is neither a regular file nor a folder\. Pass images or folders"):
        find_prediction_images([tmp_path / name])


@pytest.mark.parametrize(
    ("folders", "classes"),
    [
        (list(ANIMALS10.values()), ITALIAN),
        (ITALIAN, list(ANIMALS10.values())),
        ([name.upper() for name in ITALIAN], ITALIAN),
        ([name.title() for name in ANIMALS10.values()], ITALIAN),
    ],
    ids=["english folders", "italian folders", "upper case", "title case"],
)
def test_folders_match_classes_in_either_language(folders, classes):
    assert match_classes(folders, classes) == list(range(10))


@pytest.mark.parametrize("form", ["NFC", "NFD"])
@pytest.mark.parametrize("name", ["Füchse", "ÉLAN", "パンダ"])
def test_folders_match_classes_in_any_unicode_form(name, form):
    other = {"NFC": "NFD", "NFD": "NFC"}[form]
    assert match_classes([normalize(form, name)], ["cane", normalize(other, name)]) == [1]


def test_two_unicode_forms_of_a_class_are_two_folders_of_it(make_tree):
    root = make_tree("zoo", {normalize(form, "Füchse"): 1 for form in ("NFC", "NFD")})
    assert "contains class 'F" in refusal(root)


def test_labels_of_english_folders_follow_the_models_order(make_tree):
    root = make_tree("english", {"butterfly": 1, "cat": 2, "dog": 3})
    catalog = scan_folder(root, ITALIAN)
    assert catalog.class_names == ITALIAN
    assert [(p.split("/")[0], ITALIAN[label]) for p, label in zip(catalog.paths, catalog.labels, strict=True)] == [
        ("butterfly", "farfalla"),
        *[("cat", "gatto")] * 2,
        *[("dog", "cane")] * 3,
    ]


def test_known_classes_may_be_missing_and_count_zero(make_tree):
    catalog = scan_folder(make_tree("some", {"ragno": 2, "cane": 1}), ITALIAN)
    assert catalog.counts() == dict.fromkeys(ITALIAN, 0) | {"cane": 1, "ragno": 2}
    assert catalog.labels.tolist() == [0, 8, 8]


def test_label_order_is_the_given_one_even_when_not_alphabetical(make_tree):
    catalog = scan_folder(make_tree("some", {"a": 1, "b": 2}), ["b", "a"])
    assert catalog.class_names == ["b", "a"]
    assert catalog.counts() == {"b": 2, "a": 1}


def test_select_keeps_the_order_asked_for(tiny_tree):
    catalog = scan_folder(tiny_tree)
    asked = catalog.paths[::-3]
    chosen = catalog.select(asked)
    assert chosen.paths == asked
    assert [ITALIAN[label] for label in chosen.labels] == [path.split("/")[0] for path in asked]
    assert chosen.labels.dtype == np.int64
    assert catalog.select([]).paths == []


def test_unknown_folder_is_refused_by_name(make_tree):
    message = refusal(make_tree("zoo", {"cane": 1, "zebra": 1}), ITALIAN, "data.test_root")
    assert "data.test_root" in message
    assert "'zebra'" in message
    assert "Rename or remove" in message
    assert "ragno (spider)" in message
    assert "'cane'" not in message


@pytest.mark.parametrize("classes", [ITALIAN, None], ids=["known classes", "classes from folders"])
def test_two_folders_of_one_class_are_refused(make_tree, classes):
    message = refusal(make_tree("zoo", {"cane": 1, "dog": 1}), classes)
    assert "data.root" in message
    assert " twice: " in message
    assert "'cane' and 'dog'" in message
    assert "Merge" in message


def test_missing_root_is_named_with_a_remedy(tmp_path):
    message = refusal(tmp_path / "absent", argument="data.test_root")
    assert f"data.test_root={str(tmp_path / 'absent')!r}" in message
    assert "--data.test_root DIR" in message
    assert "prepare" in message


def test_a_file_as_root_is_refused(tmp_path):
    put(tmp_path / "a.jpg")
    assert f"data.root={str(tmp_path / 'a.jpg')!r} is not a folder" in refusal(tmp_path / "a.jpg")


@pytest.mark.parametrize("content", [[], ["loose.jpg"], [".git/a.jpg", "__MACOSX/a.jpg"]])
def test_root_without_class_folders_is_named_with_a_remedy(tmp_path, content):
    put(*(tmp_path / name for name in content))
    message = refusal(str(tmp_path))
    assert f"data.root={str(tmp_path)!r} has no class folders" in message
    assert "--data.root DIR" in message


def test_empty_class_is_named_with_a_remedy(make_tree):
    root = make_tree("zoo", {"cane": 1})
    (root / "gatto").mkdir()
    (root / "gatto/readme.txt").write_text("no images")
    message = refusal(root)
    assert f"data.root={str(root)!r}" in message
    assert "'gatto'" in message
    assert "Fill or remove" in message
