"""Speed and memory of ``classify``, compared with decoding and onnxruntime alone.

    python -m scripts.bench.classify --model model.onnx --root datasets/animals10/raw-img

The model is a file exported with ``input=batch``. Both commands are measured alternately as whole processes, from their
start to their end. Run it in an environment without torch to measure what users of the runtime have.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from rich import box
from rich.table import Table

from animals_pl.data.walk import find_images
from animals_pl.files import show
from scripts.bench.process_memory import PROJECT, link_images

FEW = 50
"""Images of the cold start."""


@dataclass(frozen=True)
class Finished:
    """What a process has used: wall time and CPU time in seconds, and its peak resident memory in bytes."""

    seconds: float
    cpu: float
    peak: int


def finish(command: Sequence[str | Path]) -> Finished:
    """Run a command to its end.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    began = time.perf_counter()
    process = subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return Finished(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def classify_command(model: Path, root: Path, output: Path, engine: str) -> list[str | Path]:
    """The command under test; an output that exists is removed."""
    output.unlink(missing_ok=True)
    return [sys.executable, "-m", "animals_pl", "classify", model, root, "--output", output, f"--engine={engine}"]


def add_row(table: Table, name: str, images: int, runs: Sequence[Finished]) -> None:
    """Add the medians of a command, and the largest of its peaks."""
    seconds, cpu = median(run.seconds for run in runs), median(run.cpu for run in runs)
    speed, peak = f"{images / seconds:,.0f}", max(run.peak for run in runs)
    table.add_row(name, f"{images:,}", f"{seconds:.2f}", speed, f"{1000 * cpu / images:.2f}", f"{peak / 1e6:.0f}")


def main(args: Sequence[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="exported file with input=batch")
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--engine", default="onnxruntime", help="engine of classify")
    parser.add_argument("--repeats", type=int, default=5, help="measurements of each command")
    parser.add_argument("--links", type=int, default=0, help="also classify this many links to the images, once")
    options = parser.parse_args(args)
    model, root = options.model.resolve(), options.root.resolve()
    images = find_images(root)
    for path in images:  # fill the disk cache
        path.read_bytes()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "images", "s", "images/s", "CPU ms/image", "peak MB"):
        table.add_column(column, justify="right" if column else "left")
    with tempfile.TemporaryDirectory() as scratch:
        folder, output = Path(scratch), Path(scratch) / "output.csv"
        (folder / "few").mkdir()
        for number, path in enumerate(images[:: max(1, len(images) // FEW)][:FEW]):
            (folder / "few" / f"{number}{path.suffix}").symlink_to(path)
        bare = [sys.executable, "-m", "scripts.bench.bare_classify", model, root]
        runs: list[tuple[Finished, Finished, Finished]] = []
        for _ in range(options.repeats):
            few = finish(classify_command(model, folder / "few", output, options.engine))
            all_images = finish(classify_command(model, root, output, options.engine))
            runs.append((few, all_images, finish(bare)))
            texts = [f"{run.seconds:.2f} s (CPU: {run.cpu:.2f} s)" for run in runs[-1]]
            print(*texts, sep=", ", file=sys.stderr)
        few_runs, all_runs, bare_runs = zip(*runs, strict=True)
        add_row(table, "classify, cold start", FEW, few_runs)
        add_row(table, "classify", len(images), all_runs)
        add_row(table, "decoding and onnxruntime alone", len(images), bare_runs)
        if options.links:
            link_images(root, folder / "links", options.links)
            linked = finish(classify_command(model, folder / "links", output, options.engine))
            add_row(table, "classify, links", options.links, [linked])
    show(table)
    pairs = list(zip(all_runs, bare_runs, strict=True))
    wall, cpu = median(b.seconds / a.seconds for a, b in pairs), median(b.cpu / a.cpu for a, b in pairs)
    print(f"classify reaches {wall:.0%} of the throughput of decoding and onnxruntime alone (by CPU time: {cpu:.0%})")


if __name__ == "__main__":
    main()
