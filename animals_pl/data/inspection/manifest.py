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
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd

from animals_pl.data.catalog import Catalog, scan_folder, splits_of_folders
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import duplicate_groups
from animals_pl.data.inspection.image_facts import ImageFacts, inspect
from animals_pl.data.tables import write_table
from animals_pl.errors import UsageError, counted, one_line
from animals_pl.files import cache_dir, track

COLUMNS = ("path", "label", *ImageFacts._fields, "duplicate_group")
"""``path``, ``label`` (a class name), the fields of :class:`ImageFacts`, and the number of the image's group of
duplicates, or -1."""

_FACTS = get_type_hints(ImageFacts)
_TYPES = {"path": object, "label": object, **_FACTS, "duplicate_group": int}

_FORMAT = 4
"""Cache format version. Bump when the facts about an unchanged file change."""

_MIN_FILES_FOR_PROCESSES = 256
"""With fewer files, starting processes costs more time than it saves."""


@dataclass(frozen=True)
class Scan:
    """Result of a scan.

    Attributes:
        manifest: One row per image, in the catalog's order, with :data:`COLUMNS`.
        inspected: Number of files that were read. The others were cached and unchanged.
        seconds: Time to read them.
    """

    manifest: pd.DataFrame
    inspected: int
    seconds: float

    def __str__(self) -> str:
        """Number of images read, time and speed."""
        known = len(self.manifest) - self.inspected
        unchanged = f" ({known:,} unchanged)" if known else ""
        speed = f" in {self.seconds:.1f} s, {self.inspected / self.seconds:,.0f}/s" if self.inspected else ""
        return f"{counted(self.inspected, 'image')} read{speed}{unchanged}"


def scan(catalog: Catalog) -> Scan:
    """Inspect the images of a catalog that are new or changed since the last scan of the folder.

    Results are cached in the cache folder. Nothing is written next to the images.
    """
    cache = _cache_file(catalog.root)
    try:
        before = _read(cache)
    except _READ_ERRORS:  # no earlier scan, or its file is damaged
        before = pd.DataFrame(columns=list(COLUMNS))
    facts = before[list(ImageFacts._fields)].itertuples(index=False, name=None)
    known = dict(zip(before["path"], map(ImageFacts._make, facts), strict=True))
    rows = [known.get(path) for path in catalog.paths]
    files = [catalog.root / path for path in catalog.paths]
    stale = [index for index, row in enumerate(rows) if row is None or _changed(files[index], row)]
    began = time.perf_counter()
    for index, row in zip(stale, inspect_all([files[index] for index in stale]), strict=True):
        rows[index] = row
    seconds = time.perf_counter() - began
    table = pd.DataFrame(rows, columns=list(ImageFacts._fields)).astype(_FACTS)
    table.insert(0, "path", catalog.paths)
    table.insert(1, "label", [catalog.class_names[label] for label in catalog.labels])
    if not stale and before["path"].tolist() == catalog.paths:
        table["duplicate_group"] = before["duplicate_group"]
    else:
        table["duplicate_group"] = duplicate_groups(
            table["sha256"].where(table["problem"] == "", "").tolist(),  # broken files are not duplicates
            table["perceptual_hash"].tolist(),
            table["centre_hash"].tolist(),
            lambda i, j: same_picture(files[i], files[j]),
        )
        _write_cache(table, cache)
    return Scan(table, len(stale), seconds)


def inspect_all(files: Sequence[Path]) -> list[ImageFacts]:
    """Facts about files, in the same order. Reads them on all cores, with a progress bar."""
    progress = partial(track, description="reading images", total=len(files))
    if len(files) < _MIN_FILES_FOR_PROCESSES:
        return list(progress(map(inspect, files)))
    # Fork as torch does: fast, and works in scripts without a __main__ guard.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    # Workers ignore SIGINT; the parent handles Ctrl-C.
    with ProcessPoolExecutor(
        mp_context=context, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)
    ) as pool:
        return list(progress(pool.map(inspect, files, chunksize=32)))


def _changed(file: Path, row: ImageFacts) -> bool:
    try:
        status = file.stat()
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (row.bytes, row.modified)


def _cache_file(root: Path) -> Path:
    digest = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    return cache_dir() / "manifests" / f"{root.resolve().name[:40]}-{digest}-{_FORMAT}.csv"


def _write_cache(table: pd.DataFrame, cache: Path) -> None:
    try:
        write_table(table, cache)
    except OSError as error:  # not fatal: the next scan reads all files again
        warnings.warn(
            f"cannot cache the scan in {str(cache.parent)!r} ({error.strerror}). "
            "Set ANIMALS_PL_CACHE to a writable folder.",
            stacklevel=3,
        )


_READ_ERRORS = (OSError, ValueError, KeyError, OverflowError)


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=_TYPES, keep_default_na=False, encoding_errors="surrogateescape")[list(COLUMNS)]


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
        One row per value of two or more images: ``first`` (path), ``size`` (number of images), ``sha256`` and
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
    except _READ_ERRORS as error:
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
    return Catalog(root, class_names.tolist(), paths, labels.astype(np.int64), split_folders=split_folders)


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
