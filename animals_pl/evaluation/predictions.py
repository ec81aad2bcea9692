"""Metrics with intervals of a model's predictions for one split."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from animals_pl.evaluation.bootstrap import ece_standard_error, metric_intervals
from animals_pl.evaluation.calibration import Calibration, expected_calibration_error, negative_log_likelihood
from animals_pl.evaluation.intervals import Interval, too_few, wilson_interval
from animals_pl.evaluation.metrics import confusion_matrix
from animals_pl.evaluation.selective import risk_coverage
from animals_pl.evaluation.unknown import called_unknown

SUMMARY = ("acc", "macro_recall", "macro_f1")

MODEL_FACTS = ("checkpoint", "epoch", "tta", "temperature", "prior")
"""Entries of metrics.json that are the same for evaluations of one model."""


@dataclass(frozen=True)
class Predictions:
    """Outputs of a model for the images of a split.

    Attributes:
        logits: Logits (N, C), N > 0.
        labels: True classes (N,).
        groups: Group of each image (N,), such as duplicates or a camera; None: every image is its own group.
        seen: Whether an image has a duplicate among the training images (N,); None: not known.
        calibration: How logits become probabilities.
    """

    logits: np.ndarray
    labels: np.ndarray
    groups: np.ndarray | None = None
    seen: np.ndarray | None = None
    calibration: Calibration = field(default_factory=Calibration)

    @property
    def probabilities(self) -> np.ndarray:
        """Calibrated probabilities (N, C)."""
        return self.calibration.probabilities(self.logits)

    @property
    def uncalibrated(self) -> np.ndarray:
        """Probabilities (N, C) without the temperature."""
        return self.calibration.without_temperature().probabilities(self.logits)


def evaluation_metrics(found: Predictions, class_names: list[str]) -> dict[str, Any]:
    """Metrics in metrics.json, as plain values: a mapping for each metric, and one for each class.

    Args:
        found: The predictions.
        class_names: Name of each class (C,).

    Returns:
        ``images``; ``acc``, ``macro_recall``, ``macro_f1``, ``log_loss``: ``{value, low, high}``, 95 % intervals;
        ``ece``: ``{before, after}`` calibration, each with ``value`` and ``standard_error``; ``aurc``;
        ``called_unknown``: share of the images above the threshold for unknown images (null: the model has none);
        ``per_class``: name → ``precision``, ``recall``, ``f1`` (null where undefined), ``images`` and ``flagged`` (too
        few independent images for a reliable interval); ``unseen``, if it is known which images have duplicates in
        training: ``images`` and metrics of the others.
    """
    probabilities = found.probabilities
    predicted = probabilities.argmax(1)
    losses = negative_log_likelihood(found.calibration.log_probabilities(found.logits), found.labels)
    summary = metric_intervals(found.labels, predicted, len(class_names), groups=found.groups, losses=losses)
    values: dict[str, Any] = {"images": len(found.labels)}
    values |= {"log_loss" if name == "loss" else name: _plain(value) for name, value in summary.metrics.items()}
    values["ece"] = {
        "before": _calibration_error(found.uncalibrated, found),
        "after": _calibration_error(probabilities, found),
    }
    values["aurc"] = risk_coverage(probabilities.max(1), predicted == found.labels).aurc
    values["called_unknown"] = _plain(called_unknown(found.logits, found.calibration))
    if found.seen is not None and found.seen.any():
        values["unseen"] = _unseen(found, predicted, len(class_names))
    elif found.seen is not None:
        values["unseen"] = {"images": len(found.labels), **{name: values[name] for name in SUMMARY}}
    values["per_class"] = _per_class(found, predicted, class_names, summary.f1_per_class)
    return values


def _plain(interval: Interval | None) -> dict[str, float] | None:
    """An interval as a mapping; None if its value is not defined."""
    if interval is None or np.isnan(interval.value):
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _calibration_error(probabilities: np.ndarray, found: Predictions) -> dict[str, float]:
    return {
        "value": expected_calibration_error(probabilities, found.labels),
        "standard_error": ece_standard_error(probabilities, found.labels, groups=found.groups),
    }


def _unseen(found: Predictions, predicted: np.ndarray, num_classes: int) -> dict[str, Any]:
    """Metrics of the images without duplicates in training."""
    kept = np.ones(len(predicted), bool) if found.seen is None else ~found.seen
    if not kept.any():
        return {"images": 0}
    groups = None if found.groups is None else found.groups[kept]
    summary = metric_intervals(found.labels[kept], predicted[kept], num_classes, groups=groups)
    return {"images": int(kept.sum()), **{name: _plain(value) for name, value in summary.metrics.items()}}


def _per_class(
    found: Predictions, predicted: np.ndarray, class_names: list[str], f1: list[Interval | None]
) -> dict[str, dict[str, Any]]:
    confusion = confusion_matrix(found.labels, predicted, len(class_names))
    hits, images, named = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    flagged = too_few(found.labels, found.groups, len(class_names))
    return {
        name: {
            "precision": _plain(wilson_interval(int(hits[label]), int(named[label]))),
            "recall": _plain(wilson_interval(int(hits[label]), int(images[label]))),
            "f1": _plain(f1[label]),
            "images": int(images[label]),
            "flagged": bool(flagged[label]),
        }
        for label, name in enumerate(class_names)
    }
