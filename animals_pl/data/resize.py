"""Resize rule shared by training, validation, test, prediction and export.

Needs numpy and Pillow only. The settings are those of ``data.*``, not the crop and interpolation of a timm model.
Mean and standard deviation belong to the net: ``models/transfer.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from PIL import Image

from animals_pl.errors import UsageError

ResizeRule = Literal["stretch", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

PREPROCESSING = ("size", "resize", "interpolation", "crop_pct")
"""Settings of the datamodule that must be the same in training and evaluation."""


@dataclass(frozen=True)
class Resize:
    """Resize images of any shape to squares.

    Attributes:
        rule: ``stretch`` resizes the whole image to a square; ``crop`` resizes the shorter side to
            ``floor(size / crop_pct)`` and keeps the center, as timm does.
        interpolation: Pillow's filter (antialiased when shrinking).
        crop_pct: Fraction of the shorter side kept by the center crop, in (0, 1].

    Raises:
        UsageError: A value is unknown or out of range.
    """

    rule: ResizeRule = "stretch"
    interpolation: Interpolation = "bilinear"
    crop_pct: float = 1.0

    def __post_init__(self) -> None:
        """Check the values."""
        for key, value, known in (
            ("resize", self.rule, get_args(ResizeRule)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in known:
                raise UsageError(f"data.{key}={value!r} is unknown. Choose one of {', '.join(known)}.")
        if not 0 < self.crop_pct <= 1:
            raise UsageError(f"data.crop_pct={self.crop_pct} is out of range. Choose a value in (0, 1].")
        if self.rule == "stretch" and self.crop_pct != 1:
            raise UsageError(
                f"data.crop_pct={self.crop_pct} has no effect with data.resize=stretch. "
                "Set data.resize=crop, or data.crop_pct=1."
            )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Resize:
        """Create the rule from settings of the datamodule, or from the metadata of an exported file."""
        return cls(settings["resize"], settings["interpolation"], float(settings["crop_pct"]))

    def __call__(self, image: np.ndarray | Image.Image, size: int) -> np.ndarray:
        """Resize an (H, W, 3) uint8 image or an RGB picture to (size, size, 3) uint8."""
        picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
        box = self.box(picture.size, size)
        return np.asarray(picture.resize((size, size), Image.Resampling[self.interpolation.upper()], box))

    def box(self, image_size: tuple[int, int], size: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the part of an image that is resized, in pixels of the image.

        Resampling from this box gives the same pixels as resizing the whole image and then cropping it, since Pillow's
        filters also read the pixels outside of the box.
        """
        if self.rule == "stretch":
            return 0, 0, *image_size
        short_side, shortest = math.floor(size / self.crop_pct), min(image_size)
        corner, opposite = [], []
        for side in image_size:
            resized = short_side * side // shortest
            offset = round((resized - size) / 2)  # torchvision's CenterCrop
            corner.append(offset * side / resized)
            opposite.append((offset + size) * side / resized)
        return corner[0], corner[1], opposite[0], opposite[1]
