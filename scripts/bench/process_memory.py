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

SECONDS_BETWEEN, LEISURE = 0.2, 50
"""From one reading of the memory to the next: so many seconds, and at least this many times what the reading took: the
kernel counts the pages of a large process one by one and holds it up meanwhile."""


@dataclass(frozen=True)
class Outcome:
    """What became of a command.

    Attributes:
        seconds: From its start to its end.
        peak: Largest sum of the proportional set sizes (PSS) of its processes, in bytes.
        exit_code: 0: it ended well; 127: it could not be started.
        printed: Standard output.
        complaint: Last line of standard error, empty if there is none.
    """

    seconds: float
    peak: int
    exit_code: int
    printed: str
    complaint: str


def family(pid: int) -> list[int]:
    """Return a process and its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    try:
        found = [int(child) for child in children.read_text().split()]
    except OSError:  # it has ended
        return []
    return [pid, *(descendant for child in found for descendant in family(child))]


def memory(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Outcome:
    """Run a command to its end, reading the memory of its processes up to five times a second.

    Args:
        command: Program and arguments.
        environment: Its environment variables; ``None``: this process's own.
    """
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:  # a pipe could fill up
        began, peak = time.perf_counter(), 0
        try:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=errors)
        except OSError as error:
            return Outcome(0.0, 0, 127, "", str(error))
        with process:
            while process.poll() is None:
                reading = time.perf_counter()
                peak = max(peak, sum(map(memory, family(process.pid))))
                taken = time.perf_counter() - reading
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(SECONDS_BETWEEN, LEISURE * taken))
        seconds = time.perf_counter() - began
        output.seek(0)
        errors.seek(0)
        complaint = (errors.read().strip().splitlines() or [""])[-1]
        return Outcome(seconds, peak, process.returncode, output.read(), complaint)


def link_images(root: Path, target: Path, count: int) -> None:
    """Fill a folder with ``count`` links to the images of another, in the same classes."""
    catalog = scan_folder(root)
    rounds = ((turn, path) for turn in itertools.count() for path in catalog.paths)
    for turn, path in itertools.islice(rounds, count):
        link = target / Path(path).with_name(f"{turn}_{Path(path).name}")
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to((catalog.root / path).resolve())
