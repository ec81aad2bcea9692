"""Read and write CSV files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pandas as pd

from animals_pl.errors import UsageError, did_you_mean
from animals_pl.files import atomic_write


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV atomically. File names that are not valid UTF-8 are preserved."""
    with atomic_write(file) as partial:
        # With \r\n, pandas also quotes names that contain a carriage return.
        table.to_csv(partial, index=False, errors="surrogateescape", lineterminator="\r\n")


def read_rows(file: Path, argument: str, *columns: str) -> list[dict[str, str]]:
    """Read a CSV file that may have been edited by hand. Missing cells are empty strings.

    Args:
        file: The file.
        argument: Name of the option that ``file`` came from.
        columns: Required columns.

    Raises:
        UsageError: The file is missing, is not CSV text or lacks a column.
    """
    if not file.is_file():
        raise UsageError(f"{argument}={str(file)!r} is not a file. Fix the path or remove {argument}.")
    try:
        # utf-8-sig: spreadsheets write a byte-order mark
        text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        if "\0" in text:
            raise csv.Error("it contains null bytes; is it UTF-16?")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{name: cell or "" for name, cell in row.items() if name is not None} for row in reader]
    except csv.Error as error:
        raise UsageError(f"{argument}={str(file)!r} cannot be read as CSV ({error}). Save it as UTF-8 text.") from error
    known = list(reader.fieldnames or [])
    for name in columns:
        if name not in known:
            raise UsageError(
                f"{argument}={str(file)!r} has no column {name!r}; {did_you_mean(name, known)}"
                f"it has {', '.join(known) or 'none'}."
            )
    return rows
