"""metrics.csv: one row per epoch."""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable
from pathlib import Path

from animals_pl.errors import UsageError
from animals_pl.files import atomic_write

Row = dict[str, float]


def monitor_mode(monitor: str) -> str:
    """``min`` if smaller values of a metric are better, else ``max``."""
    return "min" if monitor.startswith("loss/") else "max"


def best_epoch(rows: Iterable[Row], monitor: str, mode: str | None = None) -> Row:
    """First row with the best value of a metric such as ``loss/val``; empty if no row has it.

    As in Lightning, NaN is the worst value. ``mode`` is ``min`` or ``max``; default: see :func:`monitor_mode`.
    """
    sign = 1 if (mode or monitor_mode(monitor)) == "min" else -1

    def badness(row: Row) -> float:
        return math.inf if math.isnan(row[monitor]) else sign * row[monitor]

    return min((row for row in rows if monitor in row), key=badness, default={})


def read_metrics(file: Path) -> list[Row]:
    """Rows of metrics.csv; empty cells are omitted. No rows if the file does not exist.

    Raises:
        UsageError: The file is damaged.
    """
    if not file.is_file():
        return []
    try:
        with file.open(newline="", encoding="utf-8") as stream:
            rows = [{key: float(cell) for key, cell in row.items() if cell} for row in csv.DictReader(stream)]
        if any(not row.get("epoch", math.nan).is_integer() for row in rows):
            raise ValueError("a row has no epoch")
    except (ValueError, TypeError, csv.Error) as error:  # TypeError: a row with more cells than columns
        reason = f"{type(error).__name__}: {error}"
        raise UsageError(f"metrics cannot be read ({reason}). Restore {str(file)!r}, or move it away.") from error
    return rows


def write_metrics(file: Path, rows: list[Row]) -> None:
    """Write rows as CSV with ``epoch`` as the first column."""
    keys = sorted({key for row in rows for key in row} - {"epoch", "step"})
    with atomic_write(file) as partial, partial.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["epoch", *keys], extrasaction="ignore")
        writer.writeheader()
        writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
