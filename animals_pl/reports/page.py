"""Render a report's page from its template."""

from __future__ import annotations

from pathlib import Path

import jinja2

import animals_pl
from animals_pl.files import atomic_write


def write_page(file: Path, template: str, **values: object) -> None:
    """Render ``TEMPLATE.html.jinja`` of this folder into a file; a missing value is an error."""
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(f"{template}.html.jinja").render(version=animals_pl.__version__, **values)
    with atomic_write(file) as partial:
        partial.write_text(page, encoding="utf-8", errors="backslashreplace")
