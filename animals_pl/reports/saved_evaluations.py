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


def read_evaluation(run: Path, split: str) -> SavedEvaluation:
    """Read what ``validate`` (``val``) or ``test`` has written into a run's folder.

    Raises:
        UsageError: The files are missing or damaged.
    """
    folder = run / "evaluation" / split
    try:
        table = pd.read_csv(
            folder / "predictions.csv", dtype=_TEXT, keep_default_na=False, encoding_errors="surrogateescape"
        )
        facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        names = [column.removeprefix("probability_") for column in table if column.startswith("probability_")]
        index = {name: label for label, name in enumerate(names)}
        labels, predictions = (np.array([index[name] for name in table[key]], int) for key in ("label", "prediction"))
        probabilities = table[[f"probability_{name}" for name in names]].to_numpy(float)
        if not isinstance(facts, dict) or not len(table) or not ((probabilities >= 0) & (probabilities <= 1)).all():
            raise ValueError("no metrics, no rows, or numbers that are not probabilities")
        scores = probabilities[np.arange(len(table)), predictions]
        groups, paths = table["group"].to_numpy(int), table["path"].tolist()
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        verb = "validate" if split == "val" else "test"
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise UsageError(
            f"the evaluation {str(folder)!r} {reason}. Run 'python -m animals_pl {verb} --ckpt_path {run}/best.ckpt'."
        ) from error
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
