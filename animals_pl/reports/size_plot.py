"""Interactive scatter plot of image sizes."""

from __future__ import annotations

import pandas as pd
import plotly.graph_objects as go

from animals_pl.data.catalog import display_name
from animals_pl.reports.findings import elongation, zoom_limits

MANY_POINTS = 5000
"""Number of points from which the plot uses WebGL."""


def size_plot(usable: pd.DataFrame) -> str:
    """Return a scatter plot of the sizes of readable images as HTML with id ``size-plot``, including plotly.js."""
    scatter = go.Scattergl if len(usable) > MANY_POINTS else go.Scatter
    figure = go.Figure()
    for name, rows in usable.groupby("label"):
        figure.add_trace(
            scatter(
                x=rows["width"],
                y=rows["height"],
                customdata=rows["path"],
                name=display_name(name),
                mode="markers",
                marker={"size": (4 * elongation(rows)).clip(4, 16), "opacity": 0.6, "line": {"width": 0}},
                hovertemplate="%{customdata}<br>%{x} × %{y} px",
            )
        )
    limits = zoom_limits(usable)
    zooms = [{"label": label, "method": "relayout", "args": [_ranges(limit)]} for label, limit in limits.items()]
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


def _ranges(limit: float) -> dict[str, list[float]]:
    return {f"{axis}axis.range": [0, 1.04 * limit] for axis in "xy"}
