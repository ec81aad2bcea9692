"""Time and memory of ``fit`` up to its first batch, and of other commands, for 10⁴ to 10⁶ images.

python -m scripts.bench.scale --root DIR --scratch DIR [--counts N …] [--commands NAME …]

The images are links to those of ``--root``. Reading a million takes a long time, so ``fit``, ``analyze`` and
``prepare`` start from a synthetic scan: every link has its own SHA-256 and hashes, and one in ten is a duplicate of
another image. ``scan`` reads every link.
"""

from __future__ import annotations

import argparse
import os
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.inspection import manifest
from animals_pl.data.inspection.columns import Columns, read_columns, take, write_columns
from animals_pl.data.inspection.duplicates import near_pairs
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.strings import Strings
from scripts.bench.process_memory import run

HEADER = (
    f"{'command':<8} {'images':>9} {'seconds':>8} {'first batch':>11} {'CPU s':>7} {'peak MB':>8} {'µs/image':>9} "
    f"{'bytes/image':>11} {'slope':>6}"
)
"""Wall time until the command ended and until the first batch; CPU time, which depends less on other load, and peak
memory of all processes, in total and per image. Slope: log-log slope of the CPU time from the previous row's count."""

LIST_IMAGES = """
import sys
from pathlib import Path
from animals_pl.data.walk import iter_images
print(sum(1 for _ in iter_images(Path(sys.argv[1]))))
"""
"""As ``classify`` lists images, without torch."""

STARTED = "BENCH_STARTED"
"""Environment variable with the time at which the command was started."""


class FirstBatch(L.Callback):
    """Prints the time since the command was started and ends training before its first step."""

    def on_train_batch_start(self, trainer: L.Trainer, *_: Any) -> None:
        """Stop."""
        print(f"first batch {time.time() - float(os.environ[STARTED]):.1f}")
        raise KeyboardInterrupt


def link(root: Path, target: Path, count: int) -> Catalog:
    """Catalog of ``count`` links to the images of a folder, made if needed."""
    if target.exists() and len((catalog := scan_folder(target)).paths) == count:
        return catalog
    images = scan_folder(root)
    for index in range(count):
        turn, row = divmod(index, len(images.paths))
        folder, _, name = images.paths[row].rpartition("/")
        place = target / folder / f"{turn}_{name}"
        if not place.is_symlink():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(images.root.resolve() / images.paths[row])
    return scan_folder(target)


def made_up_hashes(count: int, rng: np.random.Generator) -> Strings:
    """Perceptual hashes of images, of which every tenth is close to the one before."""
    content = rng.integers(0, 256, (count, 80), dtype=np.uint8)
    content[1::10] = content[: len(content[1::10]) * 10 : 10]
    content[1::10, 31] ^= 1
    return hexadecimal(content)


def hexadecimal(content: np.ndarray) -> Strings:
    """Hexadecimal text of each row of bytes (N, B)."""
    digits = np.frombuffer(content.tobytes().hex().encode(), dtype=np.uint8)
    return Strings(digits, np.arange(len(content) + 1, dtype=np.int64) * 2 * content.shape[1])


def make_up_scan(root: Path, catalog: Catalog) -> None:
    """Write the cached scan of links from the scan of the images that they point to."""
    images, rng = read_columns(scan(scan_folder(root)).cache, manifest._CACHED), np.random.default_rng(0)
    row_of = {path: row for row, path in enumerate(images["path"])}
    count = len(catalog.paths)
    originals = (path.rpartition("/")[0] + "/" + path.rpartition("/")[2].partition("_")[2] for path in catalog.paths)
    columns: Columns = take(images, np.fromiter((row_of[path] for path in originals), dtype=np.int64))
    groups = np.full(count, -1, dtype=np.int64)
    first = np.arange(0, count - 1, 10)
    groups[first] = groups[first + 1] = np.arange(len(first))
    columns |= {
        "path": Strings.of(catalog.paths),
        "sha256": hexadecimal(rng.integers(0, 256, (count, 32), dtype=np.uint8)),
        "perceptual_hash": made_up_hashes(count, rng),
        "centre_hash": made_up_hashes(count, rng),
        "duplicate_group": groups,
    }
    write_columns(columns, manifest._cache_file(catalog.root))


def command_of(name: str, root: Path, scratch: Path) -> list[str]:
    """Command line of a measurement."""
    python = [sys.executable, "-m"]
    if name == "fit":
        return [
            *python, "animals_pl", "fit", "--data.root", str(root), "--data.size", "32", "--model.net", "shallownet",
            "--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(scratch / "runs"),
            "--trainer.callbacks+=scripts.bench.scale.FirstBatch",
        ]  # fmt: skip
    if name == "analyze":
        return [*python, "animals_pl", "analyze", str(root), "--output", str(scratch / f"report-{time.time_ns()}")]
    if name == "prepare":
        output = scratch / f"prepared-{time.time_ns()}"
        return [*python, "animals_pl", "prepare", "--source", str(root), "--output", str(output)]
    if name == "list":
        return [sys.executable, "-c", LIST_IMAGES, str(root)]
    return [*python, "scripts.bench.scale", "--step", name, "--root", str(root), "--scratch", str(scratch)]


def step(name: str, root: Path) -> None:
    """Do one thing in this process: ``scan`` every image, or search ``hashes``."""
    if name == "scan":
        print(scan(scan_folder(root)))
    else:
        rng, count = np.random.default_rng(0), len(scan_folder(root).paths)
        pairs = near_pairs(made_up_hashes(count, rng), made_up_hashes(count, rng), lambda i, j: True)
        print(f"{len(pairs):,} pairs")


def cpu_seconds() -> float:
    """CPU time of all finished child processes and their descendants."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def main(args: Sequence[str] | None = None) -> None:
    """Measure, and print one line per command and number of images, with the slope."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--scratch", type=Path, required=True, help="folder for links, cache and runs")
    parser.add_argument("--counts", type=int, nargs="+", default=[10**4, 10**5, 10**6], help="numbers of images")
    names = "list, fit, hashes, scan, prepare, analyze"
    parser.add_argument("--commands", nargs="+", default=["list", "fit"], help=names)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    if options.step:
        step(options.step, options.root)
        return
    print(HEADER)
    earlier: dict[str, tuple[int, float]] = {}
    for count in options.counts:
        os.environ["ANIMALS_PL_CACHE"] = str(options.scratch / "cache")
        catalog = link(options.root, options.scratch / str(count), count)
        make_up_scan(options.root, catalog)
        for name in options.commands:
            cache = "empty" if name == "scan" else "cache"
            environment = {**os.environ, STARTED: str(time.time()), "ANIMALS_PL_CACHE": str(options.scratch / cache)}
            cpu = cpu_seconds()
            outcome = run(command_of(name, catalog.root, options.scratch), environment)
            cpu = cpu_seconds() - cpu
            if outcome.exit_code not in (0, 130):
                sys.exit(f"{name} {count}: exit code {outcome.exit_code}: {outcome.last_error}")
            lines = [line.split()[-1] for line in outcome.stdout.splitlines() if line.startswith("first batch")]
            before = earlier.get(name)
            slope = f"{np.log(cpu / before[1]) / np.log(count / before[0]):.2f}" if before else ""
            earlier[name] = count, cpu
            print(
                f"{name:<8} {count:>9,} {outcome.seconds:>8.1f} {lines[0] if lines else '':>11} {cpu:>7.1f} "
                f"{outcome.peak / 1e6:>8,.0f} {cpu / count * 1e6:>9.1f} {outcome.peak / count:>11,.0f} {slope:>6}",
                flush=True,
            )


if __name__ == "__main__":
    main()
