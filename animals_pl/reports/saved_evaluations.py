"""Read the evaluations of finished runs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from animals_pl.errors import UsageError
from animals_pl.evaluation.predictions import MODEL_FACTS
from animals_pl.evaluation.robustness import FACTS

_TEXT = {"path": str, "label": str, "prediction": str}
"""Types of columns in predictions.csv: class names may look like numbers."""


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation read from a run's folder.

    Attributes:
        folder: Its folder, such as ``RUN/evaluation/test``.
        class_names: Name of each class (C,).
        paths: Image of each row (N,).
        groups: Group of each image (N,), such as duplicates.
        labels: True classes (N,).
        predictions: Predicted classes (N,).
        scores: Calibrated probability of the predicted class (N,).
        facts: Contents of metrics.json.
    """

    folder: Path
    class_names: list[str]
    paths: list[str]
    groups: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    facts: dict[str, Any]


def read_metrics(file: Path) -> dict[str, Any]:
    """Contents of a metrics.json.

    Raises:
        UsageError: The file is missing, or was damaged or edited.
    """
    try:
        metrics = json.loads(file.read_text(encoding="utf-8"))
        _require_metrics(metrics)
        return metrics
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(file, error) from error


def _require_metrics(metrics: dict[str, Any]) -> None:
    """Raise ValueError, KeyError, TypeError or AttributeError unless the values have the types of ``metrics.json``."""
    if missing := {*FACTS, "split"} - metrics.keys():
        raise KeyError(*missing)
    intervals = [metrics[key] for key in ("acc", "macro_recall", "macro_f1", "log_loss")]
    for values in metrics["per_class"].values():
        intervals += [values[key] for key in ("precision", "recall", "f1")]
        if not isinstance(values["flagged"], bool):
            raise TypeError("flagged")
    numbers = [interval[end] for interval in intervals if interval is not None for end in ("value", "low", "high")]
    numbers += [metrics["temperature"], metrics["ece"]["before"]["value"]]
    numbers += [metrics["ece"]["after"][key] for key in ("value", "standard_error")]
    counts = [metrics["images"], metrics["epoch"], metrics.get("unseen", metrics)["images"]]
    if not all(isinstance(number, int | float) for number in numbers):
        raise TypeError("a metric is not a number")
    if not all(isinstance(count, int) for count in counts):
        raise TypeError("a count is not an integer")
    if not all(isinstance(metrics[key], str) for key in ("data", "split", "checkpoint", "tta")):
        raise TypeError("a name is not a string")


def _unreadable(file: Path, error: Exception) -> UsageError:
    """Error that names a file of an evaluation and the command that writes it."""
    run, split = file.parents[2], file.parent.name
    verb = "validate" if split == "val" else "test"
    root = f" --data.test_root …/{split.removeprefix('test-')}" if split.startswith("test-") else ""
    reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
    return UsageError(f"{str(file)!r} {reason}. Run 'python -m animals_pl {verb} --ckpt_path {run}/best.ckpt{root}'.")


def read_evaluation(run: Path, split: str) -> SavedEvaluation:
    """Read what ``validate`` (``val``) or ``test`` has written into a run's folder.

    Raises:
        UsageError: The files are missing or damaged.
    """
    if run.is_file():
        raise UsageError(f"{str(run)!r} is a file. Pass the folder of a run, such as {str(run.parent)!r}.")
    folder = run / "evaluation" / split
    file = folder / "predictions.csv"
    try:
        table = pd.read_csv(file, dtype=_TEXT, keep_default_na=False, encoding_errors="surrogateescape")
        names = [column.removeprefix("probability_") for column in table if column.startswith("probability_")]
        index = {name: label for label, name in enumerate(names)}
        labels, predictions = (np.array([index[name] for name in table[key]], int) for key in ("label", "prediction"))
        probabilities = table[[f"probability_{name}" for name in names]].to_numpy(float)
        if not len(table) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("no rows, or numbers that are not probabilities")
        scores = probabilities[np.arange(len(table)), predictions]
        groups, paths = table["group"].to_numpy(int), table["path"].tolist()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _unreadable(file, error) from error
    facts = read_metrics(folder / "metrics.json")
    return SavedEvaluation(folder, names, paths, groups, labels, predictions, scores, facts)


def require_same_model(val: SavedEvaluation, test: SavedEvaluation) -> None:
    """Raise UsageError if two evaluations of a run are not of the same model."""
    differing = [key for key in MODEL_FACTS if val.facts.get(key) != test.facts.get(key)]
    if differing or val.class_names != test.class_names:
        key = differing[0] if differing else "class names"
        raise UsageError(
            f"{str(val.folder)!r} and {str(test.folder)!r} are evaluations of different models ({key}). "
            "Run validate and test with the same checkpoint and options."
        )
