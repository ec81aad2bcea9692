"""The command ``report``: rank all runs below a folder in one table, beside the reference's published results.

With ``--contract`` or ``--compare``, it prints the review contract of one run or the comparison of two.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rich import box
from rich.table import Table
from rich.text import Text

from animals_pl.errors import UsageError
from animals_pl.experiments.finished_runs import FinishedRun, find_runs
from animals_pl.experiments.reference import REFERENCE
from animals_pl.files import atomic_write, message_stream, printable, require_writable, screen_width, show

RankBy = Literal["macro_recall", "acc", "loss", "macro_f1"]
RANKED_BY = {"macro_recall": "macro recall", "acc": "accuracy", "loss": "loss", "macro_f1": "macro-F1"}
COLUMNS = ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val", "macro_f1/val")
HEADINGS = (
    *("trainable parameters", "epochs", "best epoch"),
    *("train loss", "train acc", "val loss", "val acc", "macro recall", "macro F1"),
)
RUNS = "checkpoints"
OTHER_IMAGES = "†"
WIDE = 120
"""Terminal columns from which the table has wider gaps; also the width without a terminal."""


@dataclass(frozen=True)
class Line:
    """A row of the report: a run, or the reference's results of the same experiment (without a rank)."""

    rank: str
    run: str
    architecture: str
    numbers: list[str]


def report(
    folder: str = RUNS,
    output: str | None = None,
    rank_by: RankBy = "macro_recall",
    contract: str | None = None,
    recall: str | None = None,
    precision: float | None = None,
    compare: str | None = None,
) -> None:
    """Rank all runs below a folder, each at its best epoch, beside the reference's published results.

    Args:
        folder: Folder of the runs: FOLDER/NAME/version_N.
        output: Markdown file to write the table to. Default: none.
        rank_by: Validation metric to rank by. Ties: fewer trainable parameters first.
        contract: Instead, print the review contract of this run: the threshold above which labels are accepted.
        recall: For the contract: recall to promise, for every class (0.97) or for some (elephant=0.95,dog=0.9). Only
            images accepted under another label count as missed.
        precision: For the contract: precision to promise for all accepted labels, such as 0.99.
        compare: Instead, compare this run with the run FOLDER on the same images.

    Raises:
        UsageError: There are no runs, an evaluation is missing, or the output cannot be written.
    """
    decision = _decision(folder, contract, recall, precision, compare)
    if decision is not None:
        for line in decision:
            print(printable(line))
        return
    if output is not None:
        require_writable(Path(output))
    found = find_runs(Path(folder))
    lines = table_lines(ranked(found.runs, rank_by))
    notes = legend(lines, rank_by) if lines else []
    notes += [f"incomplete: {label}" for label in found.incomplete]
    notes += [f"no validation: {label}" for label in found.unvalidated]
    notes += [f"no checkpoint: {label}" for label in found.without_checkpoint]
    notes += [f"unreadable: {reason}" for reason in found.unreadable]
    if lines:
        width = screen_width(WIDE)
        show(terminal_table(lines, width), width)
    for note in notes:
        print(printable(note))
    if output is not None:
        with atomic_write(Path(output)) as partial:
            partial.write_text(markdown(lines, notes), encoding="utf-8", errors="backslashreplace")
        print(printable(f"{output} written"), file=message_stream(Path(output)))


def _decision(
    folder: str, contract: str | None, recall: str | None, precision: float | None, compare: str | None
) -> Iterator[str] | None:
    """Lines of ``--contract`` or ``--compare``; None without them."""
    if contract is None and (recall is not None or precision is not None):
        raise UsageError("recall and precision are goals of a contract. Add --contract RUN, or remove them.")
    if contract is not None and compare is not None:
        raise UsageError("contract and compare are different reports. Remove one of them.")
    if compare is not None and folder == RUNS:
        raise UsageError(f"compare={compare!r} needs a second run. Pass two: report --compare RUN_A RUN_B.")
    if contract is None and compare is None:
        return None
    from animals_pl.experiments.evaluations import comparison_lines, contract_lines  # imports pandas and SciPy

    if contract is not None:
        return contract_lines(Path(contract), recall, precision)
    return comparison_lines(Path(str(compare)), Path(folder))


def ranked(runs: list[FinishedRun], rank_by: RankBy) -> list[FinishedRun]:
    """Runs sorted best first; ties (to four decimals) by fewer trainable parameters."""

    def order(run: FinishedRun) -> tuple[float, float]:
        value = run.best.get(f"{rank_by}/val", math.nan)
        rank = math.inf if math.isnan(value) else round(value, 4) * (1 if rank_by == "loss" else -1)
        return rank, math.inf if run.trainable is None else run.trainable

    return sorted(runs, key=order)


def table_lines(runs: list[FinishedRun]) -> list[Line]:
    """Rows of ranked runs; a run of one of the reference's experiments is followed by the published results."""
    lines = []
    for rank, run in enumerate(runs, 1):
        comparable = run.images is not None and run.images == runs[0].images
        mark = "" if comparable or len(runs) == 1 else f" {OTHER_IMAGES}"
        trainable = "" if run.trainable is None else f"{run.trainable:,}"
        numbers = [trainable, str(run.epochs), str(int(run.best["epoch"]) + 1)]
        numbers += [f"{run.best[key]:.4f}" if key in run.best else "" for key in COLUMNS]
        lines.append(Line(str(rank), printable(run.label) + mark, printable(run.architecture), numbers))
        if published := REFERENCE.get(run.name):
            lines.append(Line("", "reference", published.title, [*published.cells(), "", ""]))
    return lines


def legend(lines: list[Line], rank_by: RankBy) -> list[str]:
    """Notes below the table."""
    notes = [
        f"Ranked by {RANKED_BY[rank_by]} on the validation images at each run's best epoch; "
        "ties by fewer trainable parameters.",
        "Runs are comparable only if they were evaluated on the same validation images.",
    ]
    if any(line.run.endswith(OTHER_IMAGES) for line in lines):
        notes.append(f"{OTHER_IMAGES} evaluated on validation images that are unknown or differ from rank 1's.")
    if any(not line.rank for line in lines):
        notes.append("reference: as published, on its own validation images.")
    return notes


def terminal_table(lines: list[Line], width: int) -> Table:
    """Table for a terminal of at least 100 columns, the architecture below the run."""
    gap = 1 if width >= WIDE else 0  # in addition to the box's own
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
    """Table and notes as GitHub Markdown. Without rows there is no table."""
    rows = [["rank", "model architecture", "run", *HEADINGS], ["---:", "---", "---", *["---:"] * len(HEADINGS)]]
    rows += [list(map(_escape, [line.rank, line.architecture, line.run, *line.numbers])) for line in lines]
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows) if lines else ""
    return "\n".join(filter(None, [table, "".join(f"- {_escape(note)}\n" for note in notes)]))


def _escape(text: str) -> str:
    return re.sub(r"[\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))
