"""Small pictures of images, for sheets and reports."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageDraw

from animals_pl.data.decode import upright, use_image

SIDE = 128
"""Longer side of a report's thumbnail, in pixels."""


def picture(file: Path, side: int = SIDE) -> Image.Image:
    """Return an image, upright, with a longer side of at most ``side`` pixels; a cross if it cannot be decoded.

    A JPEG is decoded at a fraction of its size, which is several times quicker.
    """

    def shrink(image: Image.Image) -> Image.Image:
        image.draft("RGB", (side, side))
        small = upright(image)
        small.thumbnail((side, side), reducing_gap=2)
        return small

    try:
        return use_image(file.read_bytes(), shrink)
    except Exception:  # decoders of damaged files raise what they like
        return _cross(side)


def data_uri(file: Path, side: int = SIDE) -> str:
    """Return an image as text that a page can hold in place of a file."""
    return _encode(picture(file, side))


def _cross(side: int) -> Image.Image:
    image = Image.new("RGB", (side, side * 3 // 4), "#eeeeee")
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, *image.size), fill="#bbbbbb", width=2)
    draw.line((0, image.height, image.width, 0), fill="#bbbbbb", width=2)
    return image


def absent_uri() -> str:
    """Return the picture that stands for an image that is not there, as a data URI."""
    return _encode(_cross(SIDE))


def png_uri(file: Path) -> str:
    """Return a PNG file as a data URI."""
    return "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()


def _encode(image: Image.Image) -> str:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()
