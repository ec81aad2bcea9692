"""Accuracy on corrupted images and the mean corruption error (Hendrycks and Dietterich 2019)."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from animals_pl.errors import UsageError
from animals_pl.evaluation.metrics import confusion_matrix, summarise
from animals_pl.evaluation.predictions import MODEL_FACTS

METRICS = ("acc", "macro_recall")

ROBUSTNESS_FILE = "robustness.json"

FACTS = ("data", *MODEL_FACTS, "images")
"""Entries of metrics.json that are also in robustness.json."""


def robustness_values(
    labels: np.ndarray, clean: np.ndarray, corrupted: np.ndarray, corruptions: Sequence[str], num_classes: int
) -> dict[str, Any]:
    """Metrics on corrupted images, as plain values.

    Args:
        labels: True classes (N,), N > 0.
        clean: Predicted classes (N,) of the images as they are.
        corrupted: Predicted classes (N, K, S) under K corruptions at S severities.
        corruptions: K names.
        num_classes: Number of classes, C.

    Returns:
        ``clean``: ``acc`` and ``macro_recall``; ``corruptions``: name → ``acc`` and ``macro_recall``, each with S
        values, and their means ``mean_acc`` and ``mean_macro_recall``; ``mean``: means over all corruptions.
    """

    def metrics(predicted: np.ndarray) -> dict[str, float]:
        found = summarise(confusion_matrix(labels, predicted, num_classes))
        return {key: found[key] for key in METRICS}

    per_corruption: dict[str, dict[str, Any]] = {}
    for name, predicted in zip(corruptions, corrupted.transpose(1, 2, 0), strict=True):
        found = [metrics(severity) for severity in predicted]
        by_severity = {key: [values[key] for values in found] for key in METRICS}
        per_corruption[name] = by_severity | {f"mean_{key}": float(np.mean(by_severity[key])) for key in METRICS}
    mean = {key: float(np.mean([values[f"mean_{key}"] for values in per_corruption.values()])) for key in METRICS}
    return {"clean": metrics(clean), "corruptions": per_corruption, "mean": mean}


def corruption_errors(values: Mapping[str, Any], baseline: Mapping[str, Any]) -> dict[str, float | None]:
    """Corruption error of each corruption in percent: 100 · Σ_s E_s / Σ_s E_s of the baseline, with E = 1 - accuracy.

    100 means as many errors as the baseline. It is not defined (``None``) if the baseline makes no errors.

    Args:
        values: Result of :func:`robustness_values`.
        baseline: The same for the baseline, on the same images.
    """
    errors = {}
    for name, found in values["corruptions"].items():
        own, other = (sum(1 - acc for acc in accs) for accs in (found["acc"], baseline["corruptions"][name]["acc"]))
        errors[name] = 100 * own / other if other else None
    return errors


def mean_corruption_error(errors: Mapping[str, float | None]) -> float | None:
    """mCE, the mean of :func:`corruption_errors`; ``None`` if one of them is not defined."""
    defined = [error for error in errors.values() if error is not None]
    return float(np.mean(defined)) if len(defined) == len(errors) else None


def saved_robustness(folder: Path, metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Contents of an evaluation's robustness.json; ``None`` if it is missing or of another model or other images.

    Args:
        folder: Folder of the evaluation.
        metrics: Contents of its metrics.json.

    """
    file = folder / ROBUSTNESS_FILE
    if not file.is_file():
        return None
    try:
        values = read_robustness(file)
    except UsageError as error:
        warnings.warn(f"{error} The file is ignored", stacklevel=2)
        return None
    same = math.isclose(values["clean"]["acc"], metrics["acc"]["value"])
    return values if same and all(values.get(key) == metrics.get(key) for key in FACTS) else None


def _require_metrics(values: Mapping[str, Any]) -> None:
    """Raise ValueError, KeyError, TypeError or AttributeError if the values are not those of a robustness test."""
    parts = [*values["corruptions"].values()]
    numbers = [part[key] for part in (values["clean"], values["mean"]) for key in METRICS]
    numbers += [part[f"mean_{key}"] for part in parts for key in METRICS]
    numbers += [value for part in parts for key in METRICS for value in part[key]]
    if {len(part[key]) for part in parts for key in METRICS} != {5}:
        raise ValueError("each corruption has five severities")
    if not all(0 <= number <= 1 for number in numbers):
        raise ValueError("a metric is out of range")


def read_robustness(file: Path) -> dict[str, Any]:
    """Contents of a robustness.json.

    Raises:
        UsageError: The file is missing or damaged.
    """
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        _require_metrics(values)
        return values
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise UsageError(
            f"{str(file)!r} {reason}. Run 'python -m animals_pl test --robustness --ckpt_path …' for this run."
        ) from error
