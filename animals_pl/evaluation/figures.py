"""Plot training curves and confusion matrices."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

TRAIN_COLOUR, VAL_COLOUR = "#4c72b0", "#dd8452"


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Plot training and validation loss and accuracy over epochs, and mark the best validation value of each.

    Args:
        rows: One mapping per epoch with ``epoch`` (from 0), ``loss/train``, ``loss/val``, ``acc/train`` and
            ``acc/val``. Missing values leave gaps.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = np.array([row["epoch"] + 1 for row in rows])
    for axes, (metric, title) in zip(figure.subplots(1, 2), [("loss", "loss"), ("acc", "accuracy")], strict=True):
        for split, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            values = np.array([row.get(f"{metric}/{split}", np.nan) for row in rows], dtype=float)
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=split)
            if split == "val" and not np.isnan(values).all():
                best = int(np.nanargmin(values) if metric == "loss" else np.nanargmax(values))
                axes.plot(epochs[best], values[best], "*", color=colour, markersize=13)
                axes.annotate(
                    f"{values[best]:.3f}",
                    (epochs[best], values[best]),
                    xytext=(0, -18 if metric == "loss" else 10),
                    textcoords="offset points",
                    ha="center",
                )
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08, y=0.15)
        axes.legend(frameon=False)
    return figure


def confusion_matrix(confusion: np.ndarray, class_names: Sequence[str]) -> Figure:
    """Plot a confusion matrix: numbers are counts, colours the share of the true class.

    Args:
        confusion: (C, C) counts; rows are true classes, columns predictions.
        class_names: C names.
    """
    count = len(class_names)
    side = max(5, 2.5 + 0.55 * count)
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = confusion / np.maximum(confusion.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(confusion), strict=True):
        colour = "white" if share[row, column] > 0.7 else "black"
        axes.text(column, row, str(confusion[row, column]), ha="center", va="center", color=colour, fontsize=9)
    axes.set_xticks(range(count), class_names, rotation=45, ha="right")
    axes.set_yticks(range(count), class_names)
    axes.set(xlabel="predicted", ylabel="true")
    return figure
