"""Write the rows of all images in the format that was asked for. Standard library only."""

from __future__ import annotations

from animals_pl.deploy.classify_options import Options
from animals_pl.deploy.megadetector import Classifications, folder_of, write_whole_images
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable


def write_format(options: Options, rules: RowRules, table: PredictionTable) -> None:
    """Write the output from the rows of the finished table. A plain table is the output already."""
    if options.format == "megadetector":
        classifications = Classifications(rules.metadata, options.model)
        write_whole_images(options.output, table.rows(), folder_of(options.paths), classifications)
