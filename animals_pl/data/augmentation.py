"""Augmentation policies (albumentations), seeded per sample."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # otherwise the import checks for updates online

import albumentations as A
import cv2
import numpy as np

from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError, did_you_mean


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


class Augmentation:
    """Random augmentation, followed by a resize to the requested size.

    Args:
        policy: ``none``, a name in :data:`POLICIES`, or a YAML or JSON file written by ``albumentations.save``.
        resize: Applied after the policy if the image does not have the requested size yet.

    Raises:
        UsageError: The policy is unknown, or its file cannot be read.
    """

    def __init__(self, policy: str, resize: Resize) -> None:
        self.policy = policy
        self.resize = resize
        self.pipelines: dict[int, A.Compose] = {}
        self.file = Path(policy) if Path(policy).suffix in {".yaml", ".yml", ".json"} else None
        if self.file is not None:
            self.loaded = _load(self.file)
        elif policy not in (known := ["none", *POLICIES]):
            raise UsageError(
                f"data.augment={policy!r} is unknown. {did_you_mean(policy, known)}Choose one of {', '.join(known)}, "
                "or a .yaml or .json file saved by albumentations."
            )

    def __call__(self, image: np.ndarray, size: int, seed: np.random.SeedSequence) -> np.ndarray:
        """Augment an image (H, W, 3) uint8 to (size, size, 3) uint8. The seed determines the result."""
        if self.policy != "none":
            pipeline = self.pipeline(size)
            pipeline.set_random_seed(int(seed.generate_state(1)[0]))
            image = pipeline(image=image)["image"]
            if image.dtype != np.uint8 or image.shape[2:] != (3,):
                raise UsageError(
                    f"data.augment={self.policy!r} turns images into {image.dtype} arrays of shape {image.shape}. "
                    "Remove steps such as Normalize and ToTensorV2; the net normalises."
                )
        return image if image.shape[:2] == (size, size) else self.resize(image, size)

    def pipeline(self, size: int) -> A.Compose:
        """The policy's pipeline for one size. A pipeline from a file is used for every size."""
        if self.file is not None:
            return self.loaded
        if size not in self.pipelines:
            self.pipelines[size] = A.Compose(POLICIES[self.policy](size))
        return self.pipelines[size]


def _load(file: Path) -> A.Compose:
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
