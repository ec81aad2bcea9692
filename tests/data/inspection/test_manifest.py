"""Scanning a folder with a memory, and manifests that find their images again."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.inspection import manifest as manifest_module
from animals_pl.data.inspection.columns import read_columns
from animals_pl.data.inspection.image_facts import ImageFacts, inspect
from animals_pl.data.inspection.manifest import COLUMNS, Scan, cache_dir, catalog_of, inspect_all, scan, write_manifest
from animals_pl.errors import UsageError

COUNTS = {"cane": 4, "gatto": 3, "ragno": 2}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Keep what is computed below the test's own folder."""
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(make_tree):
    return make_tree("photos", COUNTS)


def picture(seed):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3)).astype(np.uint8))


def put(root, name, seed):
    """Write a PNG at a path of any bytes below a folder."""
    file = os.path.join(os.fsencode(root), os.fsencode(name))  # noqa: PTH118 pathlib takes no bytes
    os.makedirs(os.path.dirname(file), exist_ok=True)  # noqa: PTH103, PTH120
    with open(file, "wb") as stream:  # noqa: PTH123
        picture(seed).save(stream, "PNG")


def listing(folder):
    """Return every path below a folder with its size and time of change, folders too."""
    places = [folder, *folder.rglob("*")]
    return {str(place): (place.lstat().st_size, place.lstat().st_mtime_ns, place.lstat().st_mode) for place in places}


def cache_files(folder):
    return sorted(file for file in folder.rglob("*") if file.is_file())


@pytest.fixture
def read_files(monkeypatch):
    """Return the list of the paths that are inspected from now on."""
    seen = []
    monkeypatch.setattr(manifest_module, "inspect", lambda file: seen.append(Path(file)) or inspect(file))
    return seen


# What a scan finds


def test_manifest_holds_what_inspection_finds_in_the_catalogs_order(root):
    catalog = scan_folder(root)
    table = scan(catalog).manifest
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == catalog.paths
    assert table["label"].tolist() == [Path(path).parts[0] for path in catalog.paths]
    for row in table.itertuples(index=False):
        assert ImageFacts._make(row[2:-1]) == inspect(root / row.path)
    assert (table["duplicate_group"] == -1).all()


def test_problems_and_duplicates_are_in_the_manifest(root):
    shutil.copy(root / "cane" / "cane_0.jpg", root / "ragno" / "copy.jpg")
    decoded = Image.fromarray(decode(root / "gatto" / "gatto_1.jpg"))
    decoded.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(root / "cane" / "mirrored.png")
    (root / "gatto" / "empty.jpg").touch()
    (root / "gatto" / "also empty.jpg").touch()
    table = scan(scan_folder(root)).manifest.set_index("path")
    groups = table.loc[table["duplicate_group"] >= 0, "duplicate_group"].to_dict()
    assert groups == {
        "cane/cane_0.jpg": 0,
        "ragno/copy.jpg": 0,
        "cane/mirrored.png": 1,
        "gatto/gatto_1.jpg": 1,
    }  # broken files are broken, not duplicates
    assert table.loc["gatto/empty.jpg", "problem"] == "empty file (0 bytes)"
    assert (table["problem"] != "").sum() == 2


def test_nothing_is_written_below_the_root(root):
    before = listing(root)
    scan(scan_folder(root))
    scan(scan_folder(root))
    assert listing(root) == before


# What is read again


def test_second_scan_reads_nothing_and_says_the_same(root, read_files):
    first = scan(scan_folder(root))
    assert (first.inspected, len(read_files)) == (9, 9)
    second = scan(scan_folder(root))
    assert (second.inspected, len(read_files)) == (0, 9)
    pd.testing.assert_frame_equal(second.manifest, first.manifest, check_dtype=False)
    assert second.manifest["modified"].dtype == first.manifest["modified"].dtype == np.int64


def test_same_folder_by_another_way_is_known(root, tmp_path, monkeypatch):
    scan(scan_folder(root))
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    for way in ("link", "photos", "photos/../photos/."):
        assert scan(scan_folder(way)).inspected == 0


def test_only_what_changed_is_read_again(root, read_files):
    first = scan(scan_folder(root)).manifest.set_index("path")
    read_files.clear()

    changed, touched, gone = (root / path for path in ("cane/cane_1.jpg", "gatto/gatto_0.jpg", "ragno/ragno_1.jpg"))
    picture(77).save(changed)
    os.utime(touched, ns=(1, touched.stat().st_mtime_ns + 1))
    gone.unlink()
    put(root, "cane/added.png", 78)
    result = scan(scan_folder(root))

    again = {changed, touched, root / "cane" / "added.png"}
    assert result.inspected == 3
    assert set(read_files) == again
    second = result.manifest.set_index("path")
    assert set(second.index) == set(first.index) - {"ragno/ragno_1.jpg"} | {"cane/added.png"}
    for path, row in second.iterrows():
        assert row["sha256"] == hashlib.sha256((root / path).read_bytes()).hexdigest()
        if root / path not in again:
            assert row.equals(first.loc[path])
    assert second.loc["gatto/gatto_0.jpg", "sha256"] == first.loc["gatto/gatto_0.jpg", "sha256"]
    assert second.loc["gatto/gatto_0.jpg", "modified"] == first.loc["gatto/gatto_0.jpg", "modified"] + 1
    assert scan(scan_folder(root)).inspected == 0


def test_same_size_with_a_new_time_is_read_again(root):
    file = root / "cane" / "cane_0.jpg"
    before = scan(scan_folder(root)).manifest.set_index("path").loc["cane/cane_0.jpg"]
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(1, before["modified"] + 1000))
    after = scan(scan_folder(root)).manifest.set_index("path").loc["cane/cane_0.jpg"]
    assert after["bytes"] == before["bytes"]
    assert after["sha256"] != before["sha256"]


def test_removed_file_leaves_its_group(root):
    shutil.copy(root / "cane" / "cane_0.jpg", root / "cane" / "copy.jpg")
    assert (scan(scan_folder(root)).manifest["duplicate_group"] == 0).sum() == 2
    (root / "cane" / "copy.jpg").unlink()
    result = scan(scan_folder(root))
    assert result.inspected == 0
    assert (result.manifest["duplicate_group"] == -1).all()
    assert (scan(scan_folder(root)).manifest["duplicate_group"] == -1).all()


def test_renamed_class_has_its_new_label(root):
    scan(scan_folder(root))
    (root / "gatto").rename(root / "cat")
    result = scan(scan_folder(root))
    assert result.inspected == COUNTS["gatto"]
    assert result.manifest["label"].value_counts().to_dict() == {"cane": 4, "cat": 3, "ragno": 2}


def test_unreadable_image_is_tried_again(root, read_files):
    file = root / "cane" / "cane_0.jpg"
    catalog = scan_folder(root)
    file.unlink()
    assert scan(catalog).manifest["problem"].str.startswith("cannot be read").sum() == 1
    picture(5).save(file)
    read_files.clear()
    result = scan(catalog)
    assert read_files == [file]
    assert (result.manifest["problem"] == "").all()


def test_image_that_vanished_since_it_was_listed_is_not_taken_as_known(root):
    catalog = scan_folder(root)
    scan(catalog)
    (root / "cane" / "cane_0.jpg").unlink()
    found = scan(catalog).manifest.set_index("path")["problem"]
    assert found["cane/cane_0.jpg"].startswith("cannot be read")
    assert (found.drop("cane/cane_0.jpg") == "").all()


def test_part_of_a_catalog_is_scanned_as_such(root):
    catalog = scan_folder(root)
    part = catalog.select(catalog.paths[1::2])
    result = scan(part)
    assert result.inspected == len(part.paths)
    assert result.manifest["path"].tolist() == part.paths
    assert scan(catalog).inspected == len(catalog.paths) - len(part.paths)


def test_order_of_the_file_system_does_not_matter(root, monkeypatch):
    shutil.copy(root / "cane" / "cane_0.jpg", root / "cane" / "a copy.jpg")
    first = scan(scan_folder(root))
    rglob, iterdir = Path.rglob, Path.iterdir
    monkeypatch.setattr(Path, "rglob", lambda path, pattern: reversed(list(rglob(path, pattern))))
    monkeypatch.setattr(Path, "iterdir", lambda path: reversed(list(iterdir(path))))
    second = scan(scan_folder(root))
    assert second.inspected == 0
    pd.testing.assert_frame_equal(second.manifest, first.manifest, check_dtype=False)


def test_more_processes_find_the_same(root, monkeypatch):
    (root / "cane" / "broken.jpg").write_bytes(b"text")
    files = [root / path for path in scan_folder(root).paths]
    started, pool = [], manifest_module.ProcessPoolExecutor
    monkeypatch.setattr(
        manifest_module, "ProcessPoolExecutor", lambda **options: started.append(options) or pool(**options)
    )
    serial = inspect_all(files)
    assert not started
    monkeypatch.setattr(manifest_module, "_MIN_FILES_FOR_PROCESSES", len(files))
    assert inspect_all(files) == serial == [inspect(file) for file in files]
    assert len(started) == 1


# The cache


def test_cache_is_where_the_environment_says(root, tmp_path, monkeypatch, cache):
    assert cache_dir() == cache
    scan(scan_folder(root))
    assert len(cache_files(cache)) == 1

    monkeypatch.delenv("ANIMALS_PL_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir() == tmp_path / "xdg" / "animals_pl"
    assert scan(scan_folder(root)).inspected == 9
    assert len(cache_files(tmp_path / "xdg" / "animals_pl")) == 1

    monkeypatch.setenv("ANIMALS_PL_CACHE", "")
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_dir() == tmp_path / "home" / ".cache" / "animals_pl"


def test_two_folders_of_one_name_do_not_share_a_cache(tmp_path, make_tree, cache):
    make_tree("a/photos", {"cane": 2, "gatto": 2}, seed=1)
    make_tree("b/photos", {"cane": 2, "gatto": 2}, seed=2)
    roots = [tmp_path / "a" / "photos", tmp_path / "b" / "photos"]
    for file in roots[0].rglob("*.jpg"):  # only the content tells them apart
        for root in roots:
            os.utime(root / file.relative_to(roots[0]), ns=(1, 10**18))
    first = [scan(scan_folder(root)) for root in roots]
    assert [result.inspected for result in first] == [4, 4]
    assert len(cache_files(cache)) == 2
    for root, before in zip(roots, first, strict=True):
        result = scan(scan_folder(root))
        assert result.inspected == 0
        assert result.manifest["sha256"].tolist() == before.manifest["sha256"].tolist()
        assert result.manifest["sha256"].tolist() == [
            hashlib.sha256((root / path).read_bytes()).hexdigest() for path in result.manifest["path"]
        ]


def test_cache_of_another_format_is_left_alone(root, monkeypatch, cache):
    scan(scan_folder(root))
    (old,) = cache_files(cache)
    content = old.read_bytes()
    monkeypatch.setattr(manifest_module, "_FORMAT", manifest_module._FORMAT + 1)
    assert scan(scan_folder(root)).inspected == 9
    assert old.read_bytes() == content
    assert len(cache_files(cache)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"\x00\xff\xfe" * 50,
        b"path,label\ncane/cane_0.jpg,cane\n",
        b"a,b\n1,2\n3,4,5\n",
        b'"never closed',
        (",".join(COLUMNS) + "\n" + ",".join(["x"] * len(COLUMNS)) + "\n").encode(),
        (",".join(COLUMNS) + "\ncane/cane_0.jpg,cane\n").encode(),
    ],
    ids=["empty", "blank line", "noise", "few columns", "uneven", "open quote", "words for numbers", "short row"],
)
def test_damaged_cache_is_ignored_and_mended(root, cache, content):
    first = scan(scan_folder(root))
    (file,) = cache_files(cache)
    file.write_bytes(content)
    second = scan(scan_folder(root))
    assert second.inspected == 9
    pd.testing.assert_frame_equal(second.manifest, first.manifest)
    assert scan(scan_folder(root)).inspected == 0


def damage_hashes(file, table):
    """Change a digit of a perceptual hash in a cached scan: a column that an unchanged scan does not read."""
    content, digits = file.read_bytes(), table["perceptual_hash"][0].encode()
    assert content.count(digits) == 1
    file.write_bytes(content.replace(digits, digits[:-1] + (b"0" if digits[-1:] != b"0" else b"1")))


def test_damaged_hashes_are_read_again_with_the_next_change(root, cache):
    first = scan(scan_folder(root)).manifest
    damage_hashes(*cache_files(cache), first)
    put(root, "zebra/z.png", 5)
    result = scan(scan_folder(root))
    assert result.inspected == 10
    pd.testing.assert_frame_equal(result.manifest[:9], first)


def test_damaged_hashes_are_named_when_they_are_needed(root, cache):
    first = scan(scan_folder(root)).manifest
    damage_hashes(*cache_files(cache), first)
    result = scan(scan_folder(root))
    assert result.columns["sha256"] == first["sha256"].tolist()
    with pytest.raises(UsageError, match=r"\.npz' cannot be read \(.*\)\. Remove it and repeat\.$"):
        result.manifest  # noqa: B018


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_cache_cut_anywhere_does_no_harm(root, cache, data):
    expected = scan(scan_folder(root)).manifest
    (file,) = cache_files(cache)
    whole = file.read_bytes()
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    pd.testing.assert_frame_equal(scan(scan_folder(root)).manifest, expected, check_dtype=False)
    file.write_bytes(whole)


def test_nothing_but_the_table_stays_in_the_cache(root, cache):
    scan(scan_folder(root))
    (file,) = cache_files(cache)
    assert file.suffix == ".npz"
    columns = read_columns(file, {"path": str, "sha256": str, "bytes": int})
    assert columns["path"] == scan_folder(root).paths
    assert columns["sha256"] == [hashlib.sha256((root / path).read_bytes()).hexdigest() for path in columns["path"]]


# Odd names

ODD_NAMES = [
    b"cane/ two  spaces .png",
    b"cane/comma, 'quote' and \"quotes\".png",
    b"cane/line\nbreak.png",
    b"cane/carriage\rreturn.png",
    b"cane/tab\tbackslash\\.png",
    b"cane/not \xff\xfe UTF-8.png",
    b"cane/#hash;semicolon|bar%.png",
    b"cane/deep/er/nan.png",
    "cane/gatto però 猫 🐈.png".encode(),
    b"\xe9t\xe9/b.png",
    b"NA/NA.png",
    b"nan/nan.png",
    b"None/null.png",
    b"007/1e5.png",
    b"True/-1.png",
    b'"quoted"/b.png',
    b"line\nbreak/b.png",
    b"=SUM(A1)/b.png",
    b" leading and trailing /b.png",
    b"\xef\xbb\xbfmark/b.png",
]


@pytest.mark.parametrize("name", ODD_NAMES, ids=ascii)
def test_odd_name_survives_cache_and_manifest(tmp_path, name):
    root = tmp_path / "photos"
    for seed, each in enumerate([name, b"zebra/z.png", b"zebra/copy of z.png"]):
        put(root, each, min(seed, 1))
    catalog = scan_folder(root)
    assert os.fsdecode(name) in catalog.paths
    first, second = scan(catalog), scan(catalog)
    assert (first.inspected, second.inspected) == (3, 0)
    for result in (first, second):
        assert result.manifest["path"].tolist() == catalog.paths
        assert result.manifest["label"].tolist() == [catalog.class_names[label] for label in catalog.labels]
        assert dict(zip(result.manifest["path"], result.manifest["duplicate_group"], strict=True)) == {
            os.fsdecode(name): -1,
            "zebra/copy of z.png": 0,
            "zebra/z.png": 0,
        }
    write_manifest(second.manifest, root, tmp_path / "manifest.csv")
    found = catalog_of(tmp_path / "manifest.csv")
    assert found.class_names == catalog.class_names
    assert found.labels.tolist() == catalog.labels.tolist()
    assert [found.root / path for path in found.paths] == [root / path for path in catalog.paths]
    assert scan(found).manifest["sha256"].tolist() == first.manifest["sha256"].tolist()


def test_folder_of_an_odd_name_is_known_again(tmp_path):
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b'/photos, "1"\n \xff'))
    put(root, b"cane/a.png", 0)
    assert [scan(scan_folder(root)).inspected for _ in range(2)] == [1, 0]


# Manifests


def test_manifest_finds_its_images_from_another_folder(root, tmp_path, monkeypatch):
    (tmp_path / "runs" / "one").mkdir(parents=True)
    catalog = scan_folder(root)
    file = tmp_path / "runs" / "one" / "manifest.csv"
    write_manifest(scan(catalog).manifest, root, file)
    monkeypatch.chdir("/")
    found = catalog_of(file)
    assert isinstance(found, Catalog)
    assert found.class_names == catalog.class_names
    assert found.labels.dtype == np.int64
    assert found.labels.tolist() == catalog.labels.tolist()
    assert [(found.root / path).resolve() for path in found.paths] == [root / path for path in catalog.paths]
    assert all((found.root / path).read_bytes() for path in found.paths)


def test_manifest_says_all_that_the_scan_found(root, tmp_path):
    found = scan(scan_folder(root)).manifest
    write_manifest(found, root, tmp_path / "manifest.csv")
    table = pd.read_csv(tmp_path / "manifest.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert table["path"].tolist() == [f"photos/{path}" for path in found["path"]]
    pd.testing.assert_frame_equal(table.drop(columns="path"), found.drop(columns="path"), check_dtype=False)
    assert {file.name for file in tmp_path.iterdir()} == {"photos", "cache", "manifest.csv"}


def test_manifest_beside_the_class_folders(root):
    catalog = scan_folder(root)
    write_manifest(scan(catalog).manifest, root, root / "manifest.csv")
    found = catalog_of(root / "manifest.csv")
    assert (found.root, found.paths, found.class_names) == (root, catalog.paths, catalog.class_names)
    assert found.labels.tolist() == catalog.labels.tolist()
    assert scan(found).inspected == 0  # the same folder, so the same cache
    assert scan_folder(root).paths == catalog.paths


def test_relative_paths_are_taken_from_where_one_stands(root, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    catalog = scan_folder("../photos")
    write_manifest(scan(catalog).manifest, catalog.root, Path("manifest.csv"))
    assert len(catalog_of("manifest.csv").paths) == 9
    monkeypatch.chdir(tmp_path)
    assert len(catalog_of("elsewhere/manifest.csv").paths) == 9


def test_manifest_and_images_may_move_together(root, tmp_path):
    (tmp_path / "project").mkdir()
    root.rename(tmp_path / "project" / "photos")
    root = tmp_path / "project" / "photos"
    write_manifest(scan(scan_folder(root)).manifest, root, tmp_path / "project" / "manifest.csv")
    (tmp_path / "project").rename(tmp_path / "moved")
    found = catalog_of(tmp_path / "moved" / "manifest.csv")
    assert all((found.root / path).is_file() for path in found.paths)


def test_row_left_out_by_hand_is_left_out(root):
    table = scan(scan_folder(root)).manifest
    kept = table[table["label"] != "gatto"].iloc[::-1]
    write_manifest(kept, root, root / "manifest.csv")
    found = catalog_of(root / "manifest.csv")
    assert found.class_names == ["cane", "ragno"]
    assert found.paths == sorted(kept["path"])
    assert [found.class_names[label] for label in found.labels] == [path.split("/")[0] for path in found.paths]


def test_label_of_the_manifest_overrides_the_folders_name(root):
    table = scan(scan_folder(root)).manifest
    table.loc[table["path"] == "cane/cane_0.jpg", "label"] = "wolf"
    write_manifest(table, root, root / "manifest.csv")
    found = catalog_of(root / "manifest.csv")
    assert found.class_names == ["cane", "gatto", "ragno", "wolf"]
    assert found.class_names[found.labels[found.paths.index("cane/cane_0.jpg")]] == "wolf"
    assert scan(found).manifest["label"].tolist() == table["label"].tolist()


def test_folder_is_scanned_as_ever(root):
    found, expected = catalog_of(root), scan_folder(root)
    assert (found.root, found.paths, found.class_names) == (expected.root, expected.paths, expected.class_names)
    assert catalog_of(str(root)).paths == expected.paths


@pytest.mark.parametrize(
    "content", [b"", b"text\n", b'"never closed', b"\xff\xd8\xff\xe0"], ids=["empty", "text", "open quote", "jpeg"]
)
def test_what_is_no_manifest_is_refused_by_name(tmp_path, content):
    file = tmp_path / "table.csv"
    file.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        catalog_of(file, "some.argument")
    assert f"some.argument={str(file)!r} is not a manifest" in str(caught.value)
    assert "Run prepare again, or pass a folder." in str(caught.value)


def test_a_manifest_of_another_version_is_named(tmp_path):
    file = tmp_path / "manifest.csv"
    file.write_text("path,label\ncane/cane_0.jpg,cane\n")
    with pytest.raises(UsageError, match="was written by another version"):
        catalog_of(file)


def test_manifest_whose_images_are_gone_is_refused_by_name(root, tmp_path):
    file = tmp_path / "manifest.csv"
    write_manifest(scan(scan_folder(root)).manifest, root, file)
    (root / "cane" / "cane_1.jpg").unlink()
    (root / "gatto" / "gatto_1.jpg").unlink()
    with pytest.raises(UsageError) as caught:
        catalog_of(file)
    message = str(caught.value)
    assert f"data.root={str(file)!r} lists 2 missing images (first: photos/cane/cane_1.jpg)" in message
    assert "Run prepare again, or pass the folder" in message
    assert "\n" not in message


def test_missing_source_is_refused_by_name(tmp_path):
    with pytest.raises(UsageError, match=r"some\.argument=.*nowhere"):
        catalog_of(tmp_path / "nowhere", "some.argument")


# How a scan reads


@pytest.mark.parametrize(
    ("count", "inspected", "seconds", "expected"),
    [
        (26_179, 26_179, 40.0, "26,179 images read in 40.0 s, 654/s"),
        (26_179, 1_000, 0.5, "1,000 images read in 0.5 s, 2,000/s (25,179 unchanged)"),
        (26_179, 0, 0.0, "0 images read (26,179 unchanged)"),
        (0, 0, 0.0, "0 images read"),
    ],
    ids=["all", "some", "none", "nothing there"],
)
def test_scan_says_how_much_was_read(count, inspected, seconds, expected):
    assert str(Scan({"path": np.empty(count)}, inspected, seconds)) == expected


def test_scan_of_a_real_folder_says_how_much_was_read(root):
    assert str(scan(scan_folder(root))).startswith("9 images read in ")
    assert str(scan(scan_folder(root))) == "0 images read (9 unchanged)"
