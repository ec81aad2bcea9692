"""The verb ``report``: every run below a folder in one table, best first, beside what the reference published."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from animals_pl.errors import UsageError
from animals_pl.experiments.finished_runs import Found, Run, find_runs
from animals_pl.experiments.reference import REFERENCE

RankBy = Literal["macro_recall", "acc", "loss", "macro_f1"]
RANKED_BY = {"macro_recall": "macro recall", "acc": "accuracy", "loss": "loss", "macro_f1": "macro-F1"}
COLUMNS = ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val", "macro_f1/val")
HEADINGS = (
    "trainable parameters",
    "epochs",
    "best epoch",
    *("train loss", "train acc", "val loss", "val acc", "macro recall", "macro F1"),
)
OTHER_IMAGES = "†"
ROOMY = 120
"""Columns of a screen, or of a file, from which the numbers stand further apart."""


@dataclass(frozen=True)
class Line:
    """A row of the report: a run, or what the reference published of it."""

    rank: str
    run: str
    architecture: str
    numbers: list[str]


def report(folder: str = "checkpoints", output: str | None = None, rank_by: RankBy = "macro_recall") -> None:
    """Rank all runs below a folder, each at its best epoch, beside what the reference published.

    Args:
        folder: Where the runs are: FOLDER/NAME/version_N.
        output: A file to write the same table to, as Markdown.
        rank_by: What the runs are ranked by, of the validation images; equal ones by trainable parameters.

    Raises:
        UsageError: There are no runs, or the output cannot be written.
    """
    found = find_runs(Path(folder))
    runs = ranked(found.runs, rank_by)
    lines = table_lines(runs)
    notes = [*legend(lines, rank_by), *remarks(found)] if runs else remarks(found)
    console = _console()
    if runs:
        console.print(terminal_table(lines, console.width))
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        _write(Path(output), markdown(lines, notes))
        console.print(f"{output} written", highlight=False, markup=False, soft_wrap=True)


def ranked(runs: list[Run], rank_by: RankBy) -> list[Run]:
    """Order runs, the best first; those that are equal to four decimals by fewer trainable parameters.

    Args:
        runs: The runs.
        rank_by: The metric.
    """

    def place(run: Run) -> tuple[float, float]:
        value = run.best.get(f"{rank_by}/val", math.nan)
        badness = math.inf if math.isnan(value) else round(value, 4) * (1 if rank_by == "loss" else -1)
        return badness, math.inf if run.trainable is None else run.trainable

    return sorted(runs, key=place)


def table_lines(runs: list[Run]) -> list[Line]:
    """Return the rows of the report; under a run of one of the reference's experiments stands what it published.

    Args:
        runs: The runs in the order of their ranks.
    """
    lines = []
    for rank, run in enumerate(runs, 1):
        comparable = run.images is not None and run.images == runs[0].images
        mark = "" if comparable or len(runs) == 1 else f" {OTHER_IMAGES}"
        trainable = "" if run.trainable is None else f"{run.trainable:,}"
        numbers = [trainable, str(run.epochs), str(int(run.best["epoch"]) + 1)]
        numbers += [f"{run.best[key]:.4f}" if key in run.best else "" for key in COLUMNS]
        lines.append(Line(str(rank), run.label + mark, run.architecture, numbers))
        if published := REFERENCE.get(run.name):
            lines.append(Line("", "reference", published.title, [*published.cells(), "", ""]))
    return lines


def legend(lines: list[Line], rank_by: RankBy) -> list[str]:
    """Return what has to be known to read the table.

    Args:
        lines: The rows of the table.
        rank_by: What they are ranked by.
    """
    notes = [
        f"Ranked by {RANKED_BY[rank_by]} on the validation images at each run's best epoch; "
        "equal ones by fewer trainable parameters.",
        "Runs are comparable only where they were evaluated on the same validation images.",
    ]
    if any(line.run.endswith(OTHER_IMAGES) for line in lines):
        notes.append(f"{OTHER_IMAGES} evaluated on other validation images than rank 1, or on unknown ones.")
    if any(not line.rank for line in lines):
        notes.append("reference: as published, on validation images of its own.")
    return notes


def remarks(found: Found) -> list[str]:
    """Return one line for each run without a complete epoch and for each file that cannot be read."""
    return [
        *(f"not complete: {label}" for label in found.incomplete),
        *(f"not readable: {reason}" for reason in found.unreadable),
    ]


def _console() -> Console:
    console = Console()
    # In a file or a pipe there is no width to keep to, and rich's 80 columns are too few.
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=ROOMY)


def terminal_table(lines: list[Line], width: int) -> Table:
    """Return the table for the screen: the architecture stands under the run, so that 100 columns are enough.

    Args:
        lines: The rows.
        width: Columns of the screen.
    """
    gap = 1 if width >= ROOMY else 0  # beside the one of the box
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True, padding=(0, gap))
    table.add_column("#", justify="right", vertical="top")
    table.add_column("run,\narchitecture", overflow="fold", ratio=1)
    for heading in HEADINGS:
        table.add_column("\n".join(heading.split()), justify="right", no_wrap=True)
    for index, line in enumerate(lines):
        if line.rank and index:
            table.add_row()
        if line.rank:
            table.add_row(line.rank, Text.assemble((line.run, "bold"), "\n", line.architecture), *line.numbers)
        else:
            table.add_row("", Text(f"{line.run}: {line.architecture}"), *line.numbers, style="dim")
    return table


def markdown(lines: list[Line], notes: list[str]) -> str:
    """Return the table and the notes as GitHub Markdown.

    Args:
        lines: The rows of the table; none: there is no table.
        notes: What stands below it.
    """
    headings = ["rank", "model architecture", "run", *HEADINGS]
    rules = ["---:", "---", "---", *["---:"] * len(HEADINGS)]
    body = [[line.rank, line.architecture, line.run, *line.numbers] for line in lines]
    rows = [headings, rules, *([_escape(cell) for cell in cells] for cells in body)] if lines else []
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return "\n".join(filter(None, [table, "".join(f"- {_escape(note)}\n" for note in notes)]))


def _escape(text: str) -> str:
    """Keep what a name holds from being taken for Markdown."""
    return re.sub(r"[\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _write(file: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    try:
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8", errors="replace")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: there is no name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"output={str(file)!r} cannot be written ({reason}); choose another file with --output FILE.md"
        ) from error
