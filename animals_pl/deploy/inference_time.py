"""Measure how long exported files take for an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from rich import box
from rich.table import Table

from animals_pl.deploy.engines import EngineName
from animals_pl.deploy.runtime import Identifier
from animals_pl.errors import UsageError, counted, one_line
from animals_pl.models.openvino_package import openvino_version

THREADS = (1, 2)
"""Numbers of threads to measure the speed with."""

ROUNDS, CALLS = 20, 2
"""Rounds in which the files take turns, so that other load slows all of them, and consecutive calls per turn."""

HEIGHT, WIDTH = 225, 300
"""Size in pixels of the image that engines are measured with: that of most images in Animals-10."""


@dataclass(frozen=True)
class EngineTimes:
    """Milliseconds to resize and classify an image.

    Attributes:
        ms: Engine → the fastest call, for each number in ``THREADS``.
        faults: Engine → why it cannot be used for the file.
    """

    ms: dict[EngineName, list[float]]
    faults: dict[EngineName, str]

    @property
    def quickest(self) -> EngineName:
        """The engine that is the quickest with one thread, as ``classify`` uses it."""
        return min(self.ms, key=lambda engine: self.ms[engine][0])

    def table(self) -> Table:
        """The figures as a table."""
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("ms per image")
        for threads in THREADS:
            table.add_column(counted(threads, "thread"), justify="right")
        for engine, times in self.ms.items():
            table.add_row(engine, *(f"{ms:.1f}" for ms in times))
        return table


def measure_engines(file: Path) -> EngineTimes:
    """Measure the installed engines with an exported file."""
    identifiers: dict[EngineName, list[Identifier]] = {}
    faults: dict[EngineName, str] = {}
    for engine in get_args(EngineName):
        if engine == "openvino" and not openvino_version():
            faults[engine] = "it is not installed"
            continue
        try:
            identifiers[engine] = [Identifier(file, engine=engine, threads=threads) for threads in THREADS]
        except UsageError as error:
            faults[engine] = one_line(error)
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    times = milliseconds(list(identifiers.values()), image)
    return EngineTimes(dict(zip(identifiers, times, strict=True)), faults)


def milliseconds(files: Sequence[Sequence[Identifier]], image: np.ndarray) -> list[list[float]]:
    """Milliseconds to resize and classify an image, the fastest call of each identifier.

    Args:
        files: Files or engines, each loaded with several numbers of threads.
        image: RGB pixels (H, W, 3) uint8.
    """
    fastest = [[np.inf] * len(identifiers) for identifiers in files]
    for _ in range(ROUNDS):
        for row, identifiers in zip(fastest, files, strict=True):
            for index, identifier in enumerate(identifiers):
                row[index] = min(row[index], *(1000 * _seconds(identifier, image) for _ in range(CALLS)))
    return fastest


def _seconds(identifier: Identifier, image: np.ndarray) -> float:
    began = time.perf_counter()
    identifier.probabilities(image)
    return time.perf_counter() - began
