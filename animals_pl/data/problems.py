"""Decode image files that may be damaged, and say what is wrong with them. Needs numpy and Pillow only."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
from PIL import Image, UnidentifiedImageError

from animals_pl.data.decode import PixelFormatError, open_image, upright, use_image

_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]")
"""A marker that ends entropy-coded data or starts a segment with a length. Excludes stuffed bytes and restarts."""

_JPEG_END = 0xD9

EMPTY = "empty file (0 bytes)"


def decode_checked(content: bytes, size: int | None = None) -> tuple[np.ndarray | None, str]:
    """Decode the bytes of an image file as :func:`~animals_pl.data.decode.decode` does.

    Returns:
        The image (H, W, 3) uint8, or None if it cannot be decoded; and what is wrong with the file, empty if nothing.
        A truncated image has both.
    """
    picture, problem = load_checked(content, size)
    return None if picture is None else np.array(picture), problem


def load_checked(
    content: bytes, size: int | None = None, inspect: Callable[[Image.Image], None] | None = None
) -> tuple[Image.Image | None, str]:
    """Like :func:`decode_checked`, but returns an upright Pillow image. This saves two copies if it is then resized.

    Args:
        content: Content of the file.
        size: See :func:`~animals_pl.data.decode.decode`.
        inspect: Called with the opened image when it has been decoded, to read its EXIF data.
    """

    def use(opened: Image.Image) -> Image.Image:
        picture = upright(opened, size)
        if inspect:
            inspect(opened)
        return picture

    if not content:
        return None, EMPTY
    try:
        with open_image(content) as opened:
            problem = zeros_problem(opened, content)
            if not problem:
                return use(opened), ""
    except Exception as error:  # decoders may raise any exception
        problem = problem_of(error)
    try:
        return use_image(content, use), problem
    except Exception:  # as above
        return None, problem


def problem_of(error: Exception) -> str:
    """What an error of a decoder says about the file."""
    if isinstance(error, UnidentifiedImageError | PixelFormatError):
        return str(error)
    if isinstance(error, Image.DecompressionBombError):
        return f"decompression bomb: {error}"
    kind = "truncated" if "truncated" in str(error).lower() else "damaged"
    return f"{kind}: {str(error) or type(error).__name__}"


def zeros_problem(picture: Image.Image, content: bytes) -> str:
    """Problem of an opened JPEG whose end consists of zeros; empty if it does not."""
    if picture.format not in ("JPEG", "MPO") or not (zeros := jpeg_zeros(content)):
        return ""
    share = f"{zeros / len(content):.0%}".replace("%", " %")
    return f"truncated: the last {share} of the file is all zeros"


def jpeg_zeros(content: bytes) -> int:
    """Number of zero bytes that replace the end of a JPEG, as interrupted downloads leave them.

    libjpeg decodes such zeros as image data and Pillow hides its warning. Zeros after the end marker (of the first
    image, for MPO) are harmless padding and count as 0.
    """
    zeros = len(content) - len(content.rstrip(b"\0"))
    if not zeros:
        return 0
    position = 2
    while marker := _JPEG_MARKER.search(content, position):
        if content[marker.end() - 1] == _JPEG_END:
            return 0
        # Skip the segment, which may contain a thumbnail with an end marker of its own.
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
    return zeros
