"""The command ``report``: rank all runs below a folder, beside the reference's published results.

With ``--contract`` or ``--compare``, it prints the review contract of one run or the comparison of two; with
``--card``, it writes a model card.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from rich import box
from rich.table import Table
from rich.text import Text

from animals_pl.errors import UsageError
from animals_pl.experiments.finished_runs import FinishedRun, find_runs
from animals_pl.experiments.table_files import require_format, write_tables
from animals_pl.experiments.table_lines import RankBy, RunTable, notes, results, test_and_cost
from animals_pl.files import message_stream, printable, require_writable, screen_width, show

RUNS = "checkpoints"
NARROW, WIDE = 100, 120
"""Terminal columns below which architectures are left out, and from which the table has wider gaps; WIDE is also the
width without a terminal."""


def report(
    folder: str = RUNS,
    output: str | None = None,
    rank_by: RankBy = "macro_recall",
    contract: str | None = None,
    recall: str | None = None,
    precision: float | None = None,
    compare: str | None = None,
    card: str | None = None,
) -> None:
    """Rank all runs below a folder, each at its best epoch, beside the reference's published results.

    Args:
        folder: Folder of the runs: FOLDER/NAME/version_N.
        output: File to write the tables to: .md (Markdown), .csv (one row per run, all digits) or .html (a page with
            curves). Default: none.
        rank_by: Validation metric to rank by. Ties: fewer trainable parameters first.
        contract: Instead, print the review contract of this run: the threshold above which labels are accepted.
        recall: For the contract: recall to promise, for every class (0.97) or for some (elephant=0.95,dog=0.9). Only
            images accepted under another label count as missed.
        precision: For the contract: precision to promise for all accepted labels, such as 0.99.
        compare: Instead, compare this run with the run FOLDER on the same images.
        card: Instead, write the model card of this run, as MODEL_CARD.md in its folder or as output.

    Raises:
        UsageError: There are no runs, an evaluation is missing, or the output cannot be written.
    """
    _require_no_folder(folder, card or contract, compare)
    if card is not None:
        if contract is not None or compare is not None:
            raise UsageError(
                "card already includes the contract and cannot be combined with compare. Remove contract and compare."
            )
        from animals_pl.reports.model_card import write_model_card  # imports pandas and SciPy

        file = write_model_card(Path(card), output, recall, precision)
        print(printable(f"{file} written"), file=message_stream(file))
        return
    decision = _decision(folder, contract, recall, precision, compare)
    if decision is not None:
        if output is not None:
            raise UsageError(f"output={output!r} is for the table and the model card. Remove it, or redirect with >.")
        for line in decision:
            print(printable(line))
        return
    if output is not None:
        require_writable(Path(output))
        require_format(Path(output))
    found = find_runs(Path(folder))
    runs = ranked(found.runs, rank_by)
    tables = [results(runs), test_and_cost(runs)] if runs else []
    lines = notes(found, runs, rank_by)
    for table in tables:
        width = screen_width(WIDE)
        show(terminal_table(table, width), width)
    for line in lines:
        print(printable(line))
    if output is not None:
        write_tables(Path(output), runs, tables, lines)
        print(printable(f"{output} written"), file=message_stream(Path(output)))


def _require_no_folder(folder: str, run: str | None, compare: str | None) -> None:
    if run is not None and compare is None and folder != RUNS:
        raise UsageError(
            f"folder={folder!r} has no effect with card or contract. Remove it, or separate recall goals with commas."
        )


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
    if contract is not None:
        from animals_pl.reports.review_contract import contract_lines  # imports pandas and SciPy

        return contract_lines(Path(contract), recall, precision)
    from animals_pl.experiments.evaluations import comparison_lines  # imports pandas and SciPy

    return comparison_lines(Path(str(compare)), Path(folder))


def ranked(runs: list[FinishedRun], rank_by: RankBy) -> list[FinishedRun]:
    """Runs sorted best first; ties (to four decimals) by fewer trainable parameters."""

    def order(run: FinishedRun) -> tuple[float, float]:
        value = run.best.get(f"{rank_by}/val", math.nan)
        rank = math.inf if math.isnan(value) else round(value, 4) * (1 if rank_by == "loss" else -1)
        return rank, math.inf if run.size is None else run.size.trainable

    return sorted(runs, key=order)


def terminal_table(table: RunTable, width: int) -> Table:
    """Table for a terminal, the architecture below the run."""
    gap = 1 if width >= WIDE else 0  # in addition to the box's own
    shown = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True, padding=(0, gap))
    with_architecture = width >= NARROW and any(line.architecture for line in table.lines)
    shown.add_column("#", justify="right", vertical="top")
    shown.add_column("run,\narchitecture" if with_architecture else "run", overflow="fold", ratio=1)
    for heading in table.headings:
        shown.add_column("\n".join(heading.split()), justify="right", no_wrap=True)
    for index, line in enumerate(table.lines):
        if line.rank and index and with_architecture:
            shown.add_row()
        if line.rank:
            architecture = f"\n{line.architecture}" if with_architecture else ""
            shown.add_row(line.rank, Text.assemble((line.run, "bold"), architecture), *line.numbers)
        else:
            shown.add_row("", Text(f"{line.run}: {line.architecture}"), *line.numbers, style="dim")
    return shown
