"""Table of a study of scarce classes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from rich import box
from rich.table import Table
from scipy import stats

from animals_pl.experiments.scarce_fits import ScarceOutcome

CONFIDENCE = 0.95
COLUMNS = (
    "macro recall", "cut", "common", "difference", "95 % interval",
    "shifted: macro recall", "cut", "common", "difference", "95 % interval", "seconds",
)  # fmt: skip


def scarce_table(outcomes: Mapping[str, ScarceOutcome], baseline: str, markdown: bool = False) -> Table:
    """Table with one row per variant: means over replicates and numbers of images, and paired differences."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
    table.add_column("variant", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    for name, outcome in outcomes.items():
        row = [name]
        for kind in range(2):  # images, shifted copies
            means = outcome.scores[:, :, kind].mean((0, 1))
            row += ["" if math.isnan(mean) else f"{mean:.4f}" for mean in means]
            if name == baseline:
                row += ["", ""]
                continue
            value, low, high = paired_difference(
                outcome.scores[:, :, kind, 0], outcomes[baseline].scores[:, :, kind, 0]
            )
            row += [f"{value:+.4f}", f"{low:+.4f} … {high:+.4f}"]
        table.add_row(*row, f"{outcome.seconds:.1f}")
    return table


def paired_difference(scores: np.ndarray, others: np.ndarray) -> tuple[float, float, float]:
    """Mean difference of scores (replicates, keep) from others, and the ends of its t interval over replicates."""
    differences = (scores - others).mean(1)
    mean, error = float(differences.mean()), stats.sem(differences)
    margin = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(differences) - 1) * error)
    return mean, mean - margin, mean + margin
