"""Figures of several runs: overlaid curves, metrics against size and speed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import EngFormatter, LogLocator
from matplotlib.transforms import Bbox

from animals_pl.evaluation.figures import draw_literally, drawable

COLOURS = matplotlib.color_sequences["tab10"]
LINES = ("-", "--", ":")
MOST_RUNS = len(COLOURS) * len(LINES)
"""Maximum number of runs with distinct colours and line styles."""

CURVES = {
    "loss/train": "training loss",
    "loss/val": "validation loss",
    "acc/val": "validation accuracy",
    "macro_recall/val": "validation macro recall",
}
METRICS = {"acc/val": "validation accuracy", "macro_recall/val": "validation macro recall"}
DOT, LABEL_SIZE = 8, 9
"""Diameter of a dot and size of a name, in points."""

DISTANCES = (8, 16, 26, 38, 52)
ANGLES = tuple(math.radians(degrees) for degrees in (0, 180, 90, 270, 45, 315, 135, 225))
"""Places of a name, tried in this order: distances to its dot in points, and directions."""

COSTS = {"trainable": "trainable parameters", "ms_per_image": "milliseconds per image"}


@dataclass(frozen=True)
class DrawnRun:
    """A run in the figures.

    Attributes:
        name: Its name in the legend.
        rows: Metrics of each epoch, with ``epoch`` from 0.
        best: Metrics of the best epoch.
        trainable: Number of trainable parameters; ``None``: not known.
        ms_per_image: Milliseconds per image; ``None``: not known.
    """

    name: str
    rows: Sequence[Mapping[str, float]]
    best: Mapping[str, float]
    trainable: int | None
    ms_per_image: float | None


def colour(index: int) -> str:
    """Colour of a run, as ``#rrggbb``."""
    return matplotlib.colors.to_hex(COLOURS[index % len(COLOURS)])


def run_curves(runs: Sequence[DrawnRun]) -> Figure:
    """Losses (logarithmic), accuracy and macro recall of up to MOST_RUNS runs, with a dot at each best epoch."""
    figure = Figure(figsize=(11, 7.5 + 0.25 * math.ceil(len(runs) / 2)), layout="constrained")
    lines: list[Line2D] = []
    for axes, (key, title) in zip(figure.subplots(2, 2).flat, CURVES.items(), strict=True):
        lines = [_curve(axes, run, key, index) for index, run in enumerate(runs)]
        axes.set(title=title, xlabel="epoch")
        if key.startswith("loss/"):
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter("")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        _plain_axes(axes)
    names = drawable([run.name for run in runs])
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False)
    return draw_literally(figure)


def _curve(axes: Axes, run: DrawnRun, key: str, index: int) -> Line2D:
    epochs = np.array([row["epoch"] + 1 for row in run.rows])
    values = np.array([row.get(key, math.nan) for row in run.rows], dtype=float)
    best = np.flatnonzero(epochs == run.best["epoch"] + 1)
    style = LINES[index // len(COLOURS) % len(LINES)]
    (line,) = axes.plot(epochs, values, style, color=colour(index), marker="o", markersize=5, markevery=best.tolist())
    return line


def cost_scatter(runs: Sequence[DrawnRun]) -> Figure | None:
    """Accuracy and macro recall of up to MOST_RUNS runs against what they cost; ``None`` if no cost is known."""
    known = [cost for cost in COSTS if any(getattr(run, cost) for run in runs)]
    if not known:
        return None
    figure = Figure(figsize=(12, 9), layout="constrained")
    grid = figure.subplots(len(METRICS), len(known), squeeze=False, sharex="col", sharey="row")
    panels = []
    for (row, metric), (column, cost) in itertools.product(enumerate(METRICS), enumerate(known)):
        axes = grid[row, column]
        points = {
            index: (getattr(run, cost), run.best[metric])
            for index, run in enumerate(runs)
            if getattr(run, cost) and math.isfinite(run.best.get(metric, math.nan))
        }
        _scatter(axes, points)
        axes.xaxis.set_major_formatter(EngFormatter(sep="") if cost == "trainable" else "{x:g}")
        axes.set(ylabel="" if column else METRICS[metric], xlabel=COSTS[cost] if row + 1 == len(METRICS) else "")
        panels.append((axes, points))
    figure.draw_without_rendering()  # the places of the points must be final
    names = drawable([run.name for run in runs])
    for axes, points in panels:
        _label_points(axes, points, names)
    return draw_literally(figure)


def _scatter(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    for index, point in points.items():
        axes.plot(*point, "o", color=colour(index), markersize=DOT)
    axes.set_xscale("log")
    axes.margins(0.12)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1, 3)))
    axes.xaxis.set_minor_formatter("")
    _plain_axes(axes)


def _label_points(axes: Axes, points: Mapping[int, tuple[float, float]], names: Sequence[str]) -> None:
    """Write names beside points where they cover neither points nor names; without such a place, a name is left out."""
    to_points = 72 / axes.figure.dpi
    centres = {index: axes.transData.transform(point) * to_points for index, point in points.items()}
    left, right = axes.bbox.x0 * to_points, axes.bbox.x1 * to_points
    taken = [Bbox.from_bounds(x - DOT / 2, y - DOT / 2, DOT, DOT) for x, y in centres.values()]
    for index, (x, y) in centres.items():
        label = axes.annotate(names[index], points[index], (0, 0), textcoords="offset points", ha="center", va="center")
        label.set(fontsize=LABEL_SIZE, color=colour(index), in_layout=False)
        extent = label.get_window_extent()
        width, height = extent.width * to_points, extent.height * to_points
        for distance, angle in itertools.product(DISTANCES, ANGLES):
            shift = math.cos(angle) * (distance + width / 2), math.sin(angle) * (distance + height / 2)
            box = Bbox.from_bounds(x + shift[0] - width / 2, y + shift[1] - height / 2, width, height)
            if left <= box.x0 and box.x1 <= right and not box.count_overlaps(taken):
                taken.append(box)
                label.set_position(shift)
                break
        else:
            label.remove()


def _plain_axes(axes: Axes) -> None:
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
