"""Compare exported files with the checkpoint that they come from, on all images of a folder.

    python -m scripts.bench.parity --ckpt_path RUN/best.ckpt --root datasets/animals10/raw-img

Each image is read by the checkpoint's ``predict`` and by ``Identifier``, from its file.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
from rich import box
from rich.table import Table

from animals_pl import Identifier, Prediction, export, load_model
from animals_pl.data.walk import find_images
from animals_pl.deploy.metadata import InputKind
from animals_pl.files import show


def probabilities(predictions: Sequence[Prediction], class_names: Sequence[str]) -> np.ndarray:
    """Probabilities (N, C) of the images that could be decoded."""
    found = [dict(prediction.top) for prediction in predictions if prediction.label is not None]
    return np.array([[top[name] for name in class_names] for top in found])


def row(kind: str, expected: np.ndarray, found: np.ndarray, seconds: float) -> list[str]:
    """Row of the table for one file."""
    equal = expected.argmax(1) == found.argmax(1)
    largest = np.abs(expected - found).max(1)
    cells = [f"{equal.sum():,} of {len(equal):,} ({equal.mean():.2%})", f"{largest.max():.1e}", f"{largest.mean():.1e}"]
    return [f"input={kind}", *cells, f"{np.quantile(largest, 0.999):.1e}", f"{len(equal) / seconds:.0f} images/s"]


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ckpt_path", required=True, help="checkpoint to export")
    parser.add_argument("--root", type=Path, required=True, help="folder of images")
    options = parser.parse_args(args)
    images = find_images(options.root)
    model = load_model(options.ckpt_path)
    top_k = len(model.class_names)
    expected = probabilities(model.predict(images, top_k=top_k, num_workers=0), model.class_names)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("file", "same class", "largest difference", "mean of largest", "99.9 % below", "speed"):
        table.add_column(column)
    with tempfile.TemporaryDirectory() as folder:
        for kind in get_args(InputKind):
            identifier = Identifier(export(options.ckpt_path, Path(folder) / f"{kind}.onnx", input=kind).path)
            began = time.perf_counter()
            found = probabilities(identifier.predict(images, top_k=top_k), model.class_names)
            table.add_row(*row(kind, expected, found, time.perf_counter() - began))
    show(table)


if __name__ == "__main__":
    main()
