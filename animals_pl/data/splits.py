"""Which photograph is for training, validation or test: drawn, saved, loaded, verified."""

from __future__ import annotations

import csv
import hashlib
import warnings
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError

FOLDS = ("train", "val", "test")
LEFT_OUT = "left out"
"""What stands in a split file in place of a fold for photographs that are in none."""


@dataclass(frozen=True)
class Split:
    """Paths (relative to the dataset's root, sorted) of each fold; no path is in two."""

    train: list[str]
    val: list[str]
    test: list[str] = field(default_factory=list)

    def save(self, file: Path, catalog: Catalog) -> None:
        """Write the split as CSV with the columns ``path,label,split,sha256,group``, whole or not at all.

        Args:
            file: The file to write.
            catalog: All photographs; those in no fold are marked as left out.
        """
        fold_of = {path: fold for fold in FOLDS for path in getattr(self, fold)}
        columns = (catalog.paths, catalog.labels.tolist(), catalog.contents, catalog.groups.tolist())
        partial = file.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "split", "sha256", "group"])
            for path, label, content, group in zip(*columns, strict=True):
                name, fold = catalog.class_names[label], fold_of.get(path, LEFT_OUT)
                writer.writerow([path, name, fold, content, group if group >= 0 else ""])
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
    """Split a catalog so that each class keeps its proportion in every fold and no group is divided.

    Without groups a class deviates from its proportion by less than one photograph, with them by less than its
    largest group (unless groups hold several classes). The result depends on the paths, the labels, the groups and
    the seed only: not on the machine, the order of the files or the version of a library.

    Args:
        catalog: The photographs.
        val_fraction: Part of them for validation, in (0, 1).
        test_fraction: Part of them for test, in [0, 1 - val_fraction).
        seed: Another seed, another split.

    Raises:
        UsageError: A fraction is out of range, or no photograph is left for training or validation.
    """
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} do not fit; "
            "choose 0 < val_fraction, 0 <= test_fraction and a sum below 1"
        )
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    num_classes = len(catalog.class_names)
    counts = np.bincount(catalog.labels, minlength=num_classes)
    quotas = np.array([_quotas(count, fractions) for count in counts]).reshape(num_classes, len(FOLDS))
    members, singles = _members(catalog)
    folds: dict[str, list[str]] = {fold: [] for fold in FOLDS}
    room = quotas.copy()
    label_of = dict(zip(catalog.paths, catalog.labels.tolist(), strict=True))
    for paths in _largest_first(members, seed):
        need = np.bincount([label_of[path] for path in paths], minlength=num_classes)
        fold = _fold_with_room(need, room, quotas)
        room[:, fold] -= need
        folds[FOLDS[fold]] += paths
    for label, paths in enumerate(singles):
        ordered = iter(_order(paths, seed))
        for name, free in zip(FOLDS, room[label].tolist(), strict=True):
            folds[name] += islice(ordered, max(0, free))
    if not folds["train"] or not folds["val"]:
        raise UsageError(
            f"data.root={str(catalog.root)!r} holds only {len(catalog.paths)} photographs: too few for "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}; add photographs"
            + (", or let groups be divided (data.group_duplicates, data.group_by)" if members else "")
        )
    return Split(**{fold: sorted(paths) for fold, paths in folds.items()})


def _members(catalog: Catalog) -> tuple[list[list[str]], list[list[str]]]:
    """Return the sorted paths of every group of two or more, and of each class's photographs in no such group."""
    numbers, sizes = np.unique(catalog.groups, return_counts=True)
    shared = {number: [] for number in numbers[(sizes > 1) & (numbers >= 0)].tolist()}  # type: dict[int, list[str]]
    singles: list[list[str]] = [[] for _ in catalog.class_names]
    for path, label, group in sorted(zip(catalog.paths, catalog.labels.tolist(), catalog.groups.tolist(), strict=True)):
        shared.get(group, singles[label]).append(path)
    return list(shared.values()), singles


def _largest_first(members: list[list[str]], seed: int) -> list[list[str]]:
    """Order groups by size, and those of one size by the hash of their first path."""
    group_of = {paths[0]: paths for paths in members}
    return sorted((group_of[path] for path in _order(group_of, seed)), key=len, reverse=True)


def _fold_with_room(need: np.ndarray, room: np.ndarray, quotas: np.ndarray) -> int:
    """Return the fold for a group: the one that is least full of those with room for it, else the roomiest.

    Args:
        need: (C,) photographs of each class in the group.
        room: (C, F) photographs that each fold still lacks.
        quotas: (C, F) photographs that each fold shall have.
    """
    involved = need > 0
    left = (room[involved] - need[involved, None]).min(axis=0)
    if (left >= 0).any():
        emptiness = (room[involved] / np.maximum(quotas[involved], 1)).min(axis=0)
        return int(np.argmax(np.where(left >= 0, emptiness, -1)))
    wanted = quotas.sum(axis=0) > 0
    return int(np.argmax(np.where(wanted, left, -np.inf)))


def load_split(file: str | Path, catalog: Catalog, left_out: Collection[str] = ()) -> Split:
    """Read a split file and check it against the photographs that are there.

    A photograph that was moved is found by its content. Moved and changed photographs, and those that the file
    does not name and that are left out, are named in warnings.

    Args:
        file: A file that :meth:`Split.save` wrote, or any CSV with the columns ``path`` and ``split``.
        catalog: The photographs that can be used.
        left_out: Paths that are not in the catalog on purpose: broken or excluded.

    Raises:
        UsageError: The file is missing or malformed, names a path twice, or names photographs that
            are gone.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(
            f"data.split={str(file)!r} is not a file; pass the split.csv of a run, or leave data.split out"
        )
    fold_of: dict[str, str] = {}
    recorded: dict[str, str] = {}
    rows = read_rows(file, "data.split")
    for row in rows:
        path, fold = row.get("path"), row.get("split")
        if path is None or fold not in (*FOLDS, LEFT_OUT):
            raise UsageError(
                f"data.split={str(file)!r}: each row needs a path and a split (train, val or test), not {row}"
            )
        fold_of[path] = fold
        recorded[path] = row.get("sha256") or ""
    twice = len(rows) - len(fold_of)
    if twice:
        raise UsageError(f"data.split={str(file)!r} names {twice} photographs more than once; each belongs to one fold")
    if not {"train", "val"} <= set(fold_of.values()):
        raise UsageError(
            f"data.split={str(file)!r} names no photographs for train or none for val; "
            "pass the split.csv of a run, or leave data.split out"
        )
    found = dict(zip(catalog.paths, catalog.contents, strict=True))
    moved = _follow_moves(fold_of, recorded, found, left_out)
    folds: dict[str, list[str]] = {fold: [] for fold in (*FOLDS, LEFT_OUT)}
    gone = []
    for path, fold in fold_of.items():
        here = moved.get(path, path)
        if here in found:
            folds[fold].append(here)
        elif fold != LEFT_OUT and path not in left_out:
            gone.append(path)
    if gone:
        raise UsageError(
            f"data.split={str(file)!r} names {len(gone)} photographs that are not in {str(catalog.root)!r} "
            f"(first: {min(gone)}); restore them, or pass --data.test_root to evaluate on another folder whole"
        )
    changed = [path for path in fold_of if recorded[path] and found.get(path) and found[path] != recorded[path]]
    unnamed = sorted(set(found) - set(fold_of) - set(moved.values()))
    _warn("have changed since this split was made:", changed, catalog, file)
    _warn("were moved since this split was made:", [f"{old} → {new}" for old, new in moved.items()], catalog, file)
    _warn("are not named in this split and are left out:", unnamed, catalog, file)
    return Split(**{fold: sorted(folds[fold]) for fold in FOLDS})


def _follow_moves(
    fold_of: Collection[str], recorded: dict[str, str], found: dict[str, str], left_out: Collection[str]
) -> dict[str, str]:
    """Return old path → new path of photographs that are gone from where they were and stand elsewhere."""
    new: dict[str, list[str]] = {}
    for path in sorted(found.keys() - set(fold_of)):
        new.setdefault(found[path], []).append(path)
    gone = [path for path in fold_of if path not in found and path not in left_out]
    return {path: new[recorded[path]].pop(0) for path in gone if recorded[path] and new.get(recorded[path])}


def _warn(what: str, names: Sequence[str], catalog: Catalog, file: Path) -> None:
    if names:
        named = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        warnings.warn(f"{len(names)} photographs in {catalog.root} {what} {named} ({file})", stacklevel=3)
