"""The manifest: a table with one row per image. Its columns are the fields of ``ImageFacts`` in ``image_facts.py``.

A second scan reads only new and changed files.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import posixpath
import signal
import sys
import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from pathlib import Path
from typing import TypeVar, get_type_hints

import numpy as np
import pandas as pd

from animals_pl.data.catalog import Catalog, scan_folder, splits_of_folders
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.columns import (
    READ_ERRORS,
    Columns,
    columns_of,
    concatenate,
    read_columns,
    take,
    write_columns,
)
from animals_pl.data.inspection.duplicates import duplicate_groups
from animals_pl.data.inspection.image_facts import ImageFacts, inspect
from animals_pl.data.strings import Strings
from animals_pl.data.tables import write_table
from animals_pl.errors import UsageError, counted, one_line
from animals_pl.files import cache_dir, track

COLUMNS = ("path", "label", *ImageFacts._fields, "duplicate_group")
"""``path``, ``label`` (a class name), the fields of :class:`ImageFacts`, and the number of the image's group of
duplicates, or -1."""

_FACTS = get_type_hints(ImageFacts)
_TYPES = {"path": str, "label": str, **_FACTS, "duplicate_group": int}
_CACHED = {"path": str, **_FACTS, "duplicate_group": int}
_SCANNED = {name: _CACHED[name] for name in ("path", "sha256", "bytes", "modified", "problem", "duplicate_group")}
"""The columns that training needs: a third of the memory."""

_FORMAT = 5
"""Cache format version. Bump when the facts about an unchanged file change."""

_MIN_FILES_FOR_PROCESSES = 256
"""With fewer files, starting processes costs more time than it saves."""

_PART = 2**14
"""Files inspected and rows converted at a time; bounds the memory."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes:
        columns: Columns of the manifest, with one row per image, in the catalog's order: path, label, sha256, bytes,
            modified, problem and duplicate_group, and all others if any file was read.
        inspected: Number of files that were read. The others were cached and unchanged.
        seconds: Time to read them.
        cache: The file with the other columns.
    """

    columns: Columns
    inspected: int
    seconds: float
    cache: Path = Path()

    @cached_property
    def manifest(self) -> pd.DataFrame:
        """The columns as a table with :data:`COLUMNS`, for reports: it needs several times their memory.

        Raises:
            UsageError: The cache is damaged, or another process has changed it since the scan.
        """
        columns = self.columns
        if columns.keys() != set(COLUMNS):
            columns = self._cached() | columns
        cells = {name: list(each) if isinstance(each, Strings) else each for name, each in columns.items()}
        return pd.DataFrame({name: pd.Series(cells[name], dtype=_TYPES[name]) for name in COLUMNS})

    def _cached(self) -> Columns:
        try:
            columns = read_columns(self.cache, _CACHED)
            if columns["path"] != self.columns["path"]:
                raise ValueError("it has changed since the scan")
        except READ_ERRORS as error:
            raise UsageError(
                f"{str(self.cache)!r} cannot be read ({one_line(error)}). Remove it and repeat."
            ) from error
        return columns

    def __str__(self) -> str:
        """Number of images read, time and speed."""
        known = len(self.columns["path"]) - self.inspected
        unchanged = f" ({known:,} unchanged)" if known else ""
        speed = f" in {self.seconds:.1f} s, {self.inspected / self.seconds:,.0f}/s" if self.inspected else ""
        return f"{counted(self.inspected, 'image')} read{speed}{unchanged}"


def scan(catalog: Catalog) -> Scan:
    """Inspect the images of a catalog that are new or changed since the last scan of the folder.

    Results are cached in the cache folder. Nothing is written next to the images.
    """
    paths, cache = Strings.of(catalog.paths), _cache_file(catalog.root)
    before = _read_cache(cache, _SCANNED)
    rows = Strings.of(before["path"]).index_of(paths)
    stale = np.flatnonzero(_changed(catalog.root, paths, rows, before))
    labels = Strings.of(catalog.class_names).take(catalog.labels)
    if not len(stale) and before["path"] == paths:
        return Scan({**before, "label": labels}, 0, 0.0, cache)
    cached = _read_cache(cache, _CACHED)
    if cached["path"] != before["path"]:  # damaged in another column, or replaced in the meantime
        cached, stale = columns_of([], _CACHED), np.arange(len(paths))
    rows[stale] = len(cached["path"]) + np.arange(len(stale))
    began = time.perf_counter()
    new = _inspect_columns(catalog.root, paths.take(stale))
    seconds = time.perf_counter() - began
    facts = take(concatenate([{name: cached[name] for name in _FACTS}, *new]), rows)
    columns: Columns = {"path": paths, **facts, "duplicate_group": _groups(catalog.root, paths, facts)}
    _write_cache(columns, cache)
    return Scan({**columns, "label": labels}, len(stale), seconds, cache)


def _read_cache(cache: Path, types: dict[str, type]) -> Columns:
    try:
        return read_columns(cache, types)
    except READ_ERRORS:  # no earlier scan, or its file is damaged
        return columns_of([], types)


def _changed(root: Path, paths: Strings, rows: np.ndarray, facts: Columns) -> np.ndarray:
    """Whether each image (N,) has no row (-1), or its file has changed since the row was made."""
    known = np.flatnonzero(rows >= 0)
    status = chain.from_iterable(_size_and_time(f"{root}/{path}") for path in paths.take(known))
    now = np.fromiter(status, dtype=np.int64).reshape(-1, 2)
    before = np.stack([facts["bytes"], facts["modified"]], axis=1)[rows[known]]
    changed = rows < 0
    changed[known] = (now != before).any(axis=1)
    return changed


def _size_and_time(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)  # noqa: PTH116 - a Path takes twice the time
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _groups(root: Path, paths: Strings, facts: Columns) -> np.ndarray:
    digests = zip(facts["sha256"], facts["problem"], strict=True)
    return duplicate_groups(
        [digest if not problem else "" for digest, problem in digests],  # broken files are not duplicates
        Strings.of(facts["perceptual_hash"]),
        Strings.of(facts["centre_hash"]),
        lambda i, j: same_picture(root / paths[i], root / paths[j]),
    )


def _inspect_columns(root: Path, paths: Strings) -> list[Columns]:
    """Facts about files, as columns of at most :data:`_PART` rows each."""
    found = _inspect_each((root / path for path in paths), len(paths))
    return [columns_of(part, _FACTS) for part in _parts(found)]


def inspect_all(files: Sequence[Path]) -> list[ImageFacts]:
    """Facts about files, in the same order. Reads them on all cores, with a progress bar."""
    return list(_inspect_each(files, len(files)))


def _inspect_each(files: Iterable[Path], count: int) -> Iterator[ImageFacts]:
    progress = partial(track, description="reading images", total=count)
    if count < _MIN_FILES_FOR_PROCESSES:
        yield from progress(map(inspect, files))
        return
    # Fork as torch does: fast, and works in scripts without a __main__ guard.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # Workers ignore SIGINT; the parent handles Ctrl-C.
    with ProcessPoolExecutor(
        mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        # pool.map() submits all of its files at once, so it gets them in parts.
        yield from progress(facts for part in _parts(files) for facts in pool.map(inspect, part, chunksize=32))


def _parts(items: Iterable[Item]) -> Iterator[list[Item]]:
    remaining = iter(items)
    while part := list(islice(remaining, _PART)):
        yield part


def _cache_file(root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    return cache_dir() / "manifests" / f"{root.resolve().name[:40]}-{digest}-{_FORMAT}.npz"


def _write_cache(columns: Columns, cache: Path) -> None:
    try:
        write_columns(columns, cache)
    except OSError as error:  # not fatal: the next scan reads all files again
        warnings.warn(
            f"cannot cache the scan in {str(cache.parent)!r} ({error.strerror}). "
            "Set ANIMALS_PL_CACHE to a writable folder.",
            stacklevel=3,
        )


def _read(file: Path) -> pd.DataFrame:
    types = _TYPES | {"path": object, "label": object}
    return pd.read_csv(file, dtype=types, keep_default_na=False, encoding_errors="surrogateescape")[list(COLUMNS)]


def write_manifest(manifest: pd.DataFrame, root: Path, file: Path) -> None:
    """Write the manifest of a scan of ``root`` as CSV, with paths relative to the file's own folder."""
    to_root = Path(os.path.relpath(root.absolute(), file.parent.resolve()))
    write_table(manifest.assign(path=[(to_root / path).as_posix() for path in manifest["path"]]), file)


def is_manifest(file: Path) -> bool:
    """Whether a file is a manifest of any version (the first two columns never change)."""
    with file.open(encoding="utf-8", errors="replace") as stream:
        return stream.readline().startswith(",".join(COLUMNS[:2]))


def groups_by(column: str, images: pd.DataFrame) -> pd.DataFrame:
    """Groups of images of a manifest that share a value of a column, such as ``duplicate_group``.

    Returns:
        One row per value that several images share: ``first`` (path), ``size`` (number of images), ``sha256`` and
        ``labels`` (number of different ones).
    """
    groups = images.groupby(column).agg(
        first=("path", "first"), size=("path", "size"), sha256=("sha256", "nunique"), labels=("label", "nunique")
    )
    return groups[groups["size"] > 1]


def catalog_of(source: str | Path, argument: str = "data.root") -> Catalog:
    """Catalog of a folder-per-class dataset or of a manifest file.

    Args:
        source: A folder, or a file written by :func:`write_manifest`.
        argument: Name of the option that ``source`` came from, for messages.

    Raises:
        UsageError: The source is neither, or images of the manifest no longer exist.
    """
    source = Path(source)
    if not source.is_file():
        return scan_folder(source, argument=argument)
    try:
        table = _read(source).sort_values("path")
    except (OSError, ValueError, KeyError, OverflowError) as error:
        old = isinstance(error, KeyError) and is_manifest(source)
        fault = "was written by another version" if old else f"is not a manifest ({one_line(error)})"
        raise UsageError(f"{argument}={str(source)!r} {fault}. Run prepare again, or pass a folder.") from error
    if table.empty:
        raise UsageError(f"{argument}={str(source)!r} lists no images. Pass another manifest, or a folder.")
    gone = [path for path in table["path"] if not os.path.lexists(source.parent / path)]
    if gone:
        raise UsageError(
            f"{argument}={str(source)!r} lists {counted(len(gone), 'missing image')} (first: {gone[0]}). "
            "Run prepare again, or pass the folder."
        )
    class_names, labels = np.unique(table["label"].to_numpy(dtype=str), return_inverse=True)
    prefix, split_folders = _layout(table)
    paths = [path.removeprefix(prefix) for path in table["path"]]
    root = Path(os.path.normpath(source.parent.resolve() / prefix))
    return Catalog(root, class_names.tolist(), Strings.of(paths), labels.astype(np.int64), split_folders=split_folders)


def _layout(table: pd.DataFrame) -> tuple[str, dict[str, str]]:
    """Common path prefix and folder → split mapping of a manifest. Without the prefix, paths match scan_folder()."""
    rows = zip(table["path"], table["label"], strict=True)
    above = {f"/{path}".partition(f"/{label}/")[0].removeprefix("/") for path, label in rows}
    names, parents = set(map(posixpath.basename, above)), set(map(posixpath.dirname, above))
    split_of = splits_of_folders(names)
    has_splits = len(parents) == 1 and len(names) == len(split_of) > 1
    above = parents if has_splits else above
    folder = above.pop() if len(above) == 1 else ""
    return f"{folder}/" if folder else "", split_of if has_splits else {}
