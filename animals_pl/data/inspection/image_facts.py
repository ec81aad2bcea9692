"""Facts about an image file: hashes, size, statistics, and its problem if it cannot be decoded completely.

Worker processes import this module, so it needs numpy, Pillow and SciPy only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dct

from animals_pl.data.decode import open_image, orientation_of, read_image, upright_size, upright_square
from animals_pl.data.problems import EMPTY, problem_of, zeros_problem

THUMBNAIL = 32
"""Side in pixels of the thumbnail that hashes and statistics are computed from."""

HASH_SIDE = 16
"""A perceptual hash has ``HASH_SIDE ** 2`` structure bits."""

COLOUR_SIDE = 4
"""A perceptual hash has ``COLOUR_SIDE ** 2`` mean colours."""

CENTRE_BOX = (1.6, 1.6, 30.4, 30.4)
"""Central 90 % of each side of a thumbnail. Its hash is close to that of a slightly cropped duplicate."""

MIN_CONTRAST = 1.0
"""Standard deviation in grey levels below which an image has no structure to hash."""

_DCT_ROWS = dct(np.eye(THUMBNAIL, dtype=np.float32), axis=0)[:HASH_SIDE]
"""Lowest rows of the cosine transform. Two small matrix products are 10x faster than a full transform."""


class ImageFacts(NamedTuple):
    """Facts about one file. A new field becomes a column of the manifest; then bump ``_FORMAT`` in ``manifest.py``.

    Attributes:
        sha256: Content hash, hexadecimal. Empty if the file cannot be read.
        perceptual_hash: See :func:`perceptual_hash`. Empty if the image is broken or uniform.
        centre_hash: Perceptual hash of the central 90 % of each side.
        width, height: In pixels, after EXIF rotation.
        mode: Pillow's mode, such as ``RGB`` or ``L``.
        bytes: File size.
        modified: Modification time in nanoseconds.
        orientation: EXIF orientation, 1 (upright) to 8.
        brightness: Mean grey level of the thumbnail, in 0…255.
        contrast: Standard deviation of the thumbnail's grey levels, in 0…127.5.
        detail: Mean absolute difference of vertically adjacent grey levels of the thumbnail, in 0…255.
        problem: Why the file cannot be decoded completely. Empty if it can.
    """

    sha256: str = ""
    perceptual_hash: str = ""
    centre_hash: str = ""
    width: int = 0
    height: int = 0
    mode: str = ""
    bytes: int = 0
    modified: int = 0
    orientation: int = 1
    brightness: float = 0.0
    contrast: float = 0.0
    detail: float = 0.0
    problem: str = ""


def inspect(file: str | Path) -> ImageFacts:
    """Read a file once and return the facts about it.

    The whole file is decoded (a JPEG at a reduced size, which still reads every byte), so truncated files are found.
    Never raises; errors are reported in ``problem``.
    """
    try:
        status = Path(file).stat()
        content = read_image(Path(file))
    except OSError as error:
        return ImageFacts(problem=f"cannot be read: {error.strerror}")
    facts = ImageFacts(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), modified=status.st_mtime_ns)
    if not content:
        return facts._replace(problem=EMPTY)
    try:
        with open_image(content) as picture:
            width, height = upright_size(picture)
            orientation = orientation_of(picture)
            facts = facts._replace(width=width, height=height, mode=picture.mode, orientation=orientation)
            if problem := zeros_problem(picture, content):
                return facts._replace(problem=problem)
            thumbnail = upright_square(picture, THUMBNAIL)
    except Exception as error:  # decoders may raise any exception
        return facts._replace(problem=problem_of(error))
    grey = np.asarray(thumbnail.convert("L"), dtype=np.float32)
    contrast = float(grey.std())
    if contrast >= MIN_CONTRAST:
        centre = thumbnail.resize(thumbnail.size, Image.Resampling.BILINEAR, CENTRE_BOX)
        facts = facts._replace(perceptual_hash=perceptual_hash(thumbnail), centre_hash=perceptual_hash(centre))
    return facts._replace(
        brightness=round(float(grey.mean()), 2),
        contrast=round(contrast, 2),
        detail=round(float(np.abs(grey[1:] - grey[:-1]).mean()), 2),
    )


def perceptual_hash(thumbnail: Image.Image) -> str:
    """Hash of structure and colours, similar for duplicates of an image.

    Args:
        thumbnail: 32 × 32 pixels RGB.

    Returns:
        160 hexadecimal digits: 64 of :func:`structure`, and 96 of the mean red, green and blue (0…255) of 4 × 4
        fields, row by row.
    """
    fields = thumbnail.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX)
    return structure(np.asarray(thumbnail.convert("L"), dtype=np.float32)).tobytes().hex() + fields.tobytes().hex()


def structure(grey: np.ndarray) -> np.ndarray:
    """Signs (32,) uint8 of the lowest 16 × 16 cosine coefficients of grey levels (32, 32), row by row, as packed bits.

    pHash (Zauner 2010) with 256 bits and the threshold 0 instead of the median. Flipping an image horizontally
    changes the sign of every odd column, so the hash of the flipped image follows from that of the image.
    """
    return np.packbits(_DCT_ROWS @ grey @ _DCT_ROWS.T > 0)
