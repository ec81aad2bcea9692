"""Write folders of small images."""

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
