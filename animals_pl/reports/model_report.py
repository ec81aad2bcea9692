"""The model report: a self-contained HTML page on an evaluation, with its figures as PNG files."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from animals_pl.data.catalog import english_name
from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import reliability_bins
from animals_pl.evaluation.contract_text import contract_sentence, result_sentence
from animals_pl.evaluation.figures import confusion_matrix as matrix_figure
from animals_pl.evaluation.metrics import confusion_matrix
from animals_pl.evaluation.predictions import SUMMARY
from animals_pl.evaluation.report_figures import precision_recall, reliability, risk_coverage_curve
from animals_pl.evaluation.robustness import saved_robustness
from animals_pl.evaluation.selective import risk_coverage
from animals_pl.files import printable
from animals_pl.reports.figure_files import write_figures
from animals_pl.reports.galleries import galleries
from animals_pl.reports.page import write_page
from animals_pl.reports.projector import write_projector
from animals_pl.reports.review_contract import contract_rows, review_contract
from animals_pl.reports.robustness_section import robustness_figures
from animals_pl.reports.saved_evaluations import read_evaluation
from animals_pl.training.callbacks.evaluation_files import Evaluation

MOST_CURVES, MOST_LABELS = 60, 60
"""Maximum number of classes with curves, and with names in the confusion matrix."""

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

    Example:
        >>> from lightning import Trainer
        >>> from animals_pl import AnimalsDataModule, load_classifier
        >>> from animals_pl.training.callbacks.evaluation_files import EvaluationFiles
        >>> files = EvaluationFiles(AnimalsDataModule("MY_IMAGES", size=32))
        >>> trainer = Trainer(logger=False, enable_progress_bar=False, callbacks=[files])
        >>> model = load_classifier("checkpoints/my_animals/version_0/best.ckpt")
        >>> metrics = trainer.validate(model, files.data, verbose=False)
        predictions and metrics with 95 % intervals: checkpoints/my_animals/version_0/evaluation/val
        >>> ModelReport(files.evaluation).write().name
        'report.html'
    """

    def __init__(self, evaluation: Evaluation) -> None:
        self.evaluation = evaluation
        self.names = [printable(english_name(name)) for name in evaluation.class_names]
        self.labels = evaluation.predictions.labels
        self.probabilities = evaluation.predictions.probabilities
        self.predicted = self.probabilities.argmax(1)
        self.confidence = self.probabilities.max(1)
        self.correct = self.predicted == self.labels
        self.robustness = saved_robustness(evaluation.files, evaluation.metrics)

    def write(self) -> Path:
        """Write ``report.html``, ``figures/`` and files for TensorBoard, and return the page's path."""
        files, metrics = self.evaluation.files, self.evaluation.metrics
        run, file = self.evaluation.folder.parents[1], files / "report.html"
        write_page(
            file,
            "model_report",
            title=f"Model report: {self.evaluation.split}",
            subtitle=f"{metrics['checkpoint']} of {run}, epoch {metrics['epoch']}, on {metrics['data']}",
            cards=self._cards(),
            metrics=metrics,
            rows=self._rows(),
            contract=self._contract(),
            figures=write_figures(self._figures(), files, "evaluation", self._scalars(), metrics["epoch"]),
            galleries=galleries(self.evaluation, self.names),
            cropped=self.evaluation.dataset.resize.rule == "crop",
            robustness=self.robustness,
            mistakes=int((~self.correct).sum()),
        )
        if self.evaluation.split == "val":
            write_projector(self.evaluation, self.names)
        return file

    def _scalars(self) -> dict[str, float]:
        """Metrics of ``test`` for TensorBoard, whose HPARAMS tab has columns for them."""
        if self.evaluation.split != "test":
            return {}
        values = {key: self.evaluation.metrics[key] for key in SUMMARY}
        return {f"{key}/test": value["value"] for key, value in values.items() if value is not None}

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

    def _contract(self) -> dict[str, Any]:
        """Sentences, table and command of the review contract; without one, the ``problem``."""
        run, name = self.evaluation.folder.parents[1], self.evaluation.files.name
        command = f"python -m animals_pl report --contract {shlex.quote(str(run))}"
        try:
            if self.evaluation.split == "val":
                found = review_contract(read_evaluation(run, name), None)
            else:
                found = review_contract(read_evaluation(run, "val"), read_evaluation(run, name))
        except UsageError as error:
            return {"problem": printable(error)}
        sentences = [contract_sentence(found.contract, self.names)]
        if found.result is not None:
            sentences.append(result_sentence(found.result, self.names))
        return {
            "sentences": sentences,
            "rows": contract_rows(found, self.names),
            "stated": found.result is not None,
            "command": printable(command),
        }

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


def interval_text(values: dict[str, float] | None) -> str:
    """``"0.93 (0.85–0.97)"``; ``"–"`` if the value is not defined."""
    return "–" if values is None else f"{values['value']:.2f} ({values['low']:.2f}–{values['high']:.2f})"
