"""The manifest: one row per image with all that is known about it; a second scan reads only what changed."""

from __future__ import annotations

import hashlib
import multiprocessing
import os
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pandas as pd
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import duplicate_groups
from animals_pl.data.inspection.facts import ImageFacts, inspect
from animals_pl.data.tables import write_table
from animals_pl.errors import UsageError
from animals_pl.files import cache_dir

COLUMNS = ("path", "label", *ImageFacts._fields, "duplicate_group")
"""``path`` and ``label`` (a class name), what :class:`ImageFacts` found, and the number of the group of duplicates
that the image belongs to, or -1."""

_FACTS = get_type_hints(ImageFacts)
_TYPES = {"path": object, "label": object, **_FACTS, "duplicate_group": int}

_FORMAT = 1
"""To be raised when an inspection finds something else in the same file: older caches are then left alone."""

_WORTH_PROCESSES = 256
"""From this many files on, more processes save more time than they take to start."""


@dataclass(frozen=True)
class Scan:
    """What a scan found.

    Attributes:
        manifest: One row per image, in the catalog's order, with :data:`COLUMNS`.
        inspected: How many files were read; the others were known and unchanged.
        seconds: How long reading them took.
    """

    manifest: pd.DataFrame
    inspected: int
    seconds: float

    def __str__(self) -> str:
        """Return how many images were read, and how fast."""
        known = len(self.manifest) - self.inspected
        unchanged = f" ({known:,} known and unchanged)" if known else ""
        speed = f" in {self.seconds:.1f} s, {self.inspected / self.seconds:,.0f}/s" if self.inspected else ""
        plural = "" if self.inspected == 1 else "s"
        return f"{self.inspected:,} image{plural} read{speed}{unchanged}"


def scan(catalog: Catalog) -> Scan:
    """Inspect every image of a catalog that is new or changed since the last scan of the same folder.

    What was found is kept in the cache folder; nothing is written beside the images.
    """
    cache = _cache_file(catalog.root)
    before = _read_cache(cache)
    facts = before[list(ImageFacts._fields)].itertuples(index=False, name=None)
    known = dict(zip(before["path"], map(ImageFacts._make, facts), strict=True))
    rows = [known.get(path) for path in catalog.paths]
    files = [catalog.root / path for path in catalog.paths]
    stale = [index for index, row in enumerate(rows) if row is None or _changed(files[index], row)]
    began = time.perf_counter()
    found = inspect_all([files[index] for index in stale])
    seconds = time.perf_counter() - began
    for index, row in zip(stale, found, strict=True):
        rows[index] = row
    table = pd.DataFrame(rows, columns=list(ImageFacts._fields)).astype(_FACTS)
    table.insert(0, "path", catalog.paths)
    table.insert(1, "label", [catalog.class_names[label] for label in catalog.labels])
    if not stale and before["path"].tolist() == catalog.paths:
        table["duplicate_group"] = before["duplicate_group"]
    else:
        table["duplicate_group"] = duplicate_groups(
            table["sha256"].where(table["problem"] == "", "").tolist(),  # broken files are broken, not duplicates
            table["perceptual_hash"].tolist(),
            table["centre_hash"].tolist(),
            lambda i, j: same_picture(files[i], files[j]),
        )
        _keep(table, cache)
    return Scan(table, len(stale), seconds)


def inspect_all(files: Sequence[Path]) -> list[ImageFacts]:
    """Inspect files on every core, with a progress bar where a person watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[speed]}"))
    watched = sys.stderr.isatty()
    with Progress(
        *columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True, disable=not watched
    ) as bar:
        task = bar.add_task("reading images", total=len(files), speed="")
        found: list[ImageFacts] = []
        began = time.perf_counter()
        for inspection in _inspections(files):
            found.append(inspection)
            if watched and len(found) % 64 == 0:
                bar.update(task, completed=len(found), speed=f"{len(found) / (time.perf_counter() - began):,.0f}/s")
    return found


def _inspections(files: Sequence[Path]) -> Iterator[ImageFacts]:
    if len(files) < _WORTH_PROCESSES:
        yield from map(inspect, files)
        return
    # As torch's loaders do: a fork starts at once, and runs from a script that does not guard its main part.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else None)
    with ProcessPoolExecutor(mp_context=context) as pool:
        yield from pool.map(inspect, files, chunksize=32)


def _changed(file: Path, row: ImageFacts) -> bool:
    try:
        status = file.stat()
    except OSError:
        return True
    return (status.st_size, status.st_mtime_ns) != (row.bytes, row.modified)


def _cache_file(root: Path) -> Path:
    place = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:12]
    return cache_dir() / "manifests" / f"{root.resolve().name[:40]}-{place}-{_FORMAT}.csv"


def _keep(table: pd.DataFrame, cache: Path) -> None:
    try:
        cache.parent.mkdir(parents=True, exist_ok=True)
        write_table(table, cache)
    except OSError as error:  # the next scan reads everything again, which is no reason to stop
        warnings.warn(
            f"what was read cannot be kept in {str(cache.parent)!r} ({error.strerror}); "
            "set ANIMALS_PL_CACHE to a folder that can be written",
            stacklevel=3,
        )


def _read_cache(file: Path) -> pd.DataFrame:
    """Return the table of the last scan, or an empty one if there was none or its file is damaged."""
    try:
        return _read(file)
    except (OSError, ValueError, KeyError, OverflowError):
        return pd.DataFrame(columns=list(COLUMNS))


def _read(file: Path) -> pd.DataFrame:
    return pd.read_csv(file, dtype=_TYPES, keep_default_na=False, encoding_errors="surrogateescape")[list(COLUMNS)]


def write_manifest(manifest: pd.DataFrame, root: Path, file: Path) -> None:
    """Write a manifest whose paths are relative to its own folder, so that it finds the images again.

    Args:
        manifest: What a scan of ``root`` found.
        root: The folder that its paths are relative to now.
        file: The CSV file to write.
    """
    to_root = Path(os.path.relpath(root.absolute(), file.parent.resolve()))
    write_table(manifest.assign(path=[(to_root / path).as_posix() for path in manifest["path"]]), file)


def groups_by(column: str, images: pd.DataFrame) -> pd.DataFrame:
    """Return one row for each value of a column that two or more images share.

    Columns: ``first`` path, ``size`` (images), and how many different ``contents`` and ``labels`` they have.
    """
    groups = images.groupby(column).agg(
        first=("path", "first"), size=("path", "size"), sha256=("sha256", "nunique"), labels=("label", "nunique")
    )
    return groups[groups["size"] > 1]


def catalog_of(source: str | Path, argument: str = "data.root") -> Catalog:
    """Return the images of a folder-per-class dataset, or of a manifest that :func:`write_manifest` wrote.

    Raises:
        UsageError: The source is neither, or a manifest's images are gone.
    """
    source = Path(source)
    if not source.is_file():
        return scan_folder(source, argument=argument)
    try:
        table = _read(source).sort_values("path")
    except (OSError, ValueError, KeyError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"{argument}={str(source)!r} is no manifest ({reason}); pass the manifest.csv of prepare, or a folder"
        ) from error
    if table.empty:
        raise UsageError(f"{argument}={str(source)!r} names no images; pass another manifest, or a folder")
    gone = [path for path in table["path"] if not (source.parent / path).exists()]
    if gone:
        raise UsageError(
            f"{argument}={str(source)!r} names {len(gone)} images that are gone (first: {gone[0]}); "
            "run prepare again, or pass the folder"
        )
    class_names, labels = np.unique(table["label"].to_numpy(dtype=str), return_inverse=True)
    outer = _outer_folder(table)
    paths = [path.removeprefix(outer) for path in table["path"]]
    root = Path(os.path.normpath(source.parent.resolve() / outer))
    return Catalog(root, class_names.tolist(), paths, labels.astype(np.int64))


def _outer_folder(table: pd.DataFrame) -> str:
    """Return what stands before the class folder in every path, so that paths are those that a scan would give."""
    outer = {path.partition(f"{label}/")[0] for path, label in zip(table["path"], table["label"], strict=True)}
    return outer.pop() if len(outer) == 1 else ""
