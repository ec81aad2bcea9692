"""Figures of an evaluation: reliability, risk and coverage, precision and recall."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve

from animals_pl.evaluation.calibration import ReliabilityBins
from animals_pl.evaluation.figures import TRAIN_COLOUR, VAL_COLOUR, draw_literally, drawable
from animals_pl.evaluation.selective import RiskCoverage

COLUMNS = 5
"""Precision-recall curves side by side."""


def reliability(before: ReliabilityBins, after: ReliabilityBins) -> Figure:
    """Accuracy over confidence, and images in each bin, before and after calibration."""
    figure = Figure(figsize=(9, 5), layout="constrained")
    diagrams, histograms = figure.subplots(2, 2, sharex=True, height_ratios=[3, 1])
    titles = ("before calibration", "after calibration")
    for diagram, histogram, bins, title in zip(diagrams, histograms, (before, after), titles, strict=True):
        centres, width = (bins.edges[:-1] + bins.edges[1:]) / 2, np.diff(bins.edges)
        diagram.bar(centres, np.nan_to_num(bins.accuracy), width * 0.92, color=TRAIN_COLOUR)
        diagram.plot([0, 1], [0, 1], "--", color="gray", linewidth=1)
        diagram.plot(bins.confidence, bins.accuracy, "o", color=VAL_COLOUR, markersize=4)
        diagram.set(title=title, ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
        histogram.bar(centres, bins.counts, width * 0.92, color="gray")
        histogram.set(xlabel="probability of the predicted class", ylabel="images")
        _plain_axes(diagram)
        _plain_axes(histogram)
    return figure


def risk_coverage_curve(curve: RiskCoverage) -> Figure:
    """Risk-coverage curve: error rate of the accepted images over the share that is accepted."""
    figure = Figure(figsize=(6.5, 4), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.coverage, curve.risk, color=TRAIN_COLOUR)
    axes.set(
        xlabel="coverage (share accepted, most confident first)",
        ylabel="risk (error rate)",
        title=f"AURC {curve.aurc:.4f}",
    )
    axes.set(xlim=(0, 1), ylim=(0, max(0.01, float(curve.risk.max()) * 1.1)))
    _plain_axes(axes)
    return figure


def precision_recall(probabilities: np.ndarray, labels: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Precision-recall curve of each class that has images, with its average precision (scikit-learn's).

    Args:
        probabilities: Class probabilities (N, C).
        labels: True classes (N,).
        class_names: Name of each class (C,).
    """
    shown = np.unique(labels)
    rows = -(-len(shown) // COLUMNS)
    figure = Figure(figsize=(2.3 * COLUMNS, 2.4 * rows), layout="constrained")
    grid = figure.subplots(rows, COLUMNS, squeeze=False, sharex=True, sharey=True).ravel()
    names = drawable(class_names)
    for axes, label in zip(grid, shown, strict=False):
        truth, scores = labels == label, probabilities[:, label]
        precision, recall, _ = precision_recall_curve(truth, scores)
        axes.plot(recall, precision, color=TRAIN_COLOUR, drawstyle="steps-post")
        axes.set_title(f"{names[label]}\nAP {average_precision_score(truth, scores):.3f}", fontsize=10)
        axes.set(xlim=(0, 1.02), ylim=(0, 1.05))
        _plain_axes(axes)
    for axes in grid[len(shown) :]:
        axes.set_axis_off()
    figure.supxlabel("recall")
    figure.supylabel("precision")
    return draw_literally(figure)


def _plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
