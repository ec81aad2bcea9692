"""CSV files: written whole or not at all, read as people leave them."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path

import pandas as pd

from animals_pl.errors import UsageError, did_you_mean


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV, whole or not at all; file names of any bytes survive."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    # With this line end, names that hold a carriage return are quoted, too.
    table.to_csv(partial, index=False, errors="surrogateescape", lineterminator="\r\n")
    partial.replace(file)


def read_rows(file: Path, argument: str, *columns: str) -> list[dict[str, str]]:
    """Read a CSV file that a person may have edited; a cell that is not there is empty.

    Args:
        file: The file.
        argument: The option that it was given as, for messages.
        columns: Those that it must have.

    Raises:
        UsageError: It is absent, is no CSV text or lacks a column.
    """
    if not file.is_file():
        raise UsageError(f"{argument}={str(file)!r} is not a file; mend the path or leave {argument} out")
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front
        text = file.read_bytes().decode("utf-8-sig", errors="surrogateescape")
        if "\0" in text:
            raise csv.Error("it holds zeros, as text in another encoding does")
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = [{name: cell or "" for name, cell in row.items() if name is not None} for row in reader]
    except csv.Error as error:
        raise UsageError(f"{argument}={str(file)!r} cannot be read as CSV ({error}); save it as UTF-8 text") from error
    known = list(reader.fieldnames or [])
    for name in columns:
        if name not in known:
            raise UsageError(
                f"{argument}={str(file)!r} has no column {name!r}; {did_you_mean(name, known)}"
                f"it has {', '.join(known) or 'none'}"
            )
    return rows
