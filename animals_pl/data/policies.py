"""Augmentation policies of albumentations, by name and from files.

Imported only where images are augmented: importing albumentations takes half a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import checks for updates online

import albumentations as A
import cv2

from animals_pl.errors import UsageError


def _zoom_and_translate() -> A.Affine:
    """Zoom in by up to 40 %, translate by up to 30 % vertically and 20 % horizontally, fill by reflection.

    Keras's ``RandomZoom(-0.4)`` shows 60 to 100 % of the image: a scale of 1 to 1 / 0.6.
    """
    return A.Affine(
        scale=(1.0, 1 / 0.6),
        keep_ratio=True,
        translate_percent={"x": (-0.2, 0.2), "y": (-0.3, 0.3)},
        border_mode=cv2.BORDER_REFLECT,
        p=1.0,
    )


def reference(_: int) -> list[A.BasicTransform]:
    """Augmentation of the reference (see ``experiments/reference.py``) for its large net: flip, zoom, translation."""
    return [A.HorizontalFlip(p=0.5), _zoom_and_translate()]


def reference_no_flip(_: int) -> list[A.BasicTransform]:
    """Augmentation of the reference for its small net: zoom and translation."""
    return [_zoom_and_translate()]


def light(size: int) -> list[A.BasicTransform]:
    """Random crops of at least half of the area (Szegedy et al. 2015), resized bilinearly or by area, and flips."""
    crop = A.RandomResizedCrop((size, size), scale=(0.5, 1.0), area_for_downscale="image")
    return [crop, A.HorizontalFlip(p=0.5)]


POLICIES: dict[str, Callable[[int], list[A.BasicTransform]]] = {
    policy.__name__: policy for policy in (reference, reference_no_flip, light)
}


def named_pipeline(policy: str, size: int) -> A.Compose:
    """Pipeline of a policy in :data:`POLICIES` for images of one size."""
    return A.Compose(POLICIES[policy](size))


def load_pipeline(file: Path) -> A.Compose:
    """Pipeline in a file written by ``albumentations.save``.

    Raises:
        UsageError: The file cannot be read.
    """
    if not file.is_file():
        raise UsageError(
            f"data.augment={str(file)!r} is not a file. Create one with albumentations.save(transform, path)."
        )
    try:
        pipeline = A.load(file, data_format="json" if file.suffix == ".json" else "yaml")
    except Exception as error:  # albumentations may raise any exception
        raise UsageError(
            f"data.augment={str(file)!r} cannot be read as an albumentations pipeline "
            f"({type(error).__name__}: {error}). Save it again with albumentations.save(transform, path)."
        ) from error
    return pipeline if isinstance(pipeline, A.Compose) else A.Compose([pipeline])
