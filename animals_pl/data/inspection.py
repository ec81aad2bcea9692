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

from animals_pl.data.decode import open_image, to_rgb

THUMBNAIL = 32
"""Side in pixels of the grey thumbnail that hashes and contrast are computed from."""

HASH_SIDE = 16
"""A perceptual hash has this many bits squared."""

_COSINES = dct(np.eye(THUMBNAIL, dtype=np.float32), axis=0)[:HASH_SIDE]
"""The lowest rows of the cosine transform: two small products are ten times quicker than a transform each."""

CENTRE = 0.9
"""Part of each side that the second hash looks at: it meets the first hash of a copy that was cut by about as much."""

FLATTEST = 1.0
"""Standard deviation, in grey levels, below which a picture has no structure to hash."""

ORIENTATION = 0x0112
"""EXIF's tag for how the camera was held."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation → what turns the picture upright."""

QUARTER_TURNS = (5, 6, 7, 8)


class Inspection(NamedTuple):
    """What is known about one file.

    Attributes:
        sha256: Content hash, hexadecimal; empty if the file cannot be read.
        perceptual_hash: 256 bits, hexadecimal (see :func:`perceptual_hash`); empty if broken or a flat surface.
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


def inspect(file: str | Path) -> Inspection:
    """Read a file once and say everything that is known about it.

    The whole file is decoded (a JPEG at a fraction of its size, which reads every byte too), so one that was
    cut short is found. Nothing is raised: what goes wrong is in ``problem``.
    """
    try:
        status = Path(file).stat()
        content = Path(file).read_bytes()
    except OSError as error:
        return Inspection(problem=f"cannot be read: {error.strerror}")
    found = Inspection(sha256=hashlib.sha256(content).hexdigest(), bytes=len(content), modified=status.st_mtime_ns)
    if not content:
        return found._replace(problem="empty file (0 bytes)")
    try:
        with open_image(content, strict=True) as picture:
            found = found._replace(width=picture.width, height=picture.height, mode=picture.mode)
            orientation = picture.getexif().get(ORIENTATION, 1)
            thumbnail = _thumbnail(picture, orientation)
    except Image.DecompressionBombError as error:
        return found._replace(problem=f"decompression bomb: {error}")
    except Image.UnidentifiedImageError:
        return found._replace(problem="not an image in a format that is known")
    except Exception as error:  # decoders of damaged files raise what they like
        kind = "cut short" if "truncated" in str(error).lower() else "damaged"
        return found._replace(problem=f"{kind}: {error or type(error).__name__}")
    if orientation in QUARTER_TURNS:
        found = found._replace(width=found.height, height=found.width)
    contrast = float(thumbnail.std())
    first, second = _hashes(thumbnail) if contrast >= FLATTEST else ("", "")
    return found._replace(
        orientation=orientation if orientation in UPRIGHT else 1,
        perceptual_hash=first,
        centre_hash=second,
        brightness=round(float(thumbnail.mean()), 2),
        contrast=round(contrast, 2),
        detail=round(float(np.abs(thumbnail[1:] - thumbnail[:-1]).mean()), 2),
    )


def _thumbnail(picture: Image.Image, orientation: int) -> np.ndarray:
    """Return the upright (32, 32) float32 grey levels, the aspect ratio not kept."""
    picture.draft("L", (2 * THUMBNAIL, 2 * THUMBNAIL))  # JPEG alone can decode small; others come whole
    grey = (picture if picture.mode == "L" else to_rgb(picture)).convert("L")
    small = grey.resize((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS, reducing_gap=3)
    if orientation in UPRIGHT:
        small = small.transpose(UPRIGHT[orientation])
    return np.asarray(small, dtype=np.float32)


def _hashes(thumbnail: np.ndarray) -> tuple[str, str]:
    margin = THUMBNAIL * (1 - CENTRE) / 2
    box = (margin, margin, THUMBNAIL - margin, THUMBNAIL - margin)
    centre = Image.fromarray(thumbnail).resize((THUMBNAIL, THUMBNAIL), Image.Resampling.BILINEAR, box)
    return perceptual_hash(thumbnail), perceptual_hash(np.asarray(centre))


def perceptual_hash(thumbnail: np.ndarray) -> str:
    """Return the signs of the lowest 16 × 16 cosine coefficients as 64 hexadecimal digits, row by row.

    This is pHash (Zauner 2010) with 256 bits, cut at zero instead of the median: the mirrored picture's hash is
    then known without the picture, because mirroring changes the sign of every odd column.

    Args:
        thumbnail: (32, 32) grey levels.
    """
    low = _COSINES @ thumbnail @ _COSINES.T
    return np.packbits(low > 0).tobytes().hex()
