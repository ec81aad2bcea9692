"""Time and peak memory of preparing and analysing a dataset of Animals-10's size.

    python -m scripts.bench.audit --root datasets/animals10/raw-img

Smaller folders are enlarged by links. Links to one image are duplicates, so the comparison of that many different
images is measured separately, on random hashes. Linux only: memory is the proportional set size (PSS) of all
processes, read from /proc.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from animals_pl.data.inspection.duplicates import near_pairs
from scripts.bench.process_memory import link_images, run


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--count", type=int, default=26_179, help="images to link (default: Animals-10's)")
    options = parser.parse_args(args)
    table = Table("step", box=None, padding=(0, 2), header_style="bold")
    table.add_column("seconds", justify="right")
    table.add_column("peak memory", justify="right")
    table.add_column("output")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        link_images(options.root, folder / "images", options.count)
        environment = {**os.environ, "ANIMALS_PL_CACHE": str(folder / "cache")}
        images, prepared = str(folder / "images"), str(folder / "prepared")
        for step, verb in {
            "prepare": ["prepare", "--source", images, "--output", prepared],
            "prepare again": ["prepare", "--source", images, "--output", prepared],
            "analyze": ["analyze", images, "--output", str(folder / "report")],
        }.items():
            outcome = run([sys.executable, "-m", "animals_pl", *verb], environment)
            if outcome.exit_code:
                raise RuntimeError(f"animals_pl {' '.join(verb)} ended with {outcome.exit_code}: {outcome.last_error}")
            summary = next(line for line in outcome.stdout.splitlines() if "images read" in line)
            cells = [f"{outcome.seconds:.1f}", f"{outcome.peak / 2**20:,.0f} MiB"]
            table.add_row(step, *cells, summary.removeprefix("scan").strip())
        size = (folder / "report" / "report.html").stat().st_size
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(80).hex() for _ in range(options.count)]
    start = time.perf_counter()
    near_pairs(hashes, hashes, lambda i, j: False)
    seconds = time.perf_counter() - start
    table.add_row("compare hashes", f"{seconds:.1f}", "", f"{options.count:,} different images with each other")
    Console(highlight=False, width=120).print(table)
    print(f"report.html: {size / 1e6:.1f} MB; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
