"""Findings → one HTML file that needs no other, with pictures that open the images."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
import numpy as np
import pandas as pd
import plotly.graph_objects as go

import animals_pl
from animals_pl.data.catalog import display_name
from animals_pl.data.inspection.manifest import groups_by
from animals_pl.reports.dataset_figures import spread
from animals_pl.reports.findings import elongation, readable, size_table, suggest_sizes, zoom_limits
from animals_pl.reports.thumbnails import absent_uri, data_uri

SHEET, GROUPS, SUSPECTS, BROKEN = 16, 60, 200, 200
"""How many images of a class, duplicate groups, suspected labels and broken files are shown; tables have all."""

MANY_POINTS = 5000
"""From this many points on, the scatter plot is drawn by the graphics card."""


@dataclass(frozen=True)
class Findings:
    """What an analysis found.

    Attributes:
        root: The folder that paths are relative to.
        manifest: One row per image.
        classes: See :func:`~animals_pl.reports.findings.class_table`.
        odd: See :func:`~animals_pl.reports.findings.odd_table`.
        broken: See :func:`~animals_pl.reports.findings.broken_table`.
        duplicates: See :func:`~animals_pl.reports.findings.duplicate_table`.
        label_errors: See :func:`~animals_pl.reports.label_errors.label_error_table`; ``None``: not sought.
    """

    root: Path
    manifest: pd.DataFrame
    classes: pd.DataFrame
    odd: pd.DataFrame
    broken: pd.DataFrame
    duplicates: pd.DataFrame
    label_errors: pd.DataFrame | None

    @property
    def imbalance(self) -> float:
        """How many times the images of the smallest class the largest has."""
        counts = self.classes["images"]
        return counts.max() / counts.min()

    @property
    def copies(self) -> pd.DataFrame:
        """The files that are there more than once (see :func:`~animals_pl.data.inspection.manifest.groups_by`)."""
        return groups_by("sha256", readable(self.manifest))

    @property
    def near_duplicates(self) -> pd.DataFrame:
        """The groups of different files that show one picture."""
        groups = groups_by("duplicate_group", self.manifest[self.manifest["duplicate_group"] >= 0])
        return groups[groups["contents"] > 1]


class Report:
    """Writes the findings as a page.

    Args:
        findings: What was found.
        folder: Where the page is to lie; its links are relative to it.
    """

    def __init__(self, findings: Findings, folder: Path) -> None:
        self.findings = findings
        self.folder = folder
        relative = Path(os.path.relpath(findings.root.absolute(), folder.resolve())).as_posix()
        self.base = quote(os.fsencode(relative)) + "/"

    def write(self, figures: dict[str, str], files: Sequence[str]) -> Path:
        """Write ``report.html`` and return its path.

        Args:
            figures: Name → image as a data URI.
            files: The files beside the page to link to, relative to its folder.
        """
        loader = jinja2.FileSystemLoader(Path(__file__).parent)
        environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined)
        page = environment.get_template("report.html.jinja").render(
            **self._overview(),
            **self._sizes(),
            **self._images(),
            figures=figures,
            files=files,
            logdir=self.folder,
            base=self.base,
            absent=absent_uri(),
            version=animals_pl.__version__,
        )
        target = self.folder / "report.html"
        target.write_text(page, encoding="utf-8", errors="replace")
        return target

    def _overview(self) -> dict[str, Any]:
        found = self.findings
        imbalance = f"{found.imbalance:.2f}"
        copies, near = len(found.copies), len(found.near_duplicates)
        errors = "?" if found.label_errors is None else f"{len(found.label_errors):,}"
        cards = [
            ("images", f"{len(found.manifest):,}", "classes", False),
            ("classes", f"{len(found.classes):,}", "classes", False),
            ("imbalance", f"{imbalance} : 1", "classes", found.imbalance > 2),
            ("broken", f"{len(found.broken):,}", "broken", len(found.broken) > 0),
            ("groups of copies", f"{copies:,}", "duplicates", copies > 0),
            ("groups of near-duplicates", f"{near:,}", "duplicates", near > 0),
            ("suspected labels", errors, "labels", errors not in ("?", "0")),
        ]
        formats = {"share": "{:.1%}", "balanced": "{:.3f}", "reference": "{:.3f}", "megabytes": "{:.1f}"}
        return {
            "title": f"What is in {found.root.absolute().name}",
            "source": str(found.root.absolute()),
            "cards": [dict(zip(("name", "value", "to", "warn"), card, strict=True)) for card in cards],
            "imbalance": imbalance,
            "classes": _cells(found.classes, formats),
        }

    def _sizes(self) -> dict[str, Any]:
        sizes, reason = suggest_sizes(self.findings.manifest)
        return {
            "sizes": sizes,
            "sizes_reason": reason,
            "frequent": _cells(size_table(self.findings.manifest), {"share": "{:.1%}"}),
            "scatter": size_plot(readable(self.findings.manifest)),
        }

    def _images(self) -> dict[str, Any]:
        found = self.findings
        usable = readable(found.manifest)
        sheets = [
            {"name": display_name(name), "images": self._tiles(spread(paths.tolist(), SHEET))}
            for name, paths in usable.groupby("label")["path"]
        ]
        odd = [
            {"name": kind, "images": self._tiles(rows["path"], rows["value"], rows["label"])}
            for kind, rows in found.odd.groupby("oddness", sort=False)
        ]
        broken = found.broken.head(BROKEN)
        groups = [self._group(rows) for number, rows in found.duplicates.groupby("group") if number <= GROUPS]
        return {
            "sheets": sheets,
            "odd": odd,
            "broken": [{"href": self._href(row.path), **row._asdict()} for row in broken.itertuples(index=False)],
            "broken_more": len(found.broken) - len(broken),
            "groups": groups,
            "groups_more": found.duplicates["group"].nunique() - len(groups),
            **self._suspects(),
        }

    def _group(self, rows: pd.DataFrame) -> dict[str, Any]:
        first = rows.iloc[0]
        tags = [f"{first[what]} {what}" for what in ("labels", "splits") if first[what] > 1]
        kind = "copies" if first["kind"] == "exact" else "near-duplicates"
        places = rows["label"] + np.where(rows["split"] == "", "", " · " + rows["split"])
        name = f"{len(rows)} {kind}"
        return {"name": name, "tags": tags, "images": self._tiles(rows["path"].head(24), places)}

    def _suspects(self) -> dict[str, Any]:
        errors = self.findings.label_errors
        if errors is None:
            return {"suspects": None, "suspects_more": 0}
        shown = errors.head(SUSPECTS)
        claims = [f"{label} → {suggested}" for label, suggested in zip(shown["label"], shown["suggested"], strict=True)]
        tiles = self._tiles(shown["path"], claims, shown["probability"].map("{:.0%} sure".format))
        reasons = suspicion(shown)
        return {
            "suspects": [tile | {"reason": reason} for tile, reason in zip(tiles, reasons, strict=True)],
            "suspects_more": len(errors) - len(shown),
        }

    def _tiles(self, paths: Sequence[str] | pd.Series, *lines: Sequence[str] | pd.Series) -> list[dict[str, Any]]:
        """Return what the page needs to show images: link, picture, path and the lines below it."""
        return [
            {"path": path, "href": self._href(path), "src": data_uri(self.findings.root / path), "lines": captions}
            for path, *captions in zip(paths, *lines, strict=False)
        ]

    def _href(self, path: str) -> str:
        return self.base + quote(os.fsencode(path))


def suspicion(errors: pd.DataFrame) -> list[str]:
    """Return why each suspected label is suspected, in words."""
    return [
        f"label {row.label}, looks like {row.suggested} ({row.probability:.2f} against {row.self_confidence:.2f})"
        for row in errors.itertuples(index=False)
    ]


def _cells(table: pd.DataFrame, formats: dict[str, str]) -> list[list[str]]:
    """Return a table as text, its header first."""
    rows = table.itertuples(index=False, name=None)
    patterns = [formats.get(name, "{}" if name == "class" else "{:,}") for name in table]
    return [list(table.columns), *([p.format(cell) for p, cell in zip(patterns, row, strict=True)] for row in rows)]


def size_plot(usable: pd.DataFrame) -> str:
    """Return an interactive scatter plot of width and height as HTML, the plotting library included.

    Args:
        usable: The images.
    """
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
    zooms = [
        {
            "label": label,
            "method": "relayout",
            "args": [{"xaxis.range": [0, 1.04 * limit], "yaxis.range": [0, 1.04 * limit]}],
        }
        for label, limit in limits.items()
    ]
    figure.update_layout(
        template="simple_white",
        height=620,
        dragmode="lasso",
        margin={"l": 60, "r": 10, "t": 40, "b": 50},
        xaxis={"title": "width (px)", "range": [0, 1.04 * limits["all"]], "showgrid": True},
        yaxis={"title": "height (px)", "range": [0, 1.04 * limits["all"]], "showgrid": True},
        updatemenus=[{"type": "buttons", "direction": "right", "buttons": zooms, "x": 0, "y": 1.1, "xanchor": "left"}],
        legend={"title": "click to hide a class"},
    )
    tools = ["lasso2d", "select2d", "zoom2d", "pan2d", "resetScale2d", "toImage"]
    config = {"displaylogo": False, "responsive": True, "displayModeBar": True, "modeBarButtons": [tools]}
    return figure.to_html(full_html=False, include_plotlyjs=True, div_id="size-plot", config=config)
