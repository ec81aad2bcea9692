"""Read and write CSV files."""

from __future__ import annotations

import codecs
import csv
import io
import posixpath
import re
import unicodedata
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from animals_pl.errors import UsageError, did_you_mean
from animals_pl.files import atomic_write

pd.set_option("mode.string_storage", "python")  # pyarrow's strings, the default if it is installed, must be UTF-8


def write_table(table: pd.DataFrame, file: Path) -> None:
    """Write a table as CSV atomically. File names that are not valid UTF-8 are preserved."""
    with atomic_write(file) as partial:
        # With \r\n, pandas also quotes names that contain a carriage return.
        table.to_csv(partial, index=False, errors="surrogateescape", lineterminator="\r\n")


def read_rows(file: Path, argument: str, *columns: str) -> list[dict[str, str]]:
    """Read a CSV file that may have been edited by hand. Missing cells are empty strings.

    Columns are separated by commas, semicolons or tabs, or by the character in a first line such as ``sep=;``. The text
    is UTF-8, or UTF-16 with a byte-order mark. Column names are not case-sensitive; other columns are returned in lower
    case.

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
        text = _decode(file.read_bytes())
        separator = re.match(r"sep=([,;|\t])\r?\n", text)  # Excel
        text, delimiters = (text[separator.end() :], separator[1]) if separator else (text, ",;\t")
        readers = [csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter) for delimiter in delimiters]
        headers = [_columns(reader.fieldnames or [], columns) for reader in readers]
        reader, header = max(zip(readers, headers, strict=True), key=lambda pair: len({*columns} & {*pair[1].values()}))
        rows = [{header[name]: cell or "" for name, cell in row.items() if name is not None} for row in reader]
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{argument}={str(file)!r} cannot be read as CSV ({error}). Save it as UTF-8 text.") from error
    for name in columns:
        if name not in header.values():
            raise UsageError(
                f"{argument}={str(file)!r} has no column {name!r}. {did_you_mean(name, header)}"
                f"It has {', '.join(header) or 'none'}."
            )
    return rows


def _columns(header: Sequence[str], wanted: Sequence[str]) -> dict[str, str]:
    """Name in the header → its column: the wanted one if only case or spaces differ, else the name in lower case."""
    column_of = {name: name.strip().lower() for name in header}
    for column in wanted:
        same = [name for name in header if name.strip().lower() == column.lower()]
        column_of |= dict(zip(same, same, strict=True))
        if same:
            column_of[column if column in same else same[0]] = column
    return column_of


def _decode(content: bytes) -> str:
    is_utf_16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = content.decode("utf-16") if is_utf_16 else content.decode("utf-8-sig", errors="surrogateescape")
    if "\0" in text:
        raise csv.Error("it contains null characters")
    return text


def read_image_rows(
    file: Path, argument: str, root: Path, known: Collection[str], *columns: str
) -> list[dict[str, str]]:
    """Read a CSV file with a column ``path``, and rewrite the paths as in ``known``.

    A path may be relative to the dataset or to the file's folder, or absolute. It may have backslashes, another Unicode
    normalization form (as from macOS) or Windows-1252 encoding. Paths that match no known image are returned unchanged.

    Args:
        file: The file.
        argument: Name of the option that ``file`` came from.
        root: Folder of the dataset.
        known: Paths of its images, relative to ``root``.
        columns: Further required columns.

    Raises:
        UsageError: See :func:`read_rows`.
    """
    rows = read_rows(file, argument, "path", *columns)
    exact, normal = set(known), {_normal(path): path for path in known}
    roots = {_normal(str(place)) for place in (root.absolute(), root.resolve())}
    for row in rows:
        if row["path"] in exact or not row["path"]:
            continue
        path = _normal(row["path"])
        places = {_normal(str(place)) for place in (file.parent.absolute() / path, (file.parent / path).resolve())}
        relative = [place.removeprefix(f"{base}/") for place in places for base in roots]
        row["path"] = next((normal[name] for name in [path, *relative] if name in normal), row["path"])
    return rows


def _normal(path: str) -> str:
    """Path with slashes, in Unicode NFC; bytes that are not UTF-8 are read as Windows-1252."""
    if any("\udc80" <= character <= "\udcff" for character in path):
        path = path.encode(errors="surrogateescape").decode("cp1252", errors="replace")
    return posixpath.normpath(unicodedata.normalize("NFC", path.replace("\\", "/")))
