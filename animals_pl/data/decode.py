"""File → RGB uint8 array, safely, and the one function that resizes for evaluation.

Training, validation, prediction and deployment all come through here, so this module
needs numpy and Pillow only.
"""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from PIL import Image, ImageFile, ImageOps

from animals_pl.errors import UsageError

# A photograph cut short (a broken download) still shows its animal: decode what is there, as browsers do.
ImageFile.LOAD_TRUNCATED_IMAGES = True

ResizeRule = Literal["stretch", "crop"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]

_RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


@dataclass(frozen=True)
class Resize:
    """How a photograph of any shape becomes a square of ``size`` pixels.

    Attributes:
        rule: ``stretch`` squeezes the whole photograph into the square; ``crop`` keeps the aspect
            ratio and cuts the square out of the centre.
        interpolation: Pillow's filter (antialiased when shrinking).
        crop_fraction: For ``crop``: the part, in (0, 1], of the shorter side that the square covers;
            0.875 resizes the shorter side to ``size / 0.875`` before cutting.
    """

    rule: ResizeRule = "stretch"
    interpolation: Interpolation = "bilinear"
    crop_fraction: float = 1.0

    def __post_init__(self) -> None:
        """Refuse values outside their range."""
        for key, value, known in (
            ("resize", self.rule, get_args(ResizeRule)),
            ("interpolation", self.interpolation, get_args(Interpolation)),
        ):
            if value not in known:
                raise UsageError(f"data.{key}={value!r} is unknown; choose one of {', '.join(known)}")
        if not 0 < self.crop_fraction <= 1:
            raise UsageError(f"data.crop_fraction={self.crop_fraction} is out of range; choose a value in (0, 1]")
        if self.rule == "stretch" and self.crop_fraction != 1:
            raise UsageError(
                f"data.crop_fraction={self.crop_fraction} has no effect with data.resize=stretch; "
                "set data.resize=crop or leave crop_fraction at 1"
            )

    def __call__(self, image: np.ndarray, size: int) -> np.ndarray:
        """Resize an (H, W, 3) uint8 image to (size, size, 3) uint8."""
        picture = Image.fromarray(image)
        return np.asarray(picture.resize((size, size), _RESAMPLING[self.interpolation], self._box(picture)))

    def _box(self, picture: Image.Image) -> tuple[float, float, float, float]:
        """Return the region (left, top, right, bottom), in pixels, that becomes the square."""
        width, height = picture.size
        if self.rule == "stretch":
            return (0.0, 0.0, float(width), float(height))
        # Resampling the centre square alone is resizing the shorter side and then cutting, in one pass.
        side = min(width, height) * self.crop_fraction
        left, top = (width - side) / 2, (height - side) / 2
        return (left, top, left + side, top + side)


def decode(source: str | Path | bytes) -> np.ndarray:
    """Decode an image file or its bytes to an (H, W, 3) uint8 RGB array.

    EXIF rotation is applied, transparency is laid over white, 16-bit grey is scaled, and grey, palette
    and CMYK become RGB. A file cut short is decoded as far as it goes.

    Raises:
        UsageError: The file cannot be read as an image, or claims more pixels than is sane
            (Pillow's limit against decompression bombs).
    """
    name = "<bytes>" if isinstance(source, bytes) else str(source)
    stream = io.BytesIO(source) if isinstance(source, bytes) else source
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's remarks on odd EXIF and on images near its size limit
            with Image.open(stream) as picture:
                return np.array(_to_rgb(ImageOps.exif_transpose(picture)))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"cannot decode the photograph {name}: {reason}; mend or remove the file") from error


def _to_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode.startswith("I"):  # 16 or 32 bits of grey; convert() would clip at 255
        grey = np.asarray(picture, dtype=np.float64)
        return Image.fromarray((grey / 257).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")
