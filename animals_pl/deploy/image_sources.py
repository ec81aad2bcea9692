"""The images that a user passes: files, folders, bytes, arrays, Pillow images. Needs numpy and Pillow only."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image

from animals_pl.data.decode import read_image, upright
from animals_pl.data.problems import load_checked, problem_of
from animals_pl.data.walk import find_images
from animals_pl.errors import UsageError

Source: TypeAlias = str | Path | bytes | np.ndarray | Image.Image
"""An image: a file, its content, RGB pixels (H, W, 3) uint8, or a Pillow image."""

Pixels: TypeAlias = np.ndarray | Image.Image
"""RGB pixels: an array (H, W, 3) uint8, or an upright picture, which is resized without being copied."""


def as_list(images: Any) -> list[Any]:
    """One image or several, such as an array (N, H, W, 3), as a list."""
    is_pixels = isinstance(images, np.ndarray) and images.ndim <= 3
    is_one = is_pixels or isinstance(images, str | bytes) or not isinstance(images, Iterable)
    return [images] if is_one else list(images)


def expand_folders(sources: Iterable[Source]) -> list[Source]:
    """The sources with each folder replaced by its image files."""
    expanded: list[Source] = []
    for source in sources:
        is_folder = isinstance(source, str | Path) and Path(source).is_dir()
        expanded += find_images(Path(source)) if is_folder else [source]  # type: ignore[arg-type]
    return expanded


def load(source: Source, size: int) -> tuple[Pixels | None, str]:
    """An image as RGB pixels, or None if it cannot be decoded; and what is wrong with it.

    Args:
        source: The image.
        size: Side of the square that it will be resized to, see :func:`animals_pl.data.decode.decode`.

    Raises:
        UsageError: The source is not an image of one of these types.
    """
    if isinstance(source, bytes):
        return load_checked(source, size)
    if isinstance(source, str | Path):
        try:
            return load_checked(read_image(Path(source)), size)
        except OSError as error:
            return None, f"cannot be read: {error.strerror}"
    if isinstance(source, Image.Image):
        try:
            return upright(source), ""
        except Exception as error:  # decoders may raise any exception
            return None, problem_of(error)
    return require_pixels(source), ""


def require_pixels(image: np.ndarray) -> np.ndarray:
    """The image, if it is RGB pixels (H, W, 3) uint8. Otherwise raises UsageError."""
    if not isinstance(image, np.ndarray):
        raise UsageError(f"images contains a {type(image).__name__}. Pass paths, bytes, arrays or Pillow images.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise UsageError(f"images contains a {image.dtype} array of shape {image.shape}. Pass RGB uint8 (H, W, 3).")
    return image
