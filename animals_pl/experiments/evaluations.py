"""Comparison of two runs from their evaluations."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from animals_pl.errors import UsageError
from animals_pl.evaluation.comparison import compare_predictions
from animals_pl.evaluation.intervals import Interval
from animals_pl.reports.saved_evaluations import read_evaluation


def comparison_lines(first: Path, second: Path) -> Iterator[str]:
    """Sentences that compare two runs on the same images: those of ``test`` if both have it, else of ``validate``.

    Raises:
        UsageError: An evaluation is missing, or the images or classes differ.
    """
    split = "test" if all((run / "evaluation" / "test").is_dir() for run in (first, second)) else "val"
    a, b = (read_evaluation(run, split) for run in (first, second))
    if a.class_names != b.class_names or a.paths != b.paths or (a.labels != b.labels).any():
        raise UsageError(
            f"{str(a.folder)!r} and {str(b.folder)!r} do not have the same images and classes. Evaluate both runs on "
            "one dataset and split, with --data.root and --data.split, or with --data.test_root."
        )
    compared = compare_predictions(a.labels, a.predictions, b.predictions, len(a.class_names), groups=a.groups)
    test = compared.test
    yield f"{len(a.labels):,} {split} images; differences are {second} minus {first}, with 95 % intervals"
    yield f"accuracy      {_signed(compared.acc)}"
    yield f"macro recall  {_signed(compared.macro_recall)}"
    yield (
        f"only {first} is right on {test.only_first:,}, only {second} on {test.only_second:,} "
        f"(McNemar's exact test: p = {test.p_value:.2g})"
    )


def _signed(difference: Interval) -> str:
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
