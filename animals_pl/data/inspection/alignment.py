"""Align two images to find out whether they show the same picture."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from animals_pl.data.decode import open_image, upright_square

SIDE = 64
"""Side in pixels of the thumbnails that are compared."""

MIN_CORRELATION = 0.93
"""Minimum correlation of duplicates. 98 % of duplicates cropped by up to 8 % per side reach it; of 725 pairs of
different drawings of the same animal in the same pose, none exceeds 0.92."""

MIN_OVERLAP = 0.6
_STEPS = (cv2.TERM_CRITERIA_COUNT | cv2.TERM_CRITERIA_EPS, 60, 1e-5)


def same_picture(first: Path, second: Path) -> bool:
    """Whether two files that can be decoded are duplicates, even if one is cropped, resized, brighter or flipped.

    The thumbnails are aligned by the affine map with the highest correlation (Evangelidis and Psarakis 2008,
    ``cv2.findTransformECC``). Their colours then have to correlate where they overlap.
    """
    fixed, moving = _square(first), _square(second)
    return any(_correlation(fixed, view) >= MIN_CORRELATION for view in (moving, np.ascontiguousarray(moving[:, ::-1])))


def _square(file: Path) -> np.ndarray:
    with open_image(file.read_bytes()) as picture:
        return np.asarray(upright_square(picture, SIDE))


def _correlation(fixed: np.ndarray, moving: np.ndarray) -> float:
    """Correlation, in -1…1, of two RGB thumbnails (S, S, 3) uint8 where they overlap after alignment."""
    size = (SIDE, SIDE)
    inside = np.ones(size, dtype=np.uint8)
    start = np.eye(2, 3, dtype=np.float32)
    try:
        grey = [cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), (0, 0), 1.0) for image in (fixed, moving)]
        _, warp = cv2.findTransformECC(grey[0], grey[1], start, cv2.MOTION_AFFINE, _STEPS, inside, 1)
    except cv2.error:  # no convergence: the images have nothing in common
        return -1.0
    overlap = cv2.warpAffine(inside, warp, size, flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP) > 0
    aligned = cv2.warpAffine(moving, warp, size, flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    if overlap.mean() < MIN_OVERLAP:
        return -1.0
    return float(np.corrcoef(fixed[overlap].ravel(), aligned[overlap].ravel())[0, 1])
