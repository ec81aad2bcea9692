"""Grad-CAM heat maps over thumbnails."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Subset

from animals_pl.data.dataset import AnimalsDataset
from animals_pl.models.from_scratch import SequentialNet
from animals_pl.models.grad_cam import grad_cam
from animals_pl.models.transfer import TransferNet

_BATCH = 16
"""Images per forward pass: little memory, and as fast as larger batches on a CPU."""


def heat_maps(
    net: SequentialNet | TransferNet,
    dataset: AnimalsDataset,
    indices: Sequence[int],
    labels: np.ndarray,
    device: torch.device | str = "cpu",
) -> dict[int, np.ndarray]:
    """Index of each image → its Grad-CAM heat map (h, w) in 0…1.

    Args:
        net: The net; it is moved to the CPU afterwards.
        dataset: Images (N).
        indices: Images to explain.
        labels: The class to explain, for each image of the dataset (N,).
        device: Device to compute on.
    """
    found: list[np.ndarray] = []
    targets = torch.from_numpy(labels[np.asarray(indices, int)]).split(_BATCH)
    net.to(device)
    for (images, _), target in zip(DataLoader(Subset(dataset, indices), _BATCH), targets, strict=True):
        found.extend(grad_cam(net, images.to(device), target.to(device)).cpu().numpy())
    net.to("cpu")
    return dict(zip(indices, found, strict=True))


def overlay(thumbnail: Image.Image, heat: np.ndarray, box: tuple[float, float, float, float]) -> Image.Image:
    """A thumbnail with a heat map over it; the part outside the box is grey.

    Args:
        thumbnail: The RGB thumbnail.
        heat: Heat map (h, w) in 0…1.
        box: Left, top, right and bottom of the part of the thumbnail that the heat map covers, in pixels.
    """
    left, top, right, bottom = (round(edge) for edge in box)
    photo = np.asarray(thumbnail)
    grey = np.asarray(thumbnail.convert("L"))[..., None]
    blended = np.repeat(grey // 2 + 96, 3, 2)
    size = (right - left, bottom - top)
    smooth = np.clip(cv2.resize(heat, size, interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.applyColorMap((255 * smooth).astype(np.uint8), cv2.COLORMAP_TURBO)[..., ::-1]
    inside = (slice(top, bottom), slice(left, right))
    opacity = 0.65 * smooth[..., None]
    blended[inside] = (1 - opacity) * photo[inside] + opacity * colours
    return Image.fromarray(blended)
