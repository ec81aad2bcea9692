"""Write the run table as Markdown, CSV or HTML."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from animals_pl.errors import UsageError
from animals_pl.experiments.finished_runs import FinishedRun
from animals_pl.experiments.table_lines import COLUMNS, RunTable, has_same_images
from animals_pl.files import atomic_write, is_stream, printable

FORMATS = (".md", ".csv", ".html")


def require_format(output: Path) -> None:
    """Raise UsageError if a file's extension is not one of FORMATS."""
    if _format(output) not in FORMATS:
        raise UsageError(f"output={str(output)!r} is not a .md, .csv or .html file. Choose one of these extensions.")


def write_tables(output: Path, runs: Sequence[FinishedRun], tables: Sequence[RunTable], notes: Sequence[str]) -> None:
    """Write ranked runs to a file; its extension chooses the format."""
    if _format(output) == ".html":
        from animals_pl.experiments.table_page import write_table_page  # imports matplotlib

        write_table_page(output, runs, tables, notes)
    elif _format(output) == ".csv":
        _write_csv(output, runs)
    else:
        with atomic_write(output) as partial:
            partial.write_text(markdown(tables, notes), encoding="utf-8", errors="backslashreplace")


def _format(output: Path) -> str:
    return ".md" if is_stream(output) else output.suffix.lower()


def markdown(tables: Sequence[RunTable], notes: Sequence[str]) -> str:
    """Tables and notes as GitHub Markdown."""
    parts = [_markdown_table(table) for table in tables]
    return "\n".join(filter(None, [*parts, "".join(f"- {_escape(note)}\n" for note in notes)]))


def _markdown_table(table: RunTable) -> str:
    """One table; without architectures, there is no column for them."""
    texts = ["model architecture", "run"] if any(line.architecture for line in table.lines) else ["run"]
    rows = [["rank", *texts, *table.headings], ["---:", *["---"] * len(texts), *["---:"] * len(table.headings)]]
    for line in table.lines:
        cells = [line.rank, *[line.architecture, line.run][-len(texts) :], *line.numbers]
        rows.append([_escape(cell) for cell in cells])
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def _escape(text: str) -> str:
    return re.sub(r"[\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _write_csv(output: Path, runs: Sequence[FinishedRun]) -> None:
    rows = [_csv_row(rank, run, runs) for rank, run in enumerate(runs, 1)]
    with (
        atomic_write(output) as partial,
        partial.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.DictWriter(stream, rows[0] if rows else [])
        writer.writeheader()
        writer.writerows(rows)


def _csv_row(rank: int, run: FinishedRun, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    """Columns of the CSV file; unknown values are empty."""
    tested = {"acc/test": run.test.acc, "macro_recall/test": run.test.macro_recall} if run.test else {}
    intervals = {
        f"{metric}{'' if end == 'value' else f'_{end}'}": tested[metric][end] if tested else None
        for metric in ("acc/test", "macro_recall/test")
        for end in ("value", "low", "high")
    }
    return {
        "rank": rank,
        "run": printable(run.label),
        "architecture": printable(run.config.architecture),
        "same_images": has_same_images(run, runs),
        "trainable": run.size and run.size.trainable,
        "epochs": len(run.rows),
        "best_epoch": int(run.best["epoch"]) + 1,
        **{key: run.best.get(key) for key in COLUMNS},
        "images/test": run.test and run.test.images,
        **intervals,
        "size_mb": run.size and run.size.size_mb,
        "ms_per_image": run.speed and run.speed.ms_per_image,
        "device": run.speed and run.speed.device,
        "threads": run.speed and run.speed.threads,
        "precision": run.speed and run.speed.precision,
        "training_seconds": run.seconds,
    }
