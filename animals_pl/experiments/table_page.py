"""The run table as an HTML page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from animals_pl.evaluation.run_figures import DrawnRun
from animals_pl.experiments.finished_runs import FinishedRun
from animals_pl.experiments.table_lines import RunTable
from animals_pl.files import printable
from animals_pl.reports.run_comparison import ComparedTable, write_run_comparison


def write_table_page(
    output: Path, runs: Sequence[FinishedRun], tables: Sequence[RunTable], notes: Sequence[str]
) -> None:
    """Write the page of ranked runs."""
    drawn = [
        DrawnRun(
            f"{rank} {printable(run.label)}",
            run.rows,
            run.best,
            run.size.trainable if run.size else None,
            run.speed.ms_per_image if run.speed else None,
        )
        for rank, run in enumerate(runs, 1)
    ]
    titles = ("Validation", "Test and cost")
    compared = [
        ComparedTable(
            title, table.headings, [(line.rank, line.run, line.architecture, line.numbers) for line in table.lines]
        )
        for title, table in zip(titles, tables, strict=False)
    ]
    write_run_comparison(output, drawn, compared, notes)
