"""Figures of a robustness test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure


def robustness_curves(values: Mapping[str, Any]) -> Figure:
    """Accuracy and macro recall over the severity of each corruption; severity 0 is the image as it is.

    Args:
        values: Result of :func:`~animals_pl.evaluation.robustness.robustness_values`.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    colours = colormaps["tab10"].colors  # type: ignore[attr-defined]
    for axes, (metric, title) in zip(panels, [("acc", "accuracy"), ("macro_recall", "macro recall")], strict=True):
        for (name, found), colour in zip(values["corruptions"].items(), colours, strict=False):
            points = [values["clean"][metric], *found[metric]]
            axes.plot(range(len(points)), points, color=colour, marker="o", markersize=3, label=name.replace("_", " "))
        axes.set(title=title, xlabel="severity", ylim=(0, 1.02))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    panels[1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.02, 0.5))
    return figure


def corruption_sheet(versions: np.ndarray, names: Sequence[str]) -> Figure:
    """Versions of one image: a row for each corruption, a column for each severity.

    Args:
        versions: Pixels (K, S, H, W, 3) uint8 under K corruptions at S severities.
        names: Name of each corruption (K,).
    """
    count, severities, height, width, _ = versions.shape
    figure = Figure(figsize=(1.3 * severities + 1.2, 1.3 * count), layout="constrained")
    axes = figure.subplots()
    axes.imshow(versions.transpose(0, 2, 1, 3, 4).reshape(count * height, severities * width, 3))
    axes.set_yticks([height * (row + 0.5) for row in range(count)], [name.replace("_", " ") for name in names])
    axes.set_xticks([width * (column + 0.5) for column in range(severities)], map(str, range(1, severities + 1)))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("severity")
    return figure
