"""Tables as one array per column, and the files that keep them."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from animals_pl.data.strings import Strings
from animals_pl.files import atomic_write

Column = Strings | np.ndarray
Columns = dict[str, Column]

READ_ERRORS = (OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""Errors of :func:`read_columns` for a missing or damaged file."""

_OFFSETS = ".offsets"


def columns_of(rows: Iterable[Sequence[Any]], types: Mapping[str, type]) -> Columns:
    """Columns of rows (N tuples) whose fields have these names and types (str, int or float)."""
    cells = list(zip(*rows, strict=True)) or [()] * len(types)
    return {
        name: Strings.of(column) if kind is str else np.array(column, dtype=_dtype(kind))
        for (name, kind), column in zip(types.items(), cells, strict=True)
    }


def concatenate(parts: Sequence[Columns]) -> Columns:
    """The rows of all parts, at least one."""
    return {name: _concatenate([part[name] for part in parts]) for name in parts[0]}


def _concatenate(columns: Sequence[Any]) -> Column:
    return Strings.concatenate(columns) if isinstance(columns[0], Strings) else np.concatenate(columns)


def take(columns: Columns, indices: np.ndarray) -> Columns:
    """The rows at the given indices (K,)."""
    return {
        name: column.take(indices) if isinstance(column, Strings) else column[indices]
        for name, column in columns.items()
    }


def write_columns(columns: Columns, file: Path) -> None:
    """Write a table as an uncompressed .npz file, atomically. Strings are two arrays, ``NAME`` and ``NAME.offsets``."""
    arrays: dict[str, Any] = {}
    for name, column in columns.items():
        if isinstance(column, Strings):
            arrays |= {name: column.content, name + _OFFSETS: column.offsets}
        else:
            arrays[name] = column
    with atomic_write(file) as partial, partial.open("wb") as stream:
        np.savez(stream, **arrays)


def read_columns(file: Path, types: Mapping[str, type]) -> Columns:
    """Read a table of :func:`write_columns` with columns of these names and types.

    Raises:
        OSError, ValueError, KeyError, EOFError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error: The file is
            missing or damaged.
    """
    columns: Columns = {}
    with np.load(file, allow_pickle=False) as arrays:
        for name, kind in types.items():
            if kind is str:
                columns[name] = Strings(arrays[name], arrays[name + _OFFSETS])
            else:
                columns[name] = arrays[name]
                if columns[name].dtype != _dtype(kind):  # type: ignore[union-attr]
                    raise ValueError(f"column {name!r} has another type")
    if len({len(column) for column in columns.values()}) > 1:
        raise ValueError("the columns have different lengths")
    return columns


def _dtype(kind: type) -> Any:
    return np.int64 if kind is int else np.float64
