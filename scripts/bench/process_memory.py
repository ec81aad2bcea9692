"""Time and peak memory of a command with all its processes. Linux only: memory is read from /proc."""

from __future__ import annotations

import itertools
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from animals_pl.data.catalog import scan_folder

PROJECT = Path(__file__).resolve().parents[2]
MIN_INTERVAL = 0.2
"""Minimum seconds between memory readings."""

MIN_INTERVAL_RATIO = 50
"""Minimum ratio of that interval to the duration of a reading (reading smaps_rollup pauses the process)."""


@dataclass(frozen=True)
class Outcome:
    """Result of a command.

    Attributes:
        seconds: Wall time.
        peak: Maximum sum of the proportional set sizes (PSS) of its processes, in bytes.
        exit_code: 0: success; 127: it could not be started.
        stdout: Standard output.
        last_error: Last line of standard error; empty if there is none.
    """

    seconds: float
    peak: int
    exit_code: int
    stdout: str
    last_error: str


def family(pid: int) -> list[int]:
    """Ids of a process and its descendants; empty if it has ended."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:
        return []
    return [pid, *(descendant for child in found for descendant in family(child))]


def memory(pid: int) -> int:
    """Proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a command in the repository's root and read the memory of its processes up to five times per second."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:  # pipes could fill up
        start, peak = time.perf_counter(), 0
        try:
            process = subprocess.Popen(command, cwd=PROJECT, env=environment, stdout=output, stderr=errors)
        except OSError as error:
            return Outcome(0.0, 0, 127, "", str(error))
        with process:
            while process.poll() is None:
                reading = time.perf_counter()
                peak = max(peak, sum(map(memory, family(process.pid))))
                taken = time.perf_counter() - reading
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(MIN_INTERVAL, MIN_INTERVAL_RATIO * taken))
        seconds = time.perf_counter() - start
        output.seek(0)
        errors.seek(0)
        last_error = (errors.read().strip().splitlines() or [""])[-1]
        return Outcome(seconds, peak, process.returncode, output.read(), last_error)


def link_images(root: Path, target: Path, count: int) -> None:
    """Create ``count`` links to the images of a folder, each image as often as needed, in the same classes."""
    catalog = scan_folder(root)
    rounds = ((turn, path) for turn in itertools.count() for path in catalog.paths)
    for turn, path in itertools.islice(rounds, count):
        link = target / Path(path).with_name(f"{turn}_{Path(path).name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((catalog.root / path).resolve())
