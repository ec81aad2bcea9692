"""The rows of a metrics.csv: one per epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

Row = dict[str, float]


def monitor_mode(monitor: str) -> str:
    """Return whether a metric is better when it is smaller (``min``) or larger (``max``)."""
    return "min" if monitor.startswith("loss/") else "max"


def best_epoch(rows: Iterable[Row], monitor: str, mode: str | None = None) -> Row:
    """Return the first of the rows with the best value of a metric; empty where no row has it.

    Args:
        rows: One row per epoch.
        monitor: The metric, such as ``loss/val``.
        mode: ``min`` or ``max``; ``None``: what suits the metric.
    """
    sign = 1 if (mode or monitor_mode(monitor)) == "min" else -1

    def badness(row: Row) -> float:  # as Lightning has it, what is not a number is worst
        return math.inf if math.isnan(row[monitor]) else sign * row[monitor]

    return min((row for row in rows if monitor in row), key=badness, default={})


def read_metrics(file: Path) -> list[Row]:
    """Read the rows of a metrics.csv; none where the file is absent. Empty cells are left out."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as stream:
        return [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(stream)]


def write_metrics(file: Path, rows: list[Row]) -> None:
    """Write rows as CSV, ``epoch`` first, whole or not at all."""
    keys = sorted({key for row in rows for key in row} - {"epoch", "step"})
    partial = file.with_suffix(".partial")
    with partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["epoch", *keys], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    partial.replace(file)
