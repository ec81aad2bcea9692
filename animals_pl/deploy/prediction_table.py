"""A CSV or JSON Lines file with one row per image, which can be continued. Standard library only."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TypeAlias

from animals_pl.errors import UsageError
from animals_pl.files import atomic_write, is_stream

Row: TypeAlias = dict[str, Any]
"""Column → value. Values that were read from CSV are text."""

JSON_LINES = ".jsonl"

MOST_TORN = 2**20
"""Maximum size of an incomplete last row in bytes. If it is longer, the file is damaged and nothing is removed."""


def require_suffix(file: Path) -> None:
    """Raise a :class:`UsageError` if a file has the suffix of another format. A stream may have any."""
    if file.suffix.lower() not in {".csv", JSON_LINES} and not is_stream(file):
        raise UsageError(f"output={str(file)!r} ends in neither .csv nor {JSON_LINES}. Rename it.")


class PredictionTable:
    """A table of predictions, used as a context manager to append rows.

    Only the positions of the rows in the file, by path and by content, are kept in memory.

    Args:
        file: The file, or a stream. With the suffix ``.jsonl`` each line is a JSON object, otherwise it is CSV.
        columns: Names of the columns, among them ``path`` and ``sha256``.
    """

    def __init__(self, file: Path, columns: Sequence[str]) -> None:
        self._file = file
        self._columns = list(columns)
        self._is_csv = file.suffix.lower() != JSON_LINES
        self._by_path: dict[int, int] = {}
        self._by_content: dict[int, int] = {}
        self._outdated: set[int] = set()

    def __enter__(self) -> Self:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        is_new = is_stream(self._file) or not self._file.exists() or not self._file.stat().st_size
        self._stream = self._file.open("ab")
        if is_new and self._is_csv:
            self._stream.write(_csv_record(self._columns))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        if kind is None and self._outdated:
            self._remove_outdated()

    def resume(self, fault_of: Callable[[Row], str]) -> None:
        """Index the rows in the file, and remove an incomplete one at its end.

        Args:
            fault_of: Returns why a row cannot be in this table; empty if it can.

        Raises:
            UsageError: The file has other columns, is damaged, or a row has a fault.
        """
        if not self._file.exists():
            return
        end = 0
        with self._file.open("rb") as stream:
            for offset, record in self._records(stream):
                end = offset + len(record)
                if offset == 0 and self._is_csv:
                    self._require_columns(_csv_cells(record))
                    continue
                row = self._decode(record)
                if fault := fault_of(row):
                    raise self._error(fault)
                self._add(row, offset)
        torn = self._file.stat().st_size - end
        if torn > MOST_TORN:
            raise self._error(f"it is damaged from byte {end:,} on")
        if torn:
            os.truncate(self._file, end)

    def find_path(self, path: str) -> Row | None:
        """The row that a path had when the table was resumed, if any."""
        return self._find("path", path, self._by_path)

    def find_content(self, sha256: str) -> Row | None:
        """A row that a file with this content had when the table was resumed, if any."""
        return self._find("sha256", sha256, self._by_content)

    def rows(self) -> Iterator[Row]:
        """All rows of the file, when no more will be appended."""
        with self._file.open("rb") as stream:
            for offset, record in self._records(stream):
                if offset or not self._is_csv:
                    yield self._decode(record)

    def write_copy(self, output: Path, rows: Iterable[Row]) -> None:
        """Write a table with these columns, in this format and with other rows. The output may be this file."""
        with atomic_write(output) as partial, partial.open("wb") as stream:
            if self._is_csv:
                stream.write(_csv_record(self._columns))
            stream.writelines(map(self._encode, rows))

    def append(self, rows: Sequence[Row]) -> None:
        """Append rows. The earlier rows of the same paths are removed from the file at the end."""
        self._outdated |= {self._by_path[key] for row in rows if (key := hash(row["path"])) in self._by_path}
        self._stream.write(b"".join(map(self._encode, rows)))
        self._stream.flush()

    def _add(self, row: Row, offset: int) -> None:
        key = hash(row["path"])
        if key in self._by_path:  # the process was killed before it removed the earlier row
            self._outdated.add(self._by_path[key])
        self._by_path[key] = offset
        if row["sha256"]:
            self._by_content[hash(row["sha256"])] = offset

    def _find(self, column: str, value: str, places: dict[int, int]) -> Row | None:
        offset = places.get(hash(value))
        if offset is None:
            return None
        with self._file.open("rb") as stream:  # opened for each row, since threads may share the table
            stream.seek(offset)
            _, record = next(self._records(stream))
        row = self._decode(record)
        return row if row[column] == value else None

    def _remove_outdated(self) -> None:
        with atomic_write(self._file) as partial, self._file.open("rb") as old, partial.open("wb") as new:
            new.writelines(record for offset, record in self._records(old) if offset not in self._outdated)

    def _records(self, stream: BinaryIO) -> Iterator[tuple[int, bytes]]:
        """Yield the complete records of a file and where they start. Names in CSV may contain newlines."""
        offset, quotes = 0, 0
        lines: list[bytes] = []
        for line in stream:
            lines.append(line)
            quotes += line.count(b'"') if self._is_csv else 0
            if line.endswith(b"\r\n" if self._is_csv else b"\n") and quotes % 2 == 0:
                record = b"".join(lines)
                yield offset, record
                offset += len(record)
                lines, quotes = [], 0

    def _encode(self, row: Row) -> bytes:
        values = [row[column] for column in self._columns]
        if self._is_csv:
            return _csv_record(values)
        return json.dumps(dict(zip(self._columns, values, strict=True))).encode("ascii") + b"\n"

    def _decode(self, record: bytes) -> Row:
        try:
            if self._is_csv:
                return dict(zip(self._columns, _csv_cells(record), strict=True))
            row = json.loads(record)
        except ValueError as error:
            raise self._error(f"it has a row that cannot be read: {record[:100]!r}") from error
        self._require_columns(list(row) if isinstance(row, dict) else [])
        return row

    def _require_columns(self, columns: list[str]) -> None:
        if columns != self._columns:
            raise self._error("its columns differ, as with another top_k or sequence")

    def _error(self, fault: str) -> UsageError:
        return UsageError(f"output={str(self._file)!r} cannot be continued: {fault}. Choose another output.")


def _csv_record(values: Sequence[object]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerow(values)  # ends in \r\n; the module then quotes names with either character
    return text.getvalue().encode(errors="surrogateescape")


def _csv_cells(record: bytes) -> list[str]:
    try:
        return next(csv.reader([record.decode(errors="surrogateescape")]))
    except csv.Error as error:
        raise ValueError(str(error)) from error
