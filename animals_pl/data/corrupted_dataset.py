"""Dataset of corrupted images, for the robustness test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from animals_pl.data.catalog import Catalog
from animals_pl.data.corruptions import CORRUPTIONS, SEVERITIES, image_seed
from animals_pl.data.decode import decode
from animals_pl.data.resize import Resize


@dataclass(eq=False, repr=False)
class CorruptedDataset(Dataset[Tensor]):
    """Every corruption of the images of a catalog, at every severity.

    Args:
        catalog: The images.
        resize: Resizes corrupted images to squares.
        size: Side in pixels.
    """

    catalog: Catalog
    resize: Resize
    size: int

    def __len__(self) -> int:
        """Number of images."""
        return len(self.catalog.paths)

    def __getitem__(self, index: int) -> Tensor:
        """Corrupted versions (K, 3, S, S) uint8 of an image, ordered by corruption, then by severity."""
        path = self.catalog.paths[index]
        image = decode(self.catalog.root / path, self.size)
        versions = [
            self.resize(corrupt(image, severity, image_seed(path)), self.size)
            for corrupt in CORRUPTIONS.values()
            for severity in SEVERITIES
        ]
        return torch.from_numpy(np.stack(versions).transpose(0, 3, 1, 2).copy())
