"""Contents of the run table: the runs' results beside the reference's, and what the runs cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from animals_pl.experiments.finished_runs import FinishedRun, FoundRuns
from animals_pl.experiments.reference import REFERENCE
from animals_pl.experiments.run_evaluation import Interval
from animals_pl.files import printable

RankBy = Literal["macro_recall", "acc", "loss", "macro_f1"]
RANKED_BY = {"macro_recall": "macro recall", "acc": "accuracy", "loss": "loss", "macro_f1": "macro-F1"}
COLUMNS = ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val", "macro_f1/val")
RESULTS = (
    *("trainable parameters", "epochs", "best epoch"),
    *("train loss", "train acc", "val loss", "val acc", "macro recall", "macro F1"),
)
TEST_AND_COST = ("test acc", "test macro recall", "MB", "ms/image", "training time")
OTHER_IMAGES, OTHER_TEST_IMAGES = "†", "‡"


@dataclass(frozen=True)
class Line:
    """A row of a table: a run, or the reference's results of the same experiment (without a rank)."""

    rank: str
    run: str
    architecture: str
    numbers: list[str]


@dataclass(frozen=True)
class RunTable:
    """A table of runs: headings of the numbers, and rows."""

    headings: tuple[str, ...]
    lines: list[Line]


def results(runs: Sequence[FinishedRun]) -> RunTable:
    """Results of ranked runs; a run of one of the reference's experiments is followed by the published results."""
    lines = []
    for rank, run in enumerate(runs, 1):
        trainable = "" if run.size is None else f"{run.size.trainable:,}"
        numbers = [trainable, str(len(run.rows)), str(int(run.best["epoch"]) + 1)]
        numbers += [f"{run.best[key]:.4f}" if key in run.best else "" for key in COLUMNS]
        mark = "" if has_same_images(run, runs) else f" {OTHER_IMAGES}"
        lines.append(Line(str(rank), printable(run.label) + mark, printable(run.config.architecture), numbers))
        if published := REFERENCE.get(run.name):
            lines.append(Line("", "reference", published.title, [*published.cells(), "", ""]))
    return RunTable(RESULTS, lines)


def has_same_images(run: FinishedRun, runs: Sequence[FinishedRun]) -> bool:
    """Whether a run was validated on the images of the first of ``runs``; a single run always was."""
    first = runs[0].split
    return len(runs) == 1 or (run.split is not None and first is not None and run.split.val == first.val)


def test_and_cost(runs: Sequence[FinishedRun]) -> RunTable:
    """Test metrics with intervals, size, speed and training time of ranked runs."""
    machines = _machines(runs)
    lines = []
    for rank, run in enumerate(runs, 1):
        mark = f" {OTHER_TEST_IMAGES}" if _has_other_test_images(run, runs) else ""
        numbers = [interval_text(run.test.acc), interval_text(run.test.macro_recall)] if run.test else ["", ""]
        numbers.append("" if run.size is None else f"{run.size.size_mb:.1f}")
        machine = f" [{machines.index(run.speed.conditions) + 1}]" if run.speed and len(machines) > 1 else ""
        numbers.append(_milliseconds(run.speed.ms_per_image) + machine if run.speed else "")
        numbers.append("" if run.seconds is None else _duration(run.seconds))
        lines.append(Line(str(rank), printable(run.label) + mark, "", numbers))
    return RunTable(TEST_AND_COST, lines)


def notes(found: FoundRuns, runs: Sequence[FinishedRun], rank_by: RankBy) -> list[str]:
    """Explanation of the tables, and what else was found."""
    lists = {
        "incomplete": found.incomplete,
        "no validation": found.unvalidated,
        "no checkpoint": found.without_checkpoint,
        "test metrics left out": found.other_tests,
        "not a run (no config.yaml, metrics.csv or checkpoint)": found.foreign,
        "unreadable": found.unreadable,
    }
    found_notes = [f"{title}: {entry}" for title, entries in lists.items() for entry in entries]
    return ([*_result_notes(runs, rank_by), *_cost_notes(runs)] if runs else []) + found_notes


def interval_text(interval: Interval) -> str:
    """``"0.939 (0.915–0.957)"``."""
    return f"{interval['value']:.3f} ({interval['low']:.3f}–{interval['high']:.3f})"


def _result_notes(runs: Sequence[FinishedRun], rank_by: RankBy) -> list[str]:
    lines = [
        f"Ranked by {RANKED_BY[rank_by]} on the validation images at each run's best epoch; "
        "ties by fewer trainable parameters.",
        "Runs are comparable only if they were evaluated on the same validation images.",
    ]
    if not all(has_same_images(run, runs) for run in runs):
        lines.append(f"{OTHER_IMAGES} evaluated on validation images that are unknown or differ from rank 1's.")
    if any(run.name in REFERENCE for run in runs):
        lines.append("reference: as published, on its own validation images.")
    return lines


def _cost_notes(runs: Sequence[FinishedRun]) -> list[str]:
    lines = ["MB: parameters and buffers in float32. Training time: all epochs (h:mm:ss), without computing features."]
    machines = _machines(runs)
    if len(machines) == 1:
        lines.append(f"ms/image: one image at a time, on {printable(machines[0])}.")
    if len(machines) > 1:
        listed = "; ".join(f"[{number}] {printable(machine)}" for number, machine in enumerate(machines, 1))
        lines.append(f"ms/image: one image at a time, on {listed}.")
    if any(run.test for run in runs):
        lines.append("Test metrics are those of best.ckpt, with 95 % intervals.")
    if any(_has_other_test_images(run, runs) for run in runs):
        lines.append(f"{OTHER_TEST_IMAGES} tested on images that are unknown or differ from the first tested run's.")
    return lines


def _has_other_test_images(run: FinishedRun, runs: Sequence[FinishedRun]) -> bool:
    """Whether a run was tested on images that are unknown or differ from those of the first tested run."""
    tested = [other.split for other in runs if other.test]
    if run.test is None or len(tested) == 1:
        return False
    return run.split is None or tested[0] is None or run.split.test != tested[0].test


def _machines(runs: Sequence[FinishedRun]) -> list[str]:
    return list(dict.fromkeys(run.speed.conditions for run in runs if run.speed))


def _milliseconds(value: float) -> str:
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _duration(seconds: float) -> str:
    """``"0:03:20"``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
