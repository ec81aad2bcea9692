"""Image corruptions at five severities, after Hendrycks and Dietterich (2019), https://arxiv.org/abs/1903.12261.

Each is a pure function of the image, the severity and a seed. Sizes in pixels are given for images whose shorter side
is 224 px, as in ImageNet-C, and grow with the image, so that shrinking a large photograph does not undo the corruption.
"""

from __future__ import annotations

import io
import os
import zlib

import cv2
import numpy as np
from PIL import Image, ImageFilter

SEVERITIES = (1, 2, 3, 4, 5)

REFERENCE_SIDE = 224
"""Shorter side in pixels for which blur radius, grain of noise and JPEG blocks are given."""

BLUR_RADIUS = (1.0, 1.7, 2.5, 3.4, 4.5)
"""Standard deviation in pixels."""

NOISE = (0.06, 0.11, 0.17, 0.25, 0.36)
"""Standard deviation, as a fraction of white."""

NIGHT = ((1.2, 0.03), (1.5, 0.06), (1.9, 0.09), (2.4, 0.12), (3.0, 0.15))
"""Gamma and standard deviation of the noise."""

JPEG_QUALITY = (25, 16, 11, 7, 5)

SUBJECT_SIZE = (0.75, 0.6, 0.47, 0.36, 0.27)
"""Side of the shrunk picture, as a fraction of the original side."""

ROTATION = (8, 16, 27, 45, 75)
"""Degrees, in a random direction."""

OCCLUSION = (0.1, 0.2, 0.3, 0.4, 0.5)
"""Fraction of the cells that are covered."""

CELLS = 8
"""Cells per side of the grid of the occlusion."""


def blur(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Gaussian blur, like a subject out of focus."""
    radius = BLUR_RADIUS[severity - 1] * min(image.shape[:2]) / REFERENCE_SIDE
    return np.asarray(Image.fromarray(image).filter(ImageFilter.GaussianBlur(radius)))


def noise(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Gaussian noise in each colour channel, like that of a sensor in low light."""
    return _to_uint8(_unit(image) + NOISE[severity - 1] * _grain(image.shape, seed))


def night(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Dark grey image with noise, like that of an infra-red camera at night."""
    gamma, sigma = NIGHT[severity - 1]
    grey = _unit(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None])
    dark = grey**gamma + sigma * _grain((*image.shape[:2], 1), seed)
    return np.repeat(_to_uint8(dark), 3, axis=2)


def jpeg(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Strong JPEG compression."""
    picture = Image.fromarray(image)
    scale = max(1.0, min(picture.size) / REFERENCE_SIDE)
    small = picture.resize([round(side / scale) for side in picture.size]) if scale > 1 else picture
    buffer = io.BytesIO()
    small.save(buffer, "JPEG", quality=JPEG_QUALITY[severity - 1])
    return np.asarray(Image.open(buffer).resize(picture.size))


def small_subject(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """The picture shrunk and centred on its own blurred colours, like an animal far away."""
    picture = Image.fromarray(image)
    background = picture.resize((4, 4), Image.Resampling.BOX).resize(picture.size, Image.Resampling.BICUBIC)
    small = picture.resize([max(1, round(side * SUBJECT_SIZE[severity - 1])) for side in picture.size])
    background.paste(small, ((picture.width - small.width) // 2, (picture.height - small.height) // 2))
    return np.asarray(background)


def rotation(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Rotation about the centre; the corners are filled by reflection."""
    sign = np.random.default_rng(seed).choice([-1, 1])
    height, width = image.shape[:2]
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), float(sign * ROTATION[severity - 1]), 1.0)
    return cv2.warpAffine(image, turn, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)


def occlusion(image: np.ndarray, severity: int, seed: int) -> np.ndarray:
    """Random grid cells covered with the mean colour, like leaves; each severity includes the cells of lower ones."""
    order = np.random.default_rng(seed).permutation(CELLS**2).reshape(CELLS, CELLS)
    covered = order < OCCLUSION[severity - 1] * CELLS**2
    rows, columns = (np.arange(side) * CELLS // side for side in image.shape[:2])
    mean = image.mean((0, 1)).round().astype(np.uint8)
    return np.where(covered[rows][:, columns, None], mean, image)


CORRUPTIONS = {
    function.__name__: function for function in (blur, noise, night, jpeg, small_subject, rotation, occlusion)
}
"""Name → function of an image (H, W, 3) uint8, a severity in 1…5 and a seed."""


def image_seed(path: str) -> int:
    """Seed of an image: the same in every run, whatever the order of the images and the number of workers."""
    return zlib.crc32(os.fsencode(path))


def _grain(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Standard normal noise (H, W, channels), constant over each block that is one pixel at the reference size."""
    height, width, channels = shape
    scale = max(1.0, min(height, width) / REFERENCE_SIDE)
    small = (round(height / scale), round(width / scale), channels)
    values = np.random.default_rng(seed).standard_normal(small, dtype=np.float32)
    grain = cv2.resize(values, (width, height), interpolation=cv2.INTER_NEAREST)
    return grain.reshape(shape)


def _unit(pixels: np.ndarray) -> np.ndarray:
    """Pixels in 0…1, float32: float64 would take 600 MB for a photograph of 5,000 px."""
    return pixels.astype(np.float32) / 255


def _to_uint8(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)
