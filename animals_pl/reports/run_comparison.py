"""The comparison of runs: a self-contained HTML page with tables, curves, and metrics against size and speed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animals_pl.errors import counted
from animals_pl.evaluation.run_figures import MOST_RUNS, DrawnRun, colour, cost_scatter, run_curves
from animals_pl.reports.page import figure_uri, write_page


@dataclass(frozen=True)
class ComparedTable:
    """A table on the page.

    Attributes:
        title: Its heading.
        headings: Headings of the numbers.
        rows: Rank (from 1, or empty), run, architecture, and numbers of each row.
    """

    title: str
    headings: Sequence[str]
    rows: Sequence[tuple[str, str, str, Sequence[str]]]


def write_run_comparison(
    file: Path, runs: Sequence[DrawnRun], tables: Sequence[ComparedTable], notes: Sequence[str]
) -> None:
    """Write the page.

    Args:
        file: The HTML file.
        runs: Ranked runs; the figures show the first MOST_RUNS.
        tables: Tables of the same runs.
        notes: Lines below the tables.
    """
    shown = runs[:MOST_RUNS]
    figures = {"curves": run_curves(shown), "cost": cost_scatter(shown)} if shown else {}
    write_page(
        file,
        "run_comparison",
        title="Run comparison",
        subtitle=counted(len(runs), "run"),
        cards=_cards(runs),
        colours={str(rank): colour(rank - 1) for rank in range(1, len(shown) + 1)},
        tables=tables,
        notes=notes,
        figures={name: figure_uri(figure) for name, figure in figures.items() if figure is not None},
        left_out=len(runs) - len(shown),
    )


def _cards(runs: Sequence[DrawnRun]) -> list[dict[str, Any]]:
    """The best value of each metric, whichever run it is from."""
    cards = []
    for key, name in (("macro_recall/val", "best macro recall"), ("acc/val", "best accuracy")):
        values = [run.best[key] for run in runs if math.isfinite(run.best.get(key, math.nan))]
        cards += [{"name": name, "value": f"{max(values):.4f}", "to": "runs", "warn": False}] if values else []
    speeds = [run.ms_per_image for run in runs if run.ms_per_image]
    cards += [{"name": "fastest", "value": f"{min(speeds):.3g} ms", "to": "cost", "warn": False}] if speeds else []
    return cards
