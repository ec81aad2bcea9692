"""Features of validation images for TensorBoard's embedding projector."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset

from animals_pl.files import atomic_write, printable
from animals_pl.models.layers import evaluation_mode
from animals_pl.training.callbacks.evaluation_files import Evaluation

MAX_IMAGES, SIDE = 1000, 64
"""Maximum number of images, spread over the split, and side of their thumbnails in pixels."""

MAX_FEATURES = 4096
"""Maximum number of features. Nets with more are shown by their logits."""

_BATCH = 16

CONFIG = f"""embeddings {{
  tensor_name: "features"
  tensor_path: "features.tsv"
  metadata_path: "labels.tsv"
  sprite {{
    image_path: "sprite.png"
    single_image_dim: {SIDE}
    single_image_dim: {SIDE}
  }}
}}"""


def write_projector(evaluation: Evaluation, names: Sequence[str]) -> None:
    """Write the features of up to 1,000 images, their classes, paths and thumbnails into the evaluation's folder.

    Args:
        evaluation: The evaluation.
        names: Name of each class (C,).
    """
    paths, found = evaluation.catalog.paths, evaluation.predictions
    indices = np.linspace(0, len(paths) - 1, min(len(paths), MAX_IMAGES)).astype(int)
    features, pictures = _features_and_pictures(evaluation, indices)
    predicted = found.probabilities.argmax(1)
    rows = [(names[found.labels[i]], names[predicted[i]], printable(paths[i])) for i in indices]
    labels = "\n".join("\t".join(row) for row in [("class", "prediction", "path"), *rows])
    folder = evaluation.files
    with atomic_write(folder / "features.tsv") as partial:
        np.savetxt(partial, features, fmt="%.5g", delimiter="\t")
    with atomic_write(folder / "sprite.png") as partial:
        _sprite(pictures).save(partial, "PNG")
    for name, text in {"labels.tsv": labels, "projector_config.pbtxt": CONFIG}.items():
        with atomic_write(folder / name) as partial:
            partial.write_text(text + "\n", encoding="utf-8")


def _features_and_pictures(evaluation: Evaluation, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Input of the net's head (N, F), or its logits, and thumbnails (N, 64, 64, 3) uint8, of some images."""
    features, pictures = [], []
    net, device = evaluation.net.to(evaluation.device), evaluation.device
    with torch.inference_mode(), evaluation_mode(net):
        for images, _ in DataLoader(Subset(evaluation.dataset, indices.tolist()), _BATCH):
            batch = net.forward_features(images.to(device))
            if batch.flatten(1).shape[1] > MAX_FEATURES:
                batch = net.forward_head(batch)
            features.append(batch.flatten(1).float().cpu())
            small = F.interpolate(images.float(), (SIDE, SIDE), mode="bilinear", antialias=True)
            pictures.append(small.round().byte().permute(0, 2, 3, 1))
    net.to("cpu")
    return torch.cat(features).numpy(), torch.cat(pictures).numpy()


def _sprite(pictures: np.ndarray) -> Image.Image:
    """All thumbnails (N, S, S, 3) in one square picture, row by row."""
    side = math.ceil(math.sqrt(len(pictures)))
    cells = np.full((side**2, *pictures.shape[1:]), 255, np.uint8)
    cells[: len(pictures)] = pictures
    rows = cells.reshape(side, side, *pictures.shape[1:]).swapaxes(1, 2)
    return Image.fromarray(rows.reshape(side * SIDE, side * SIDE, 3))
