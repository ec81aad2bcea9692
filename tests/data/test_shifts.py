"""Shifted copies: mild, reproducible, written once."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from animals_pl.data import shifts
from animals_pl.data.catalog import Catalog
from animals_pl.data.loading import load_dataset
from animals_pl.data.shifts import AREA, ASPECT, SHORTER_SIDE, shifted, shifted_copies


def gradient(height: int, width: int) -> np.ndarray:
    """An image whose colours tell the position: red grows to the right, green downwards."""
    rows, columns = np.mgrid[0:height, 0:width]
    return np.stack([columns * 255 / max(width - 1, 1), rows * 255 / max(height - 1, 1), 0 * rows], 2).astype(np.uint8)


def pixels(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)))


def test_a_copy_depends_on_image_and_seed_alone():
    image = gradient(200, 300)
    assert shifted(image, 1) == shifted(image.copy(), 1)
    assert shifted(image, 1) != shifted(image, 2)


@pytest.mark.parametrize("seed", range(20))
def test_the_cut_has_at_least_half_of_the_area_and_its_place_varies(seed):
    copy = pixels(shifted(gradient(400, 600), seed)).astype(float)
    width, height = np.ptp(copy[:, :, 0]) / 255, np.ptp(copy[:, :, 1]) / 255
    assert AREA[0] - 0.05 < width * height <= 1
    assert 1 / ASPECT - 0.05 < width / height < ASPECT + 0.05
    assert SHORTER_SIDE[0] <= min(copy.shape[:2]) <= SHORTER_SIDE[1]


@pytest.mark.parametrize("shape", [(1, 1), (1, 400), (400, 3), (50, 60)])
def test_small_and_narrow_images_are_not_enlarged(shape):
    copy = pixels(shifted(gradient(*shape), 0))
    assert copy.shape[0] <= shape[0]
    assert copy.shape[1] <= shape[1]


def test_copies_are_files_in_the_order_of_the_images_and_are_written_once(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path))
    catalog = load_dataset(tiny_tree).usable
    copies = shifted_copies(catalog)
    assert (len(copies.paths), copies.class_names) == (len(catalog.paths), catalog.class_names)
    np.testing.assert_array_equal(copies.labels, catalog.labels)
    assert len(set(copies.sha256)) == len(copies.paths)
    for own, path in list(zip(copies.paths, catalog.paths, strict=True))[::10]:
        colour = np.asarray(Image.open(catalog.root / path)).mean((0, 1))
        np.testing.assert_allclose(np.asarray(Image.open(copies.root / own)).mean((0, 1)), colour, atol=8)
    monkeypatch.setattr(shifts, "shifted", lambda *args: pytest.fail("written again"))
    assert shifted_copies(catalog).sha256 == copies.sha256


def test_copies_do_not_depend_on_the_other_images(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path))
    catalog: Catalog = load_dataset(tiny_tree).usable
    some = shifted_copies(catalog.select(catalog.paths[5:9]))
    assert some.sha256 == shifted_copies(catalog).sha256[5:9]
