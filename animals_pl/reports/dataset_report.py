"""The dataset report: a self-contained HTML page whose thumbnails link to the images."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pandas as pd

from animals_pl.data.catalog import display_name
from animals_pl.reports.dataset_figures import size_plot, spread
from animals_pl.reports.findings import Findings, readable, size_table, suggest_sizes
from animals_pl.reports.page import write_page
from animals_pl.reports.thumbnails import thumbnail_uri

SAMPLE_CLASSES = 100
"""Maximum number of classes whose images are on the page."""

SAMPLES, GROUPS, GROUP_IMAGES, SUSPECTS, BROKEN = 16, 60, 24, 200, 200
"""Maximum number of images of a class, duplicate groups, images of a group, suspects and broken files on the page."""


class DatasetReport:
    """Renders the dataset report from its template.

    Args:
        findings: What to report.
        folder: Folder of the page. Links to images are relative to it.
    """

    def __init__(self, findings: Findings, folder: Path) -> None:
        self.findings = findings
        self.folder = folder
        relative = Path(os.path.relpath(findings.root.absolute(), folder.resolve())).as_posix()
        self.base = quote(os.fsencode(relative)) + "/"

    def write(self, figures: dict[str, str], files: Sequence[str]) -> Path:
        """Write ``report.html`` and return its path.

        Args:
            figures: Name → figure as a data URI.
            files: Files in the page's folder to link to.
        """
        file = self.folder / "report.html"
        write_page(
            file,
            "dataset_report",
            **self._overview(),
            **self._sizes(),
            **self._images(),
            **self._duplicates(),
            **self._label_errors(),
            figures=figures,
            files=files,
            logdir=self.folder,
            base=self.base,
            placeholder=thumbnail_uri(None),
        )
        return file

    def _overview(self) -> dict[str, Any]:
        found = self.findings
        exact, near = found.exact_groups, found.near_groups
        suspects = None if found.label_errors is None else len(found.label_errors.table)
        cards = [  # name, value, section, whether to warn
            ("images", f"{len(found.manifest):,}", "classes", False),
            ("classes", f"{len(found.classes):,}", "classes", False),
            ("imbalance", f"{found.imbalance:.2f} : 1", "classes", found.imbalance > 2),
            ("broken files", f"{len(found.broken):,}", "broken", len(found.broken) > 0),
            ("exact duplicate groups", f"{exact:,}", "duplicates", exact > 0),
            ("near-duplicate groups", f"{near:,}", "duplicates", near > 0),
            ("suspected label errors", "–" if suspects is None else f"{suspects:,}", "labels", bool(suspects)),
        ]
        formats = {"share": "{:.1%}", "balanced": "{:.3f}", "reference": "{:.3f}", "megabytes": "{:.1f}"}
        return {
            "title": f"Dataset report: {found.root.absolute().name}",
            "subtitle": str(found.root.absolute()),
            "cards": [dict(zip(("name", "value", "to", "warn"), card, strict=True)) for card in cards],
            "imbalance": f"{found.imbalance:.2f}",
            "classes": _cells(found.classes, formats),
            "notes": found.notes,
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
        by_class = readable(found.manifest).groupby("label")["path"]
        samples = [
            {"name": display_name(name), "images": self._tiles(spread(paths.tolist(), SAMPLES))}
            for name, paths in islice(by_class, SAMPLE_CLASSES)
        ]
        outliers = [
            {"name": kind, "images": self._tiles(rows["path"], rows["value"], rows["label"])}
            for kind, rows in found.outliers.groupby("kind", sort=False)
        ]
        broken = found.broken.head(BROKEN)
        return {
            "samples": samples,
            "samples_left_out": by_class.ngroups - len(samples),
            "outliers": outliers,
            "broken": [{"href": self._href(row.path), **row._asdict()} for row in broken.itertuples(index=False)],
            "broken_total": len(found.broken),
        }

    def _duplicates(self) -> dict[str, Any]:
        shown = self.findings.duplicates[self.findings.duplicates["group"] <= GROUPS]
        return {
            "groups": [self._group(rows) for _, rows in shown.groupby("group")],
            "groups_total": len(self.findings.groups),
        }

    def _group(self, rows: pd.DataFrame) -> dict[str, Any]:
        first = rows.iloc[0]
        tags = {"labels": f"{first['labels']} labels", "splits": f"{first['splits']} splits"}
        places = rows["label"] + np.where(rows["split"] == "", "", " · " + rows["split"])
        return {
            "name": f"{len(rows)} {'exact duplicates' if first['kind'] == 'exact' else 'near-duplicates'}",
            "tags": [text for column, text in tags.items() if first[column] > 1],
            "images": self._tiles(rows["path"].head(GROUP_IMAGES), places),
        }

    def _label_errors(self) -> dict[str, Any]:
        errors = self.findings.label_errors
        if errors is None:
            return {"suspects": None, "suspects_total": 0, "unchecked": []}
        shown = errors.table.head(SUSPECTS)
        changes = shown["label"] + " → " + shown["suggested"]
        tiles = self._tiles(shown["path"], changes, shown["probability"].map("{:.0%}".format))
        return {
            "suspects": [tile | {"reason": reason} for tile, reason in zip(tiles, errors.reasons, strict=False)],
            "suspects_total": len(errors.table),
            "unchecked": errors.unchecked,
        }

    def _tiles(self, paths: Iterable[str], *captions: Iterable[str]) -> list[dict[str, Any]]:
        """Path, link, thumbnail and caption lines of images."""
        return [
            {"path": path, "href": self._href(path), "src": thumbnail_uri(self.findings.root / path), "lines": lines}
            for path, *lines in zip(paths, *captions, strict=False)
        ]

    def _href(self, path: str) -> str:
        return self.base + quote(os.fsencode(path))


def _cells(table: pd.DataFrame, formats: dict[str, str]) -> list[list[str]]:
    """Return a table as text, with the header as first row."""
    rows = table.itertuples(index=False, name=None)
    patterns = [formats.get(name, "{}" if name == "class" else "{:,}") for name in table]
    return [list(table.columns), *([p.format(cell) for p, cell in zip(patterns, row, strict=True)] for row in rows)]
