"""Which image is for training, validation or test: drawn, saved, loaded, verified."""

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

SPLITS = ("train", "val", "test")
LEFT_OUT = "left out"
"""What stands in a split file in place of a split_name for images that are in none."""


@dataclass(frozen=True)
class Split:
    """Paths (relative to the dataset's root, sorted) of each split_name; no path is in two."""

    train: list[str]
    val: list[str]
    test: list[str] = field(default_factory=list)

    def save(self, file: Path, catalog: Catalog) -> None:
        """Write the split as CSV with the columns ``path,label,split,sha256,group``, whole or not at all.

        Args:
            file: The file to write.
            catalog: All images; those in no split_name are marked as left out.
        """
        split_of = {path: split_name for split_name in SPLITS for path in getattr(self, split_name)}
        columns = (catalog.paths, catalog.labels.tolist(), catalog.sha256, catalog.groups.tolist())
        partial = file.with_suffix(".partial")
        with partial.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
            writer = csv.writer(stream)
            writer.writerow(["path", "label", "split", "sha256", "group"])
            for path, label, content, group in zip(*columns, strict=True):
                name, split_name = catalog.class_names[label], split_of.get(path, LEFT_OUT)
                writer.writerow([path, name, split_name, content, group if group >= 0 else ""])
        partial.replace(file)


def _order(paths: Iterable[str], seed: int) -> list[str]:
    """Shuffle by hash: the same on every machine, and a new file does not move the others."""
    return sorted(paths, key=lambda path: hashlib.sha256(f"{seed}:{path}".encode(errors="surrogateescape")).digest())


def _quotas(count: int, fractions: Sequence[float]) -> list[int]:
    """Divide ``count`` by largest remainder: every split_name gets its exact share, rounded up or down."""
    shares = count * np.array(fractions)
    quotas = np.floor(shares + 1e-9).astype(int)
    missing = count - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:missing]] += 1
    return quotas.tolist()


def stratified_split(catalog: Catalog, val_fraction: float, test_fraction: float = 0.0, seed: int = 42) -> Split:
    """Split a catalog so that each class keeps its proportion in every split_name and no group is divided.

    Without groups a class deviates from its proportion by less than one image, with them by less than its
    largest group (unless groups hold several classes). The result depends on the paths, the labels, the groups and
    the seed only: not on the machine, the order of the files or the version of a library.

    Args:
        catalog: The images.
        val_fraction: Part of them for validation, in (0, 1).
        test_fraction: Part of them for test, in [0, 1 - val_fraction).
        seed: Another seed, another split.

    Raises:
        UsageError: A fraction is out of range, or no image is left for training or validation.
    """
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} do not fit; "
            "choose 0 < val_fraction, 0 <= test_fraction and a sum below 1"
        )
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    num_classes = len(catalog.class_names)
    counts = np.bincount(catalog.labels, minlength=num_classes)
    quotas = np.array([_quotas(count, fractions) for count in counts]).reshape(num_classes, len(SPLITS))
    members, singles = _members(catalog)
    splits: dict[str, list[str]] = {split_name: [] for split_name in SPLITS}
    room = quotas.copy()
    label_of = dict(zip(catalog.paths, catalog.labels.tolist(), strict=True))
    for paths in _largest_first(members, seed):
        need = np.bincount([label_of[path] for path in paths], minlength=num_classes)
        split_name = _split_with_room(need, room, quotas)
        room[:, split_name] -= need
        splits[SPLITS[split_name]] += paths
    for label, paths in enumerate(singles):
        ordered = iter(_order(paths, seed))
        for name, free in zip(SPLITS, room[label].tolist(), strict=True):
            splits[name] += islice(ordered, max(0, free))
    if not splits["train"] or not splits["val"]:
        raise UsageError(
            f"data.root={str(catalog.root)!r} holds only {len(catalog.paths)} images: too few for "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}; add images"
            + (", or let groups be divided (data.group_duplicates, data.group_by)" if members else "")
        )
    return Split(**{split_name: sorted(paths) for split_name, paths in splits.items()})


def _members(catalog: Catalog) -> tuple[list[list[str]], list[list[str]]]:
    """Return the sorted paths of every group of two or more, and of each class's images in no such group."""
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


def _split_with_room(need: np.ndarray, room: np.ndarray, quotas: np.ndarray) -> int:
    """Return the split_name for a group: the one that is least full of those with room for it, else the roomiest.

    Args:
        need: (C,) images of each class in the group.
        room: (C, F) images that each split_name still lacks.
        quotas: (C, F) images that each split_name shall have.
    """
    involved = need > 0
    left = (room[involved] - need[involved, None]).min(axis=0)
    if (left >= 0).any():
        emptiness = (room[involved] / np.maximum(quotas[involved], 1)).min(axis=0)
        return int(np.argmax(np.where(left >= 0, emptiness, -1)))
    wanted = quotas.sum(axis=0) > 0
    return int(np.argmax(np.where(wanted, left, -np.inf)))


def load_split(file: str | Path, catalog: Catalog, left_out: Collection[str] = ()) -> Split:
    """Read a split file and check it against the images that are there.

    An image that was moved is found by its content. Moved and changed images, and those that the file
    does not name and that are left out, are named in warnings.

    Args:
        file: A file that :meth:`Split.save` wrote, or any CSV with the columns ``path`` and ``split``.
        catalog: The images that can be used.
        left_out: Paths that are not in the catalog on purpose: broken or excluded.

    Raises:
        UsageError: The file is missing or malformed, names a path twice, or names images that
            are gone.
    """
    file = Path(file)
    if not file.is_file():
        raise UsageError(
            f"data.split={str(file)!r} is not a file; pass the split.csv of a run, or leave data.split out"
        )
    split_of: dict[str, str] = {}
    recorded: dict[str, str] = {}
    rows = read_rows(file, "data.split")
    for row in rows:
        path, split_name = row.get("path"), row.get("split")
        if path is None or split_name not in (*SPLITS, LEFT_OUT):
            raise UsageError(
                f"data.split={str(file)!r}: each row needs a path and a split (train, val or test), not {row}"
            )
        split_of[path] = split_name
        recorded[path] = row.get("sha256") or ""
    twice = len(rows) - len(split_of)
    if twice:
        raise UsageError(
            f"data.split={str(file)!r} names {twice} images more than once; each belongs to one split_name"
        )
    if not {"train", "val"} <= set(split_of.values()):
        raise UsageError(
            f"data.split={str(file)!r} names no images for train or none for val; "
            "pass the split.csv of a run, or leave data.split out"
        )
    found = dict(zip(catalog.paths, catalog.sha256, strict=True))
    moved = _follow_moves(split_of, recorded, found, left_out)
    splits: dict[str, list[str]] = {split_name: [] for split_name in (*SPLITS, LEFT_OUT)}
    gone = []
    for path, split_name in split_of.items():
        here = moved.get(path, path)
        if here in found:
            splits[split_name].append(here)
        elif split_name != LEFT_OUT and path not in left_out:
            gone.append(path)
    if gone:
        raise UsageError(
            f"data.split={str(file)!r} names {len(gone)} images that are not in {str(catalog.root)!r} "
            f"(first: {min(gone)}); restore them, or pass --data.test_root to evaluate on another folder whole"
        )
    changed = [path for path in split_of if recorded[path] and found.get(path) and found[path] != recorded[path]]
    unnamed = sorted(set(found) - set(split_of) - set(moved.values()))
    _warn("have changed since this split was made:", changed, catalog, file)
    _warn("were moved since this split was made:", [f"{old} → {new}" for old, new in moved.items()], catalog, file)
    _warn("are not named in this split and are left out:", unnamed, catalog, file)
    return Split(**{split_name: sorted(splits[split_name]) for split_name in SPLITS})


def _follow_moves(
    split_of: Collection[str], recorded: dict[str, str], found: dict[str, str], left_out: Collection[str]
) -> dict[str, str]:
    """Return old path → new path of images that are gone from where they were and stand elsewhere."""
    new: dict[str, list[str]] = {}
    for path in sorted(found.keys() - set(split_of)):
        new.setdefault(found[path], []).append(path)
    gone = [path for path in split_of if path not in found and path not in left_out]
    return {path: new[recorded[path]].pop(0) for path in gone if recorded[path] and new.get(recorded[path])}


def _warn(what: str, names: Sequence[str], catalog: Catalog, file: Path) -> None:
    if names:
        named = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        warnings.warn(f"{len(names)} images in {catalog.root} {what} {named} ({file})", stacklevel=3)
