"""Render HTML pages from the templates of this folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

import animals_pl
from animals_pl.files import atomic_write


def write_page(template: str, file: Path, **values: Any) -> None:
    """Render a template to an HTML file.

    Args:
        template: File name of a template. Templates extend ``page.html.jinja``, which has the style and the
            header; ``macros.html.jinja`` has images and tables.
        file: The HTML file to write.
        **values: Variables of the template. A missing one is an error.
    """
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template(template).render(version=animals_pl.__version__, **values)
    with atomic_write(file) as partial:
        partial.write_text(page, encoding="utf-8", errors="replace")
