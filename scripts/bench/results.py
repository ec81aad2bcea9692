"""Results of ``cpu.py`` and their tables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from rich import box
from rich.table import Table

from scripts.bench.subjects import SUBJECTS


@dataclass(frozen=True)
class Result:
    """One measurement, a row of the CSV file; ``failure`` is the reason if there is no value."""

    part: str
    subject: str
    repeat: int
    value: float
    unit: str
    peak_mib: float
    note: str = ""
    failure: str = ""


def ratio(names: str, results: Sequence[Result]) -> float:
    """Ratio ``A ÷ B`` of two subjects' medians: of memory in the table ``memory``, else of the value."""
    medians = []
    for name in names.split(" ÷ "):
        good = [result for result in results if result.subject == name and not result.failure]
        values = [result.peak_mib if result.part == "memory" else result.value for result in good]
        medians.append(median(values) if values else float("nan"))
    return medians[0] / medians[1]


def result_table(title: str, results: Sequence[Result]) -> Table:
    """Table with one row per subject: medians over the repeats, and ratios."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "median", "min … max", "peak memory", "ratio of medians"):
        table.add_column(column, justify="left" if column in ("", "ratio of medians") else "right")
    notes = []
    for name in dict.fromkeys(result.subject for result in results):
        subject, runs = SUBJECTS[name], [result for result in results if result.subject == name]
        failures = [result.failure for result in runs if result.failure]
        good = [result for result in runs if not result.failure]
        notes += [f"{subject.label}: {good[-1].note}"] if good and good[-1].note else []
        notes += [f"{subject.label}: failed {len(failures)} of {len(runs)} times: {failures[-1]}"] if failures else []
        if not good:
            table.add_row(subject.label, "failed")
            continue
        values = [result.value for result in good]
        cells = [f"{median(values):.4g} {subject.unit}", f"{min(values):.4g} … {max(values):.4g}"]
        peak = f"{median(result.peak_mib for result in good):,.0f} MiB"
        shown = f"{subject.ratio}: {ratio(subject.ratio, results):.2f}" if subject.ratio else ""
        table.add_row(subject.label, *cells, peak, shown)
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table
