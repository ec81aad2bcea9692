"""Which photograph is for training, validation or test: drawn, saved, loaded, verified."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.errors import UsageError

FOLDS = ("train", "val", "test")


@dataclass(frozen=True)
class Split:
    """Paths (relative to the dataset's root, sorted) of each fold; no path is in two."""

    train: list[str]
    val: list[str]
    test: list[str] = field(default_factory=list)

    def save(self, file: Path, catalog: Catalog) -> None:
        """Write the split as CSV with the columns ``path,label,split``, whole or not at all."""
        fold_of = {path: fold for fold in FOLDS for path in getattr(self, fold)}
        partial = file.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "split"])
            for path, label in zip(catalog.paths, catalog.labels, strict=True):
                if path in fold_of:
                    writer.writerow([path, catalog.class_names[label], fold_of[path]])
        partial.replace(file)


def _order(paths: Iterable[str], seed: int) -> list[str]:
    """Shuffle by hash: the same on every machine, and a new file does not move the others."""
    return sorted(paths, key=lambda path: hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest())


def _quotas(count: int, fractions: Sequence[float]) -> list[int]:
    """Divide ``count`` by largest remainder: every fold gets its exact share, rounded up or down."""
    shares = count * np.array(fractions)
    quotas = np.floor(shares + 1e-9).astype(int)
    missing = count - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:missing]] += 1
    return quotas.tolist()


def stratified_split(catalog: Catalog, val_fraction: float, test_fraction: float = 0.0, seed: int = 42) -> Split:
    """Split a catalog so that each class keeps its proportion, within one photograph, in every fold.

    The result depends on the paths, the labels and the seed only: not on the machine, the order of
    the files or the version of a library.

    Args:
        catalog: The photographs.
        val_fraction: Part of them for validation, in (0, 1).
        test_fraction: Part of them for test, in [0, 1 - val_fraction).
        seed: Another seed, another split.

    Raises:
        UsageError: A fraction is out of range, or no photograph is left for training.
    """
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} do not fit; "
            "choose 0 < val_fraction, 0 <= test_fraction and a sum below 1"
        )
    members: list[list[str]] = [[] for _ in catalog.class_names]
    for path, label in zip(catalog.paths, catalog.labels, strict=True):
        members[label].append(path)
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    folds: dict[str, list[str]] = {fold: [] for fold in FOLDS}
    for paths in members:
        ordered = iter(_order(paths, seed))
        for fold, quota in zip(FOLDS, _quotas(len(paths), fractions), strict=True):
            folds[fold] += islice(ordered, quota)
    if not folds["train"] or not folds["val"]:
        raise UsageError(
            f"data.root={str(catalog.root)!r} holds only {len(catalog.paths)} photographs: too few for "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}; add photographs"
        )
    return Split(**{fold: sorted(paths) for fold, paths in folds.items()})


def _read_rows(file: Path) -> list[dict[str, str]]:
    try:
        # utf-8-sig: spreadsheets put a byte-order mark in front
        with file.open(newline="", encoding="utf-8-sig", errors="surrogateescape") as stream:
            return list(csv.DictReader(stream))
    except (UnicodeError, csv.Error) as error:
        raise UsageError(f"data.split={str(file)!r} cannot be read as CSV ({error}); save it as UTF-8 text") from error


def load_split(file: str | Path, catalog: Catalog) -> Split:
    """Read a split file and check it against the photographs that are there.

    Photographs that the file does not name are left out, with a warning.

    Raises:
        UsageError: The file is missing or malformed, names a path twice, or names photographs that
            are not in the catalog.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(
            f"data.split={str(file)!r} is not a file; pass the split.csv of a run, or leave data.split out"
        )
    folds: dict[str, list[str]] = {fold: [] for fold in FOLDS}
    for row in _read_rows(file):
        path, fold = row.get("path"), row.get("split")
        if path is None or fold not in folds:
            raise UsageError(
                f"data.split={str(file)!r}: each row needs a path and a split (train, val or test), not {row}"
            )
        folds[fold].append(path)
    if not folds["train"] or not folds["val"]:
        raise UsageError(
            f"data.split={str(file)!r} names no photographs for train or none for val; "
            "pass the split.csv of a run, or leave data.split out"
        )
    named = [path for paths in folds.values() for path in paths]
    twice = len(named) - len(set(named))
    if twice:
        raise UsageError(f"data.split={str(file)!r} names {twice} photographs more than once; each belongs to one fold")
    missing = sorted(set(named) - set(catalog.paths))
    if missing:
        raise UsageError(
            f"data.split={str(file)!r} names {len(missing)} photographs that are not in {str(catalog.root)!r} "
            f"(first: {missing[0]}); restore them, or pass --data.test_root to evaluate on another folder whole"
        )
    unnamed = len(catalog.paths) - len(named)
    if unnamed:
        warnings.warn(f"{unnamed} photographs in {catalog.root} are not named in {file} and are left out", stacklevel=2)
    return Split(**{fold: sorted(paths) for fold, paths in folds.items()})
