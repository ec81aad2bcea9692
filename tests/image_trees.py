"""Write folders of small images, and videos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from PIL import Image


def write_tree(root: Path, counts: dict[str, int], seed: int = 0) -> Path:
    """Write JPEGs of varied shape, each class around a colour of its own, one folder per class."""
    rng = np.random.default_rng(seed)
    for name, count in counts.items():
        colour = np.random.default_rng(list(os.fsencode(name))).integers(40, 215, 3)
        (root / name).mkdir(parents=True)
        for index in range(count):
            shape = (*rng.integers(40, 90, 2), 3)
            pixels = (colour + rng.normal(0, 25, shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(root / name / f"{name}_{index}.jpg", quality=90)
    return root


def write_video(file: Path, images: list[np.ndarray], fps: float = 10) -> Path:
    """Write a video of RGB images of the same size."""
    import cv2

    height, width, _ = images[0].shape
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*"MJPG"), fps, (width, height))
    for image in images:
        writer.write(np.ascontiguousarray(image[:, :, ::-1]))
    writer.release()
    return file
