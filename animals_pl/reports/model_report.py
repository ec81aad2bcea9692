"""The model report: a self-contained HTML page on an evaluation, with its figures as PNG files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib.figure import Figure

from animals_pl.data.catalog import english_name
from animals_pl.evaluation.calibration import reliability_bins
from animals_pl.evaluation.figures import confusion_matrix as matrix_figure
from animals_pl.evaluation.metrics import confusion_matrix
from animals_pl.evaluation.report_figures import precision_recall, reliability, risk_coverage_curve
from animals_pl.evaluation.robustness import saved_robustness
from animals_pl.evaluation.selective import risk_coverage
from animals_pl.files import printable
from animals_pl.reports.figure_files import write_figures
from animals_pl.reports.page import write_page
from animals_pl.reports.robustness_section import robustness_figures
from animals_pl.reports.thumbnails import thumbnail_uri
from animals_pl.training.callbacks.evaluation_files import Evaluation

MISTAKES, HITS, PER_CLASS, MOST_CURVES, MOST_LABELS = 48, 24, 4, 60, 60
"""Maximum number of mistakes, of hits, of images of a class; of classes with curves and with names in the matrix."""

TITLES = {
    "acc": "accuracy",
    "macro_recall": "macro recall",
    "macro_f1": "macro-F1",
    "log_loss": "log-loss",
}


class ModelReport:
    """Renders the page of an evaluation into its folder.

    Args:
        evaluation: The evaluation.
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.names = [printable(english_name(name)) for name in evaluation.class_names]
        self.labels = evaluation.predictions.labels
        self.probabilities = evaluation.predictions.probabilities
        self.predicted = self.probabilities.argmax(1)
        self.confidence = self.probabilities.max(1)
        self.correct = self.predicted == self.labels
        self.robustness = saved_robustness(evaluation.folder, evaluation.metrics)
        root = evaluation.catalog.root.absolute()
        relative = Path(os.path.relpath(root, evaluation.folder.resolve())).as_posix()
        self.base = quote(os.fsencode(relative)) + "/"

    def write(self) -> Path:
        """Write ``report.html``, ``figures/`` and TensorBoard events, and return the page's path."""
        folder, metrics = self.evaluation.folder, self.evaluation.metrics
        file = folder / "report.html"
        write_page(
            file,
            "model_report",
            title=f"Model report: {self.evaluation.split}",
            subtitle=f"{metrics['checkpoint']} of {folder.parents[1]}, epoch {metrics['epoch']}, on {metrics['data']}",
            cards=self._cards(),
            metrics=metrics,
            rows=self._rows(),
            figures=write_figures(self._figures(), folder, "evaluation"),
            galleries=self._galleries(),
            robustness=self.robustness,
            mistakes=int((~self.correct).sum()),
        )
        return file

    def _cards(self) -> list[dict[str, Any]]:
        metrics = self.evaluation.metrics
        cards = [("images", f"{metrics['images']:,}", "classes")]
        cards += [(title, f"{metrics[key]['value']:.3f}", "classes") for key, title in TITLES.items()]
        cards += [("ECE", f"{metrics['ece']['after']['value']:.3f}", "calibration")]
        cards += [("AURC", f"{metrics['aurc']:.4f}", "coverage")]
        return [{"name": name, "value": value, "to": to, "warn": False} for name, value, to in cards]

    def _rows(self) -> list[dict[str, Any]]:
        """Cells of the table of classes."""
        per_class = self.evaluation.metrics["per_class"]
        return [
            {
                "name": name,
                "images": f"{values['images']:,}",
                "cells": [interval_text(values[key]) for key in ("recall", "precision", "f1")],
                "flagged": values["flagged"] and values["images"] > 0,
            }
            for name, values in zip(self.names, per_class.values(), strict=True)
        ]

    def _figures(self) -> dict[str, Figure]:
        found, count = self.evaluation.predictions, len(self.names)
        confusion = confusion_matrix(self.labels, self.predicted, count)
        figures = {
            "confusion_counts": matrix_figure(confusion, self.names, max_labels=MOST_LABELS),
            "confusion_shares": matrix_figure(confusion, self.names, max_labels=MOST_LABELS, shares=True),
            "reliability": reliability(
                reliability_bins(found.uncalibrated, self.labels), reliability_bins(self.probabilities, self.labels)
            ),
            "risk_coverage": risk_coverage_curve(risk_coverage(self.confidence, self.correct)),
        }
        if count <= MOST_CURVES:
            figures["precision_recall"] = precision_recall(self.probabilities, self.labels, self.names)
        if self.robustness is not None:
            example = int((self.confidence * self.correct).argmax())
            figures |= robustness_figures(self.robustness, self.evaluation.catalog, example)
        return figures

    def _galleries(self) -> list[dict[str, Any]]:
        by_confidence = np.argsort(-self.confidence, kind="stable")
        mistakes = by_confidence[~self.correct[by_confidence]][:MISTAKES]
        hits = by_confidence[self.correct[by_confidence]]
        galleries = [
            ("The most confident mistakes", mistakes),
            ("The least confident correct predictions", hits[::-1][:HITS]),
        ]
        if len(self.names) <= MOST_CURVES:
            best = [hits[self.labels[hits] == label][:PER_CLASS] for label in range(len(self.names))]
            galleries.append(("The most confident correct predictions of each class", np.concatenate(best)))
        return [{"name": name, "images": [self._tile(int(index)) for index in which]} for name, which in galleries]

    def _tile(self, index: int) -> dict[str, Any]:
        """Link, thumbnail and caption of an image."""
        path = self.evaluation.catalog.paths[index]
        truth, predicted = self.labels[index], self.predicted[index]
        lines = [f"{self.names[predicted]} {self.probabilities[index, predicted]:.1%}"]
        if truth != predicted:
            lines = [f"true: {self.names[truth]} {self.probabilities[index, truth]:.1%}", f"predicted: {lines[0]}"]
        href = self.base + quote(os.fsencode(path))
        return {"path": path, "href": href, "src": thumbnail_uri(self.evaluation.catalog.root / path), "lines": lines}


def interval_text(values: dict[str, float] | None) -> str:
    """``"0.93 (0.85–0.97)"``; ``"–"`` if the value is not defined."""
    return "–" if values is None else f"{values['value']:.2f} ({values['low']:.2f}–{values['high']:.2f})"
