"""Figures of a dataset: class counts, image sizes, histograms and a contact sheet."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator
from PIL import Image

from animals_pl.data.catalog import MAX_CLASSES, display_name
from animals_pl.evaluation.figures import draw_literally, drawable
from animals_pl.reports.findings import class_table, elongation, readable, zoom_limits
from animals_pl.reports.thumbnails import thumbnail

BLUE, ORANGE, GREY = "#4c72b0", "#dd8452", "#8c8c8c"

SHEET_COLUMNS = 10
"""Images per class on the contact sheet."""

MANY_POINTS = 5000
"""Number of points above which the interactive plot uses WebGL."""

CELL, GAP = 120, 10
"""Side of an image's cell on the contact sheet, and the minimum space between two images, in pixels."""


def all_figures(manifest: pd.DataFrame, root: Path) -> dict[str, Figure]:
    """Return all figures of a manifest with paths relative to ``root``: file name without suffix → figure."""
    names = manifest["label"].unique().tolist()
    manifest = manifest.assign(label=manifest["label"].map(dict(zip(names, drawable(names), strict=True))))
    images = readable(manifest)
    aspect = images["width"] / images["height"]
    figures = {
        "class_counts": class_counts(class_table(manifest)),
        "sizes": sizes(images),
        "aspect_ratios": histograms(images["label"], aspect, "width / height", np.geomspace(0.4, 2.5, 43)),
        "file_sizes": histograms(images["label"], images["bytes"] / 1000, "kB", _log_bins(images["bytes"] / 1000)),
        "contact_sheet": contact_sheet(images, root),
    }
    return {name: draw_literally(figure) for name, figure in figures.items()}


def class_counts(classes: pd.DataFrame) -> Figure:
    """Bar chart of a :func:`~animals_pl.reports.findings.class_table`: images per class, largest class on top.

    Of more than MAX_CLASSES classes, the largest and the smallest are shown.
    """
    rows = classes.sort_values("images", kind="stable")
    ratio = rows["images"].max() / rows["images"].min()
    title = f"images per class (imbalance {ratio:.2f} : 1)"
    if len(rows) > MAX_CLASSES:
        rows = pd.concat([rows.head(MAX_CLASSES // 2), rows.tail(MAX_CLASSES // 2)])
        title += f", the {MAX_CLASSES // 2} largest and smallest of {len(classes):,} classes"
    figure = Figure(figsize=(9, 1.2 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(range(len(rows)), rows["images"], color=BLUE)
    axes.set_yticks(range(len(rows)), rows["class"])  # a categorical axis sets names when drawn: too late for fonts
    axes.bar_label(bars, [f"{count:,}" for count in rows["images"]], padding=4)
    axes.set(title=title, xticks=[])
    axes.spines[["top", "right", "bottom"]].set_visible(False)
    axes.margins(x=0.1)
    return figure


def sizes(images: pd.DataFrame) -> Figure:
    """Scatter plots of width and height: all images, 98 % and the densest part. Elongated images have larger dots."""
    figure = Figure(figsize=(15, 5.2), layout="constrained")
    width, height = images["width"].to_numpy(), images["height"].to_numpy()
    long_side = np.maximum(width, height)
    dot_size = 6 * elongation(images).to_numpy() ** 2
    limits = sorted(set(zoom_limits(images).values()), reverse=True)
    for axes, limit in zip(figure.subplots(1, len(limits), squeeze=False).flat, limits, strict=True):
        shown = long_side <= limit
        axes.scatter(width[shown], height[shown], s=dot_size[shown], alpha=0.25, color=BLUE, linewidths=0)
        axes.plot([0, limit], [0, limit], color=GREY, linewidth=0.8, linestyle=":")
        axes.set(
            title=f"up to {limit:,.0f} px: {shown.mean():.0%} of the images",
            xlabel="width (px)",
            ylabel="height (px)",
            xlim=(0, 1.03 * limit),
            ylim=(0, 1.03 * limit),
            aspect="equal",
        )
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def size_plot(images: pd.DataFrame) -> str:
    """Return a scatter plot of the sizes of readable images as HTML with id ``size-plot``, including plotly.js."""
    scatter = go.Scattergl if len(images) > MANY_POINTS else go.Scatter
    figure = go.Figure()
    for name, rows in images.groupby("label"):
        figure.add_trace(
            scatter(
                x=rows["width"],
                y=rows["height"],
                customdata=rows["path"],
                text=rows["path"].map(html.escape),  # plotly reads names as HTML
                name=html.escape(display_name(name)),
                meta=display_name(name),
                mode="markers",
                marker={"size": (4 * elongation(rows)).clip(4, 16), "opacity": 0.6, "line": {"width": 0}},
                hovertemplate="%{text}<br>%{x} × %{y} px",
            )
        )
    limits = zoom_limits(images)
    zooms = [
        {"label": label, "method": "relayout", "args": [{f"{axis}axis.range": [0, 1.04 * limit] for axis in "xy"}]}
        for label, limit in limits.items()
    ]
    axis = {"range": [0, 1.04 * limits["all"]], "showgrid": True}
    figure.update_layout(
        template="simple_white",
        height=620,
        dragmode="lasso",
        margin={"l": 60, "r": 10, "t": 40, "b": 50},
        xaxis={"title": "width (px)", **axis},
        yaxis={"title": "height (px)", **axis},
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": zooms, "x": 0, "y": 1.1, "xanchor": "left"}],
        legend={"title": "click to hide a class"},
    )
    tools = ["lasso2d", "select2d", "zoom2d", "pan2d", "resetScale2d", "toImage"]
    config = {"displaylogo": False, "responsive": True, "displayModeBar": True, "modeBarButtons": [tools]}
    return figure.to_html(full_html=False, include_plotlyjs=True, div_id="size-plot", config=config)


def histograms(labels: pd.Series, values: pd.Series, unit: str, bins: np.ndarray) -> Figure:
    """One histogram per class on a shared logarithmic axis. A line marks the median.

    Args:
        labels: N class names.
        values: N positive numbers with the same index.
        unit: Label of the axis.
        bins: Bin edges. Values outside are counted in the first or last bin.
    """
    names = _largest_classes(labels)
    columns = min(5, len(names))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(3 * columns, 0.6 + 1.9 * rows), layout="constrained")
    grid = figure.subplots(rows, columns, sharex=True, squeeze=False).flat
    for name, axes in zip(names, grid, strict=False):  # names first: zip must not consume an extra panel
        _histogram(axes, values[labels == name].clip(bins[0], bins[-1]), bins)
        axes.set_title(display_name(name), fontsize=10)
    for axes in grid:  # unused panels
        axes.set_visible(False)
    figure.supxlabel(unit)
    return figure


def _largest_classes(labels: pd.Series) -> list[str]:
    return sorted(labels.value_counts().head(MAX_CLASSES).index)


def _histogram(axes: Axes, values: pd.Series, bins: np.ndarray) -> None:
    axes.hist(values, bins=bins.tolist(), color=BLUE)
    axes.axvline(values.median(), color=ORANGE)
    axes.set(xscale="log", yticks=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if bins[-1] / bins[0] < 50 else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()
    axes.spines[["top", "right", "left"]].set_visible(False)


def _log_bins(values: pd.Series) -> np.ndarray:
    low, high = np.quantile(values, [0.005, 0.995])
    return np.geomspace(max(low, 1e-3), max(high, 1.01 * low, 2e-3), 40)


def contact_sheet(images: pd.DataFrame, root: Path) -> Figure:
    """Contact sheet: one row per class, with images spread evenly over its files."""
    names = _largest_classes(images["label"])
    figure = Figure(figsize=(1.15 * SHEET_COLUMNS, 1.3 * len(names)), layout="constrained")
    for name, axes in zip(names, figure.subplots(len(names), 1, squeeze=False).flat, strict=True):
        # one image per row: an axes per thumbnail takes several times longer to draw
        row = Image.new("RGB", (SHEET_COLUMNS * CELL, CELL), "white")
        for column, path in enumerate(spread(images.loc[images["label"] == name, "path"].tolist(), SHEET_COLUMNS)):
            small = thumbnail(root / path, CELL - GAP)
            row.paste(small, (column * CELL + (CELL - small.width) // 2, (CELL - small.height) // 2))
        axes.imshow(row)
        axes.set_axis_off()
        axes.set_title(display_name(name), fontsize=9, loc="left")
    return figure


def spread(items: Sequence[str], count: int) -> list[str]:
    """Return ``count`` evenly spaced items, or all if there are fewer."""
    if len(items) <= count:
        return list(items)
    return [items[index] for index in np.linspace(0, len(items) - 1, count).round().astype(int)]
