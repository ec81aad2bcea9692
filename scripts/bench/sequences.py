"""Compare rules that join the probabilities of a burst of images: accuracy, log-loss and calibration error.

    python -m scripts.bench.sequences --ckpt_path checkpoints/RUN/best.ckpt

There are no bursts in a dataset of single images, so each test image of the run is made into one: views with another
framing, brightness and JPEG quality, as between two exposures of a camera.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageEnhance
from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.data.decode import decode
from animals_pl.data.tables import read_rows
from animals_pl.deploy.sequences import joint_probabilities
from animals_pl.evaluation.calibration import expected_calibration_error
from animals_pl.models.layers import forward_tta
from animals_pl.training.calibration import output
from animals_pl.training.trained import TrainedModel, load_model

LENGTHS = (3, 10)
"""Images in a burst."""


def view(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """One exposure: a crop of 80 to 100 % of each side, 75 to 130 % of the brightness, JPEG quality 60 to 95."""
    height, width = image.shape[:2]
    share = rng.uniform(0.8, 1)
    h, w = round(share * height), round(share * width)
    top, left = rng.integers(height - h + 1), rng.integers(width - w + 1)
    picture = Image.fromarray(image[top : top + h, left : left + w])
    picture = ImageEnhance.Brightness(picture).enhance(rng.uniform(0.75, 1.3))
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=int(rng.integers(60, 96)))
    return decode(content.getvalue())


def product(probabilities: np.ndarray) -> np.ndarray:
    """Normalised product (C,) of probabilities (N, C): right if the images were independent."""
    logarithms = np.log(np.maximum(probabilities, 1e-12)).sum(axis=0)
    joint = np.exp(logarithms - logarithms.max())
    return joint / joint.sum()


RULES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "first image alone": lambda probabilities: probabilities[0],
    "product": product,
    "arithmetic mean": lambda probabilities: probabilities.mean(axis=0),
    "geometric mean (classify --sequence)": joint_probabilities,
}


def probabilities_of(model: TrainedModel, images: list[np.ndarray]) -> np.ndarray:
    """Calibrated probabilities (N, C) of images."""
    batch = np.stack([model.resize(image, model.size).transpose(2, 0, 1) for image in images])
    with torch.inference_mode():
        return output(
            forward_tta(model.net, torch.from_numpy(batch), model.tta), model.calibration
        ).probabilities.numpy()


def bursts(model: TrainedModel, run: Path, length: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (B, length, C) of one burst per test image of a run, and the true classes (B,)."""
    root, rng = Path(model.data_hparams["root"]), np.random.default_rng(seed)
    rows = [row for row in read_rows(run / "split.csv", "split", "path", "label", "split") if row["split"] == "test"]
    found = []
    for row in rows:
        image = decode((root / row["path"]).read_bytes())
        found.append(probabilities_of(model, [view(image, rng) for _ in range(length)]))
    return np.stack(found), np.array([model.class_names.index(row["label"]) for row in rows])


def main() -> None:
    """Print a table for each length of a burst."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="best.ckpt of a run with test images")
    parser.add_argument("--seed", type=int, default=0, help="seed of the views")
    options = parser.parse_args()
    model, console = load_model(options.ckpt_path), Console()
    probabilities, labels = bursts(model, options.ckpt_path.resolve().parent, max(LENGTHS), options.seed)
    for length in LENGTHS:
        table = Table("rule", "accuracy", "log-loss", "ECE", box=box.MARKDOWN, title=f"{length} images")
        for name, rule in RULES.items():
            joint = np.stack([rule(burst[:length]) for burst in probabilities])
            loss = -np.log(np.maximum(joint[np.arange(len(labels)), labels], 1e-12)).mean()
            error = expected_calibration_error(joint, labels)
            table.add_row(name, f"{(joint.argmax(1) == labels).mean():.4f}", f"{loss:.4f}", f"{error:.4f}")
        console.print(table)


if __name__ == "__main__":
    main()
