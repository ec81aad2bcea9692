"""Time and peak memory of fit, test and analyze with many classes of a few small images.

    python -m scripts.bench.classes [--classes 10 100 1000] [--images 3]

Linux only: memory is the proportional set size (PSS) of all processes, read from /proc.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from scripts.bench.process_memory import run

SIZE = 32
"""Side of the images in pixels."""


def write_classes(folder: Path, count: int, images: int) -> None:
    """Write a number of images of random noise per class, without duplicates."""
    rng = np.random.default_rng(0)
    for label in range(count):
        (folder / f"class_{label:05}").mkdir(parents=True)
        for number in range(images):
            pixels = rng.integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"class_{label:05}" / f"{number}.png")


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[10, 100, 1000], help="numbers of classes")
    parser.add_argument("--images", type=int, default=3, help="images per class, a third of them for each split")
    parser.add_argument("--net", default="minivggnet", help="the net to train")
    options = parser.parse_args(args)
    table = Table("classes", "images", box=None, padding=(0, 2), header_style="bold")
    for verb in ("fit", "test", "analyze"):
        table.add_column(verb, justify="right")
    for count in options.classes:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            write_classes(folder / "images", count, options.images)
            train = ["fit", "--data.root", folder / "images", "--data.size", SIZE, "--data.num_workers", 0]
            train += ["--data.val_fraction", 0.33, "--data.test_fraction", 0.33, "--model.net", options.net]
            train += ["--name", "many", "--trainer.default_root_dir", folder, "--trainer.max_epochs", 2]
            test = ["test", "--ckpt_path", folder / "many" / "version_0" / "best.ckpt"]
            cells = []
            for arguments in (train, test, ["analyze", folder / "images", "--output", folder / "report"]):
                command = [sys.executable, "-m", "animals_pl", *map(str, arguments)]
                outcome = run(command, {**os.environ, "ANIMALS_PL_CACHE": str(folder / "cache")})
                if outcome.exit_code:
                    raise RuntimeError(f"{' '.join(command)} ended with {outcome.exit_code}: {outcome.last_error}")
                cells.append(f"{outcome.seconds:.1f} s, {outcome.peak / 2**20:,.0f} MiB")
            table.add_row(f"{count:,}", f"{count * options.images:,}", *cells)
    Console(highlight=False, width=120).print(table)


if __name__ == "__main__":
    main()
