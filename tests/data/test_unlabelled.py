"""Unlabelled images: which of them can be used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from PIL import Image

from animals_pl.data.loading import load_dataset, split_dataset
from animals_pl.data.splits import Split
from animals_pl.data.unlabelled import BROKEN, DUPLICATE, GROUPED, LABELLED, find_unlabelled
from animals_pl.errors import UsageError


def dataset(root: Path, exclude: Path | None = None):
    loaded = load_dataset(root, exclude=exclude)
    return loaded.catalog, split_dataset(loaded, split=None, val_fraction=0.2, test_fraction=0.2, seed=0)


def photograph(file: Path, seed: int) -> Image.Image:
    """An image with structure, whose copies are recognised."""
    import numpy as np

    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)).resize(
        (160, 120), Image.Resampling.BICUBIC
    )
    file.parent.mkdir(parents=True, exist_ok=True)
    image.save(file)
    return image


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    for index in range(20):
        photograph(tmp_path / "labelled" / "ab"[index % 2] / f"{index}.png", index)
    return tmp_path / "labelled"


def test_images_at_any_depth_with_the_hashes_of_their_files(labelled, tmp_path):
    photograph(tmp_path / "more" / "deep" / "er" / "x.png", 101)
    photograph(tmp_path / "more" / "y.png", 102)
    found = find_unlabelled(tmp_path / "more", *dataset(labelled))
    assert list(found.usable.paths) == ["deep/er/x.png", "y.png"]
    assert found.usable.labels.tolist() == [-1, -1]
    assert all(len(digest) == 64 for digest in found.usable.sha256)
    assert found.left_out == {}


@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_near_duplicates_of_each_split_are_left_out(labelled, tmp_path, split):
    catalog, drawn = dataset(labelled)
    more = tmp_path / "more"
    photograph(more / "new.png", 103)
    for number, path in enumerate(getattr(drawn, split)):
        with Image.open(labelled / path) as image:
            image.resize((100, 75)).save(more / f"{number}.jpg", quality=70)
            image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(more / f"{number}-flipped.png")
    found = find_unlabelled(more, catalog, drawn)
    assert list(found.usable.paths) == ["new.png"]
    assert set(found.left_out.values()) == {LABELLED}
    assert len(found.left_out) == 2 * len(getattr(drawn, split))


def test_broken_images_and_repeated_ones_are_left_out(labelled, tmp_path):
    more = tmp_path / "more"
    image = photograph(more / "a.png", 104)
    image.resize((80, 60)).save(more / "b.jpg")
    shutil.copy(more / "a.png", more / "c.png")
    (more / "broken.jpg").write_bytes((more / "b.jpg").read_bytes()[:300])
    (more / "broken copy.jpg").write_bytes((more / "broken.jpg").read_bytes())
    found = find_unlabelled(more, *dataset(labelled))
    assert list(found.usable.paths) == ["a.png"]
    broken = dict.fromkeys(["broken.jpg", "broken copy.jpg"], BROKEN)
    assert found.left_out == broken | {"b.jpg": DUPLICATE, "c.png": DUPLICATE}


def test_excluded_images_of_the_dataset_count_as_unlabelled(labelled, tmp_path):
    (tmp_path / "exclude.csv").write_text("path\na/0.png\nb/3.png\n")
    catalog, split = dataset(labelled, tmp_path / "exclude.csv")
    found = find_unlabelled(labelled, catalog, split)
    assert list(found.usable.paths) == ["a/0.png", "b/3.png"]
    assert set(found.left_out.values()) == {LABELLED}


def test_the_scan_of_the_dataset_is_not_changed(labelled, tmp_path):
    from animals_pl.data.inspection.manifest import scan

    catalog, split = dataset(labelled)
    photograph(tmp_path / "more" / "new.png", 105)
    find_unlabelled(tmp_path / "more", catalog, Split(split.train[:2], split.val[:1]))
    assert scan(catalog).inspected == 0
    assert find_unlabelled(tmp_path / "more", catalog, split).left_out == {}


@pytest.mark.parametrize(("make", "message"), [(None, "is not a folder"), ("folder", "has no images")])
def test_a_folder_without_images_is_refused(labelled, tmp_path, make, message):
    if make:
        (tmp_path / "more").mkdir()
    with pytest.raises(UsageError, match=message):
        find_unlabelled(tmp_path / "more", *dataset(labelled))


def test_near_duplicates_of_other_test_images_are_left_out(labelled, tmp_path):
    photograph(tmp_path / "test" / "a" / "1.png", 106).resize((80, 60)).save(tmp_path / "small.jpg")
    photograph(tmp_path / "more" / "new.png", 107)
    shutil.move(tmp_path / "small.jpg", tmp_path / "more" / "small.jpg")
    found = find_unlabelled(tmp_path / "more", *dataset(labelled), test_root=str(tmp_path / "test"))
    assert found.left_out == {"small.jpg": LABELLED}


def test_images_in_a_group_with_a_labelled_image_are_left_out(labelled, tmp_path):
    catalog, split = dataset(labelled)
    for name, seed in (("cam_1_a.png", 108), ("cam_99_b.png", 109)):
        photograph(tmp_path / "more" / name, seed)
    number = r"(?:^|[/_])(\d+)(?=[._])"
    assert "a/1.png" not in catalog.paths
    found = find_unlabelled(tmp_path / "more", catalog, split, group_by=number)
    assert found.left_out == {"cam_1_a.png": GROUPED}
    assert list(found.usable.paths) == ["cam_99_b.png"]


def test_a_class_folder_is_refused_and_a_hidden_folder_accepted(labelled):
    catalog, split = dataset(labelled)
    with pytest.raises(UsageError, match=r"is a class folder of data\.root"):
        find_unlabelled(labelled / "a", catalog, split)
    photograph(labelled / ".more" / "new.png", 110)
    assert list(find_unlabelled(labelled / ".more", catalog, split).usable.paths) == ["new.png"]
