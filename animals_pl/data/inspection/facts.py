"""One image file → what is known about it: content hash, perceptual hashes, size, and what is wrong with it.

Loader processes import this module and little else, so it needs numpy, Pillow and SciPy only.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy.fft import dct

from animals_pl.data.decode import UNKNOWN_FORMAT, open_image, orientation_of, upright_size, upright_square

THUMBNAIL = 32
"""Side in pixels of the thumbnail that hashes and contrast are computed from."""

HASH_SIDE = 16
"""A perceptual hash has this many bits of structure squared."""

_COSINES = dct(np.eye(THUMBNAIL, dtype=np.float32), axis=0)[:HASH_SIDE]
"""The lowest rows of the cosine transform: two small products are ten times quicker than a transform each."""

CENTRE_BOX = (1.6, 1.6, 30.4, 30.4)
"""The middle 90 % of each side of a thumbnail: its hash is near to the whole hash of a copy that was cut so."""

COLOUR_SIDE = 4
"""A perceptual hash has the mean colours of this many fields squared."""

FLATTEST = 1.0
"""Standard deviation, in grey levels, below which a picture has no structure to hash."""


class ImageFacts(NamedTuple):
    """What is known about one file.

    Attributes:
        sha256: Content hash, hexadecimal; empty if the file cannot be read.
        perceptual_hash: See :func:`perceptual_hash`; empty if broken or a flat surface.
        centre_hash: The same of the middle 90 % of each side.
        width: In pixels, upright as a person sees it.
        height: In pixels, upright.
        mode: Pillow's, such as ``RGB`` or ``L``.
        bytes: Size of the file.
        modified: Its time of last change, in nanoseconds.
        orientation: EXIF orientation, 1 to 8; 1 is upright.
        brightness: Mean grey level of the thumbnail, in 0…255.
        contrast: Standard deviation of the thumbnail's grey levels, in 0…127.5.
        detail: Mean difference of grey levels one above the other in the thumbnail, in 0…255.
        problem: Why the file cannot be used, in words; empty if it can.
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
    """Read a file once and say everything that is known about it.

    The whole file is decoded (a JPEG at a fraction of its size, which reads every byte too), so one that was
    cut short is found. Nothing is raised: what goes wrong is in ``problem``.
    """
    try:
        status = Path(file).stat()
        content = Path(file).read_bytes()
    except OSError as error:
        return ImageFacts(problem=f"cannot be read: {error.strerror}")
    found = ImageFacts(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), modified=status.st_mtime_ns)
    if not content:
        return found._replace(problem="empty file (0 bytes)")
    try:
        with open_image(content) as picture:
            width, height = upright_size(picture)
            orientation = orientation_of(picture)
            found = found._replace(width=width, height=height, mode=picture.mode, orientation=orientation)
            thumbnail = upright_square(picture, THUMBNAIL)
    except Image.DecompressionBombError as error:
        return found._replace(problem=f"decompression bomb: {error}")
    except Image.UnidentifiedImageError:
        return found._replace(problem=UNKNOWN_FORMAT)
    except Exception as error:  # decoders of damaged files raise what they like
        kind = "cut short" if "truncated" in str(error).lower() else "damaged"
        return found._replace(problem=f"{kind}: {error or type(error).__name__}")
    grey = np.asarray(thumbnail.convert("L"), dtype=np.float32)
    contrast = float(grey.std())
    hashes = ("", "")
    if contrast >= FLATTEST:
        centre = thumbnail.resize(thumbnail.size, Image.Resampling.BILINEAR, CENTRE_BOX)
        hashes = perceptual_hash(thumbnail), perceptual_hash(centre)
    return found._replace(
        perceptual_hash=hashes[0],
        centre_hash=hashes[1],
        brightness=round(float(grey.mean()), 2),
        contrast=round(contrast, 2),
        detail=round(float(np.abs(grey[1:] - grey[:-1]).mean()), 2),
    )


def perceptual_hash(thumbnail: Image.Image) -> str:
    """Return what two copies of a picture have in common: its structure and its colours, in hexadecimal.

    Args:
        thumbnail: 32 × 32 pixels RGB.

    Returns:
        64 digits, the bits of :func:`structure`, and 96, the mean red, green and blue (0…255) of 4 × 4 fields, row
        by row.
    """
    fields = thumbnail.resize((COLOUR_SIDE, COLOUR_SIDE), Image.Resampling.BOX)
    return structure(np.asarray(thumbnail.convert("L"), dtype=np.float32)).tobytes().hex() + fields.tobytes().hex()


def structure(grey: np.ndarray) -> np.ndarray:
    """Return the signs of the lowest 16 × 16 cosine coefficients, row by row: (32,) uint8, eight bits each.

    This is pHash (Zauner 2010) with 256 bits, cut at zero instead of the median: the mirrored picture's bits are
    then known without the picture, because mirroring changes the sign of every odd column.

    Args:
        grey: (32, 32) float32 grey levels.
    """
    return np.packbits(_COSINES @ grey @ _COSINES.T > 0)
