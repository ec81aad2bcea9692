"""Render report pages from their templates, with figures as data URIs."""

from __future__ import annotations

import io
from pathlib import Path

import jinja2
from matplotlib.figure import Figure

import animals_pl
from animals_pl.files import atomic_write
from animals_pl.reports.thumbnails import data_uri

FIGURE_DPI = 110


def write_page(file: Path, template: str, **values: object) -> None:
    """Render ``TEMPLATE.html.jinja`` of this folder into a file; a missing value is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(f"{template}.html.jinja").render(version=animals_pl.__version__, **values)
    with atomic_write(file) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")


def figure_uri(figure: Figure) -> str:
    """Return a figure as the data URI of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=FIGURE_DPI, format="png")
    return data_uri("png", buffer.getvalue())
