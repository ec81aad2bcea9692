"""Image corruptions."""

from __future__ import annotations

import numpy as np
import pytest
from image_trees import write_tree
from PIL import Image

from animals_pl.data.catalog import scan_folder
from animals_pl.data.corrupted_dataset import CorruptedDataset
from animals_pl.data.corruptions import CORRUPTIONS, OCCLUSION, SEVERITIES, SUBJECT_SIZE, image_seed
from animals_pl.data.resize import Resize

EVERY_CORRUPTION = pytest.mark.parametrize("corrupt", CORRUPTIONS.values(), ids=CORRUPTIONS)


def photograph(height: int = 200, width: int = 300) -> np.ndarray:
    """Smooth colours, edges and texture."""
    rng = np.random.default_rng(0)
    colours = Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8)).resize((width, height))
    pixels = np.asarray(colours).astype(float) + rng.normal(0, 12, (height, width, 3))
    pixels[height // 4 : height // 2, width // 3 : width // 2] = (20, 120, 220)
    return pixels.clip(0, 255).astype(np.uint8)


@EVERY_CORRUPTION
def test_the_seed_determines_the_result(corrupt):
    image = photograph()
    before = image.copy()
    for severity in SEVERITIES:
        np.testing.assert_array_equal(corrupt(image, severity, 3), corrupt(image, severity, 3))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("name", ["noise", "night", "rotation", "occlusion"])
def test_random_corruptions_differ_between_images(name):
    image = photograph()
    versions = {CORRUPTIONS[name](image, 3, seed).tobytes() for seed in range(8)}
    assert len(versions) >= 2


@pytest.mark.parametrize("name", sorted(CORRUPTIONS.keys() - {"small_subject"}))
def test_the_picture_changes_more_with_each_severity(name):
    image = photograph()
    changes = [np.abs(CORRUPTIONS[name](image, severity, 1).astype(float) - image).mean() for severity in SEVERITIES]
    assert changes[0] > 0
    assert np.all(np.diff(changes) > 0)


def test_the_subject_becomes_smaller_with_each_severity():
    image = np.zeros((200, 300, 3), np.uint8)
    image[80:120, 120:180] = 255
    for severity, size in zip(SEVERITIES, SUBJECT_SIZE, strict=True):
        rows, columns, _ = np.nonzero(CORRUPTIONS["small_subject"](image, severity, 0) > 128)
        assert np.ptp(rows) == pytest.approx(40 * size, abs=3)
        assert np.ptp(columns) == pytest.approx(60 * size, abs=3)


@EVERY_CORRUPTION
@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (33, 48)])
def test_size_and_type_are_kept(corrupt, shape):
    image = photograph(*shape)
    for severity in SEVERITIES:
        found = corrupt(image, severity, 0)
        assert found.shape == image.shape
        assert found.dtype == np.uint8


@EVERY_CORRUPTION
def test_large_photographs_change_as_much_as_small_ones(corrupt):
    small = photograph(224, 1000)
    large = np.asarray(Image.fromarray(small).resize((5000, 1120), Image.Resampling.BICUBIC))
    found = corrupt(large, 3, 5)
    assert found.shape == large.shape
    shrunk = np.asarray(Image.fromarray(found).resize((1000, 224), Image.Resampling.BOX), float)
    wanted = np.abs(corrupt(small, 3, 5).astype(float) - small).mean()
    assert np.abs(shrunk - small).mean() == pytest.approx(wanted, rel=0.25)


@pytest.mark.parametrize("name", ["blur", "night", "jpeg", "small_subject", "rotation", "occlusion"])
def test_grey_images_stay_grey(name):
    grey = np.repeat(photograph()[:, :, :1], 3, axis=2)
    found = CORRUPTIONS[name](grey, 4, 2)
    np.testing.assert_array_equal(found, np.repeat(found[:, :, :1], 3, axis=2))


def test_night_is_grey_and_dark():
    image = photograph()
    found = CORRUPTIONS["night"](image, 5, 0)
    np.testing.assert_array_equal(found, np.repeat(found[:, :, :1], 3, axis=2))
    assert found.mean() < 0.6 * image.mean()


def test_occlusion_covers_the_share_that_it_names():
    image = np.zeros((160, 160, 3), np.uint8)
    image[::2] = 200  # no pixel has the mean colour
    for severity, share in zip(SEVERITIES, OCCLUSION, strict=True):
        covered = (CORRUPTIONS["occlusion"](image, severity, 0) == 100).all(2).mean()
        assert covered == pytest.approx(share, abs=1 / 64)


def test_a_dataset_gives_every_corruption_at_every_severity(tmp_path):
    catalog = scan_folder(write_tree(tmp_path / "raw-img", {"cane": 2, "gatto": 2}))
    versions = CorruptedDataset(catalog, Resize("crop"), 24)[1]
    assert versions.shape == (35, 3, 24, 24)
    image = np.asarray(Image.open(catalog.root / catalog.paths[1]))
    wanted = [
        Resize("crop")(corrupt(image, s, image_seed(catalog.paths[1])), 24)
        for corrupt in CORRUPTIONS.values()
        for s in SEVERITIES
    ]
    np.testing.assert_array_equal(versions.numpy(), np.stack(wanted).transpose(0, 3, 1, 2))
