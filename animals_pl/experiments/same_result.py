"""Compare the results of two runs bit by bit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from animals_pl.training.checkpoint import LAST_CHECKPOINT, REFIT_CHECKPOINT, load_checkpoint
from animals_pl.training.metrics_csv import read_metrics

MEASURED = ("epoch_row.seconds", "loops.", "datamodule_hyper_parameters.split", "callbacks.Timer")
"""Prefixes of checkpoint entries that differ even between equal runs: times, Lightning's counters of started batches,
and the split, which a resumed run reads from its folder."""


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two runs.

    Attributes:
        tensors, epochs, curves: Number of tensors, rows of metrics.csv and TensorBoard scalars that were compared.
        differences: What differs; empty if the runs are equal.
    """

    tensors: int
    epochs: int
    curves: int
    differences: list[str]


def compare_runs(expected: Path, found: Path) -> Comparison:
    """Compare last.ckpt, refit.ckpt, metrics.csv and TensorBoard scalars of two run folders, except for times."""
    theirs, ours = (_checkpoints(run) for run in (expected, found))
    differences = list(_different(theirs, ours))
    tables = [_without_seconds(read_metrics(run / "metrics.csv")) for run in (expected, found)]
    differences += [f"metrics.csv: epoch {epoch + 1}" for epoch in _different(*tables)]
    curves = [_curves(run) for run in (expected, found)]
    differences += [f"TensorBoard: {tag}" for tag in _different(*curves)]
    tensors = sum(isinstance(value, Tensor) for value in theirs.values())
    return Comparison(tensors, len(tables[0]), len(curves[0]), differences)


def _checkpoints(run: Path) -> dict[str, Any]:
    """``"last.ckpt: NAME"`` → value of every entry of last.ckpt and, if there is one, of refit.ckpt."""
    names = [name for name in (LAST_CHECKPOINT, REFIT_CHECKPOINT) if (run / name).is_file()]
    return {f"{name}: {key}": value for name in names for key, value in _leaves(load_checkpoint(run / name), run)}


def _leaves(value: Any, run: Path, name: str = "") -> Iterator[tuple[str, Any]]:
    """(Name, value) of every entry of a checkpoint, without those of MEASURED and with paths relative to the run."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list | tuple) else None
    if name.startswith(MEASURED):
        return
    if items is None:
        yield name, value.replace(str(run), "") if isinstance(value, str) else value
        return
    for key, item in items:
        part = str(key).replace(str(run), "")
        yield from _leaves(item, run, f"{name}.{part}" if name else part)


def _different(expected: dict[Any, Any], found: dict[Any, Any]) -> list[Any]:
    """Keys that only one of them has, or whose values differ."""
    keys = [*expected, *(key for key in found if key not in expected)]
    return [key for key in keys if key not in expected or key not in found or not _equal(expected[key], found[key])]


def _equal(one: Any, other: Any) -> bool:
    """Whether two values are equal, to the last bit, NaN included."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        same_kind = one.dtype == other.dtype and one.shape == other.shape
        return same_kind and torch.equal(*(t.contiguous().flatten().view(torch.uint8) for t in (one, other)))
    return repr(one) == repr(other)


def _without_seconds(rows: list[dict[str, float]]) -> dict[int, dict[str, float]]:
    return {int(row["epoch"]): {key: cell for key, cell in row.items() if key != "seconds"} for row in rows}


def _curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """TensorBoard tag → (step, value) of every point, by step. A run resumed at its end logs its last points again."""
    events = EventAccumulator(str(run), size_guidance={"scalars": 0})
    events.Reload()
    tags = [tag for tag in events.Tags()["scalars"] if tag != "seconds"]
    return {tag: sorted({(event.step, event.value) for event in events.Scalars(tag)}) for tag in tags}
