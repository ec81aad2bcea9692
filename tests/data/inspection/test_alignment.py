"""Copies are the same picture, however they were changed; different drawings are not."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.sources.practice.practice_set import draw_animal

NAMES = ("cane", "cavallo", "elefante", "farfalla", "gallina", "gatto", "mucca", "pecora")


def cut(left: float, top: float, right: float, bottom: float) -> Callable[[Image.Image], Image.Image]:
    """Return what cuts these parts off the sides of a picture."""

    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        box = (left * width, top * height, (1 - right) * width, (1 - bottom) * height)
        return picture.crop(tuple(round(edge) for edge in box))

    return change


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "half as large": lambda picture: picture.resize((picture.width // 2, picture.height // 2)),
    "stretched to a square": lambda picture: picture.resize((224, 224)),
    "re-encoded": lambda picture: picture.copy(),
    "cut on every side": cut(0.05, 0.05, 0.05, 0.05),
    "cut on two sides": cut(0.05, 0.0, 0.0, 0.05),
    "brighter": lambda picture: ImageEnhance.Brightness(picture).enhance(1.25),
    "darker and paler": lambda picture: picture.point(lambda value: 0.7 * value + 10),
    "mirrored": ImageOps.mirror,
    "mirrored, cut and small": lambda picture: cut(0.0, 0.04, 0.05, 0.0)(ImageOps.mirror(picture)).resize((150, 130)),
}


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> list[Path]:
    """Drawings of eight animals."""
    folder = tmp_path_factory.mktemp("drawn")
    files = [folder / f"{name}.jpg" for name in NAMES]
    for number, (name, file) in enumerate(zip(NAMES, files, strict=True)):
        draw_animal(name, np.random.default_rng([5, number])).save(file, quality=90)
    return files


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_the_same_picture(drawn, tmp_path, change):
    missed = []
    for file in drawn:
        copy = tmp_path / file.name
        with Image.open(file) as picture:
            CHANGES[change](picture).save(copy, quality=70)
        missed += [file.stem for pair in ((file, copy), (copy, file)) if not same_picture(*pair)]
    assert missed == []


def test_a_turned_image_is_compared_upright(drawn, tmp_path):
    for file in drawn:
        with Image.open(file) as picture:
            exif = Image.Exif()
            exif[0x0112] = 6  # to be turned by a quarter
            picture.transpose(Image.Transpose.ROTATE_90).save(tmp_path / file.name, quality=90, exif=exif)
        assert same_picture(file, tmp_path / file.name)


@pytest.mark.parametrize("name", ["gatto", "farfalla"])
def test_different_drawings_of_one_animal_are_different_pictures(tmp_path, name):
    files = [tmp_path / f"{number}.jpg" for number in range(9)]
    for number, file in enumerate(files):
        draw_animal(name, np.random.default_rng([6, number])).save(file, quality=90)
    assert [pair for pair in itertools.combinations(files, 2) if same_picture(*pair)] == []


def test_drawings_of_different_animals_are_different_pictures(drawn):
    assert [pair for pair in itertools.combinations(drawn, 2) if same_picture(*pair)] == []


def test_the_same_drawing_in_quite_other_colours_is_another_picture(drawn, tmp_path):
    """Their structures agree; a negative and exchanged colours are different pictures all the same."""
    for file in drawn:
        with Image.open(file) as picture:
            ImageOps.invert(picture).save(tmp_path / "negative.jpg", quality=90)
        assert not same_picture(file, tmp_path / "negative.jpg")


@pytest.mark.filterwarnings("error")
def test_flat_pictures_are_compared_without_an_error(drawn, tmp_path):
    for name, colour in (("red", "red"), ("second", "red"), ("white", "white"), ("black", "black")):
        Image.new("RGB", (120, 90), colour).save(tmp_path / f"{name}.png")
    flat = sorted(tmp_path.iterdir())
    for one, other in itertools.permutations([*flat, drawn[0]], 2):
        assert same_picture(one, other) in (False, one.stem in ("red", "second") and other.stem in ("red", "second"))


@pytest.mark.filterwarnings("error")
def test_nearly_flat_pictures_are_compared_without_an_error(drawn, tmp_path):
    for side in range(4):
        pixels = np.full((90, 120, 3), 128, np.uint8)
        pixels[10 * side : 10 * side + 3, 20:23] = 131
        Image.fromarray(pixels).save(tmp_path / f"{side}.png")
    flat = sorted(tmp_path.iterdir())
    assert not any(same_picture(one, drawn[0]) or same_picture(drawn[0], one) for one in flat)
    assert not same_picture(flat[0], flat[3])
