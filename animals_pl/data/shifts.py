"""Mild changes of framing, resolution and sharpness, as between photographs of different origin."""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import replace

import numpy as np
from PIL import Image, ImageFilter

from animals_pl.data.catalog import Catalog
from animals_pl.data.corruptions import REFERENCE_SIDE, image_seed
from animals_pl.data.decode import decode
from animals_pl.files import atomic_write, cache_dir, track

_FORMAT = 1
"""Version of the shifted copies. Bump when the copy of an unchanged image changes."""

AREA = (0.5, 1.0)
"""Area of the random crop, as a fraction of the image."""

ASPECT = 4 / 3
"""Largest change of the aspect ratio, in either direction."""

SHORTER_SIDE = (112, 320)
"""Range of the shorter side in pixels; smaller crops are not enlarged."""

BLUR_RADIUS = (0.0, 1.0)
"""Standard deviation in pixels for a shorter side of 224 px; it is scaled with the shorter side."""

JPEG_QUALITY = (30, 90)


def shifted(image: np.ndarray, seed: int) -> bytes:
    """A random crop of an image (H, W, 3) uint8, reduced, blurred and compressed, as a JPEG file.

    Each change is milder than the corruptions of ``test --robustness``, but all are applied. A pure function of the
    image and the seed.
    """
    rng = np.random.default_rng(seed)
    picture = Image.fromarray(image)
    picture = picture.crop(_cut(picture.size, rng))
    side = math.exp(rng.uniform(*np.log(SHORTER_SIDE)))
    scale = min(1.0, side / min(picture.size))
    picture = picture.resize([max(1, round(side * scale)) for side in picture.size], Image.Resampling.BICUBIC)
    radius = rng.uniform(*BLUR_RADIUS) * min(picture.size) / REFERENCE_SIDE
    buffer = io.BytesIO()
    picture.filter(ImageFilter.GaussianBlur(radius)).save(buffer, "JPEG", quality=int(rng.integers(*JPEG_QUALITY)))
    return buffer.getvalue()


def _cut(size: tuple[int, int], rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Left, top, right and bottom of a random crop."""
    side, stretch = math.sqrt(rng.uniform(*AREA)), ASPECT ** rng.uniform(-0.5, 0.5)
    width, height = (
        max(1, min(full, round(full * side * factor)))
        for full, factor in zip(size, (stretch, 1 / stretch), strict=True)
    )
    left, top = int(rng.integers(0, size[0] - width + 1)), int(rng.integers(0, size[1] - height + 1))
    return left, top, left + width, top + height


def shifted_copies(catalog: Catalog) -> Catalog:
    """Catalog of one shifted copy of each image, in the same order; files are written once, to the cache folder.

    Args:
        catalog: The images, with sha256.
    """
    names = [hashlib.sha256(f"{_FORMAT} {sha256} {path}".encode(errors="surrogateescape")).hexdigest()
             for sha256, path in zip(catalog.sha256, catalog.paths, strict=True)]  # fmt: skip
    root = cache_dir() / "shifted"
    hashes = []
    for path, name in track(zip(catalog.paths, names, strict=True), "shifted copies", len(names)):
        file = root / f"{name}.jpg"
        if not file.exists():
            image = decode(catalog.root / path, max(SHORTER_SIDE))
            with atomic_write(file) as partial:
                partial.write_bytes(shifted(image, image_seed(path)))
        hashes.append(hashlib.sha256(file.read_bytes()).hexdigest())
    return replace(catalog, root=root, paths=[f"{name}.jpg" for name in names], sha256=hashes)
