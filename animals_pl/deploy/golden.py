"""Choose the golden images of an exported file."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.decode import decode, decodes
from animals_pl.data.sources.practice.practice_set import draw_animal
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError

GoldenSource = Literal["validation", "practice"]

NUM_GOLDEN = 8

MIN_SIDE = 320
"""Minimum longer side in pixels, so that resizing is tested, too."""

QUALITY = 90
"""JPEG quality."""


def golden_jpegs(
    source: GoldenSource | None, root: str | None, run: Path, size: int
) -> tuple[list[bytes], GoldenSource]:
    """Golden images as JPEG files without EXIF data, and where they come from.

    Args:
        source: ``validation``: validation images of the run. ``practice``: drawings. Default: validation images if
            they can be found.
        root: Folder of the training data.
        run: Folder of the run, with its split.csv.
        size: Side of the images that the net sees, in pixels.

    Raises:
        UsageError: Validation images were asked for and cannot be found.
    """
    paths = [] if source == "practice" else _validation_paths(root, run)
    if source == "validation" and not paths:
        raise UsageError(
            f"golden=validation: no validation images are left in data.root={str(root)!r}, or {str(run)!r} has no "
            "split.csv. Pass golden=practice."
        )
    longer_side = max(MIN_SIDE, 3 * size // 2)
    images = [decode(path) for path in paths] or [decode(drawing) for drawing in drawings(NUM_GOLDEN)]
    return [_jpeg(image, longer_side) for image in images], "validation" if paths else "practice"


def drawings(count: int) -> list[bytes]:
    """PNG files of drawn animals, of 120 to 340 pixels."""
    names, contents = list(ANIMALS10), []
    for number in range(count):
        stream = io.BytesIO()
        draw_animal(names[number % len(names)], np.random.default_rng(number)).save(stream, "PNG")
        contents.append(stream.getvalue())
    return contents


def spread(items: Sequence[Path], count: int) -> list[Path]:
    """At most ``count`` items, evenly spread."""
    return [items[index] for index in np.linspace(0, len(items) - 1, min(count, len(items))).astype(int)]


def _validation_paths(root: str | None, run: Path) -> list[Path]:
    split_file = run / "split.csv"
    if not root or not split_file.is_file():
        return []
    rows = read_rows(split_file, "split.csv", "path", "split")
    paths = sorted(Path(root) / row["path"] for row in rows if row["split"] == "val")
    return [path for path in spread(paths, NUM_GOLDEN) if decodes(path)]


def _jpeg(image: np.ndarray, longer_side: int) -> bytes:
    """The image as JPEG, resized to a longer side."""
    picture = Image.fromarray(image)
    scale = longer_side / max(picture.size)
    width, height = (max(1, round(scale * side)) for side in picture.size)
    stream = io.BytesIO()
    # No chroma subsampling: JPEG decoders differ most in how they reverse it.
    picture.resize((width, height), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=QUALITY, subsampling=0)
    return stream.getvalue()
