"""Write the rows of all images in the requested format."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC

from animals_pl.deploy.camtrap_dp import Package
from animals_pl.deploy.classify_options import Options
from animals_pl.deploy.deployments import Deployments, read_deployments
from animals_pl.deploy.megadetector import Classifications, folder_of, write_whole_images
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable, Row
from animals_pl.deploy.sequences import Sequences

Rows = Callable[[], Iterable[Row]]
"""Returns the rows of all images; it can be called several times."""


def write_output(options: Options, rules: RowRules, table: PredictionTable) -> None:
    """Write the output from the rows of the finished table, with sequences if requested.

    A table without sequences is already complete and is not written again.
    """
    rows: Rows = table.rows
    if options.gap is not None:
        sequences = Sequences(table.rows(), rules, options.gap)
        rows = lambda: sequences.add_to(table.rows())  # noqa: E731
    if options.format is not None:
        WRITERS[options.format](options, rules, rows)
    elif options.gap is not None:
        table.write_copy(options.output, rows())


def _write_megadetector(options: Options, rules: RowRules, rows: Rows) -> None:
    classifications = Classifications(rules.metadata, options.model)
    write_whole_images(options.output, rows(), folder_of(options.paths), classifications)


def _write_camtrap_dp(options: Options, rules: RowRules, rows: Rows) -> None:
    base = folder_of(options.paths)
    zone = options.zone or UTC
    table = {} if options.deployments is None else read_deployments(options.deployments, zone)
    Package(rules.metadata, options.model, zone, Deployments(table, base), base).write(options.output, rows)


WRITERS: dict[str, Callable[[Options, RowRules, Rows], None]] = {
    "megadetector": _write_megadetector,
    "camtrap-dp": _write_camtrap_dp,
}
"""Format → function that writes it."""
