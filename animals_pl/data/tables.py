"""CSV files: written whole or not at all, read as people leave them."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pandas as pd

from animals_pl.errors import UsageError


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV, whole or not at all; file names of any bytes survive."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    # With this line end, names that hold a carriage return are quoted, too.
    table.to_csv(partial, index=False, errors="surrogateescape", lineterminator="\r\n")
    partial.replace(file)


def read_rows(file: Path, argument: str) -> list[dict[str, str]]:
    """Read a CSV file that a person may have edited.

    Raises:
        UsageError: It is absent or no CSV text; the message names ``argument``.
    """
    if not file.is_file():
        raise UsageError(f"{argument}={str(file)!r} is not a file; mend the path or leave {argument} out")
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            return list(csv.DictReader(stream))
    except (UnicodeError, csv.Error) as error:
        raise UsageError(f"{argument}={str(file)!r} cannot be read as CSV ({error}); save it as UTF-8 text") from error
