"""Thumbnails, as images and as data URIs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image, ImageDraw

from animals_pl.data.decode import read_image, upright, use_image

SIDE = 128
"""Longer side of a thumbnail, in pixels."""


def thumbnail(file: Path, side: int = SIDE) -> Image.Image:
    """Return an upright thumbnail of at most ``side`` × ``side`` pixels; a placeholder if the file cannot be decoded.

    JPEGs are decoded at reduced size, which is several times faster.
    """

    def shrink(image: Image.Image) -> Image.Image:
        image.draft("RGB", (side, side))
        small = upright(image)
        small.thumbnail((side, side), reducing_gap=2)
        return small

    try:
        return use_image(read_image(file), shrink)
    except Exception:  # decoders may raise any exception
        return _placeholder(side)


def thumbnail_uri(file: Path | None) -> str:
    """Return a thumbnail as a data URI; ``None`` gives the placeholder of a missing image."""
    return jpeg_uri(thumbnail(file) if file else _placeholder(SIDE))


def jpeg_uri(image: Image.Image) -> str:
    """Return an image as the data URI of a JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=70)
    return data_uri("jpeg", buffer.getvalue())


def data_uri(kind: str, content: bytes) -> str:
    """Return an encoded image as a data URI. ``kind`` is ``png`` or ``jpeg``."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _placeholder(side: int) -> Image.Image:
    image = Image.new("RGB", (side, side * 3 // 4), "#eeeeee")
    draw = ImageDraw.Draw(image)
    draw.line((0, 0, *image.size), fill="#bbbbbb", width=2)
    draw.line((0, image.height, image.width, 0), fill="#bbbbbb", width=2)
    return image
