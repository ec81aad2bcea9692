"""Training, validation and test splits: draw, save, load and check them."""

from __future__ import annotations

import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import numpy as np
import pandas as pd

from animals_pl.data.catalog import SPLITS, Catalog, split_called
from animals_pl.data.strings import Strings
from animals_pl.data.tables import read_image_rows, write_table
from animals_pl.errors import UsageError, counted, listed

LEFT_OUT = "left out"
"""Value in a split file for images in no split."""

VAL_FRACTION = 0.3
"""Default fraction of the images for validation."""


@dataclass(frozen=True)
class Split:
    """Paths of each split, relative to the dataset's root and sorted. No path is in two splits."""

    train: Sequence[str]
    val: Sequence[str]
    test: Sequence[str] = field(default_factory=list)

    def by_path(self) -> dict[str, str]:
        """Path → split."""
        return {path: split for split in SPLITS for path in getattr(self, split)}

    def save(self, file: Path, catalog: Catalog) -> None:
        """Write a CSV file with the columns ``path,label,split,sha256,group``.

        Images of ``catalog`` that are in no split are marked as left out.
        """
        split_of = self.by_path()
        columns = {
            "path": catalog.paths,
            "label": [catalog.class_names[label] for label in catalog.labels],
            "split": [split_of.get(path, LEFT_OUT) for path in catalog.paths],
            "sha256": catalog.sha256,
            "group": [group if group >= 0 else "" for group in catalog.groups.tolist()],
        }
        write_table(pd.DataFrame(columns), file)


def _shuffle(indices: np.ndarray, paths: Strings, seed: int) -> list[int]:
    """Pseudo-random order by hash of the paths: reproducible across machines, and stable when files are added."""
    texts = (f"{seed}:{path}".encode(errors="surrogateescape") for path in paths.take(indices))
    digests = [hashlib.sha256(text).digest() for text in texts]
    return [int(indices[place]) for place in sorted(range(len(indices)), key=digests.__getitem__)]


def _quotas(count: int, fractions: Sequence[float]) -> list[int]:
    """Divide ``count`` by the largest remainder method: each share is rounded up or down."""
    shares = count * np.array(fractions)
    quotas = np.floor(shares + 1e-9).astype(int)
    missing = count - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:missing]] += 1
    return quotas.tolist()


def stratified_split(catalog: Catalog, val_fraction: float, test_fraction: float = 0.0, seed: int = 42) -> Split:
    """Split a catalog so that each split keeps the class proportions and no group is divided.

    Without groups, a class deviates from its proportion by less than one image; with groups, by less than its
    largest group (unless groups contain several classes). The result depends only on paths, labels, groups and
    seed: not on the machine, the order of the files or library versions.

    Args:
        catalog: The images.
        val_fraction: Fraction for validation, in (0, 1).
        test_fraction: Fraction for test, in [0, 1 - val_fraction).
        seed: Seed of the split.

    Raises:
        UsageError: A fraction is out of range, or no image is left for training or validation.
    """
    if not (0 < val_fraction < 1 and 0 <= test_fraction < 1 and val_fraction + test_fraction < 1):
        raise UsageError(
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction} are out of range. "
            "Choose val_fraction > 0 and test_fraction >= 0 with a sum below 1."
        )
    fractions = (1 - val_fraction - test_fraction, val_fraction, test_fraction)
    num_classes = len(catalog.class_names)
    counts = np.bincount(catalog.labels, minlength=num_classes)
    quotas = np.array([_quotas(count, fractions) for count in counts.tolist()]).reshape(num_classes, len(SPLITS))
    paths = Strings.of(catalog.paths)
    groups, ungrouped = _by_group(catalog, paths)
    splits: dict[str, list[int]] = {split: [] for split in SPLITS}
    missing, used = quotas.copy(), quotas.sum(axis=0) > 0
    for members in _largest_first(groups, paths, seed):
        labels, sizes = np.unique(catalog.labels[members], return_counts=True)
        index = _choose_split(sizes, missing[labels], quotas[labels], used)
        missing[labels, index] -= sizes
        splits[SPLITS[index]] += members.tolist()
    for label, members in enumerate(ungrouped):
        shuffled = iter(_shuffle(members, paths, seed))
        for split, count in zip(SPLITS, missing[label].tolist(), strict=True):
            splits[split] += islice(shuffled, max(0, count))
    if not splits["train"] or not splits["val"]:
        raise UsageError(
            f"data.root={str(catalog.root)!r} has too few images ({len(catalog.paths)}) for "
            f"data.val_fraction={val_fraction} and data.test_fraction={test_fraction}. Add images"
            + (", or relax the grouping (data.group_duplicates, data.group_by)." if groups else ".")
        )
    return Split(**{split: Strings.of(sorted(paths.take(chosen))) for split, chosen in splits.items()})


def _by_group(catalog: Catalog, paths: Strings) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(groups, ungrouped): indices of each group of >= 2 images, and of the others per class; all sorted by path."""
    names = list(paths)
    order = np.array(sorted(range(len(names)), key=names.__getitem__), dtype=np.int64)
    ordered = catalog.groups[order]
    numbers, sizes = np.unique(ordered, return_counts=True)
    shared = np.isin(ordered, numbers[(sizes > 1) & (numbers >= 0)])
    members = order[shared][np.argsort(ordered[shared], kind="stable")]
    groups = np.split(members, np.flatnonzero(np.diff(catalog.groups[members])) + 1) if len(members) else []
    alone = order[~shared]
    return groups, [alone[catalog.labels[alone] == label] for label in range(len(catalog.class_names))]


def _largest_first(groups: list[np.ndarray], paths: Strings, seed: int) -> list[np.ndarray]:
    """Sort groups by size, and groups of the same size by the hash of their first path."""
    group_of = {int(members[0]): members for members in groups}
    shuffled = _shuffle(np.array(list(group_of), dtype=np.int64), paths, seed)
    return sorted((group_of[first] for first in shuffled), key=len, reverse=True)


def _choose_split(sizes: np.ndarray, missing: np.ndarray, quotas: np.ndarray, used: np.ndarray) -> int:
    """Index of the least filled split that has room for the whole group, else of the split with the least overflow.

    Args:
        sizes: Images per class in the group (K,).
        missing: Images that each split still needs (K, S).
        quotas: Target counts (K, S).
        used: Splits with a nonzero target (S,).
    """
    left = (missing - sizes[:, None]).min(axis=0)
    if (left >= 0).any():
        emptiness = (missing / np.maximum(quotas, 1)).min(axis=0)
        return int(np.argmax(np.where(left >= 0, emptiness, -1)))
    return int(np.argmax(np.where(used, left, -np.inf)))


def folder_split(catalog: Catalog, val_fraction: float = VAL_FRACTION, seed: int = 42) -> Split:
    """Split of a dataset with split folders.

    If there is no val folder, validation images are drawn from train. Duplicates in several folders are not moved;
    a warning names them.

    Raises:
        UsageError: There is no train folder, or it has too few images to draw from.
    """
    splits: dict[str, list[str]] = {split: [] for split in SPLITS}
    for path, split in catalog.folder_splits().items():
        splits[split].append(path)
    if not splits["train"]:
        raise UsageError(
            f"data.root={str(catalog.root)!r} has the split folders {', '.join(catalog.split_folders)}, "
            "but no training images. Add a folder 'train', or pass one of the folders."
        )
    _warn_of_leaks(catalog)
    if "val" not in catalog.split_folders.values():
        drawn = stratified_split(catalog.select(splits["train"]), val_fraction, seed=seed)
        splits |= {"train": list(drawn.train), "val": list(drawn.val)}
    return Split(**splits)


def _warn_of_leaks(catalog: Catalog) -> None:
    split_of = list(catalog.folder_splits().values())
    table = pd.DataFrame({"path": catalog.paths, "group": catalog.groups, "split": split_of})
    groups = table[table["group"] >= 0].groupby("group")
    leaks = groups["path"].agg(lambda paths: ", ".join(paths[:3]))[groups["split"].nunique() > 1]
    if len(leaks):
        warnings.warn(
            f"{counted(len(leaks), 'group')} of duplicates or related images found in several split folders of "
            f"{catalog.root} (first: {leaks.iloc[0]}). They are not moved; leave some out with data.exclude",
            stacklevel=4,
        )


def load_split(file: str | Path, catalog: Catalog, left_out: Collection[str] = ()) -> Split:
    """Read a split file and check it against the images.

    A moved image is found by its sha256. Warnings list images that were moved or changed, and images that are not in
    the file (these are left out).

    Args:
        file: A file written by :meth:`Split.save`, or any CSV with the columns ``path`` and ``split``.
        catalog: The usable images.
        left_out: Paths that are deliberately not in the catalog: broken or excluded.

    Raises:
        UsageError: The file is missing or malformed, lists a path twice, or lists images that no longer exist.
    """
    file = Path(file)
    split_of, recorded = _read_split(file, catalog.root, [*catalog.paths, *left_out])
    found = dict(zip(catalog.paths, catalog.sha256, strict=True))
    moved = _find_moved(split_of, recorded, found, left_out)
    splits: dict[str, list[str]] = {split: [] for split in (*SPLITS, LEFT_OUT)}
    gone = []
    for path, split in split_of.items():
        here = moved.get(path, path)
        if here in found:
            splits[split].append(here)
        elif split != LEFT_OUT and path not in left_out:
            gone.append(path)
    if gone:
        raise UsageError(
            f"data.split={str(file)!r} lists {counted(len(gone), 'image')} not in {str(catalog.root)!r} "
            f"(first: {min(gone)}). Restore them, or pass --data.test_root to evaluate on all images of another folder."
        )
    changed = [path for path in split_of if recorded[path] and found.get(path) and found[path] != recorded[path]]
    unlisted = sorted(set(found) - set(split_of) - set(moved.values()))
    _warn("changed since this split was made:", changed, catalog, file)
    _warn("moved since this split was made:", [f"{old} → {new}" for old, new in moved.items()], catalog, file)
    be = "is" if len(unlisted) == 1 else "are"
    _warn(f"{be} not in this split and {be} left out:", unlisted, catalog, file)
    return Split(**{split: sorted(splits[split]) for split in SPLITS})


def _read_split(file: Path, root: Path, known: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Path → split, and path → sha256 (empty if not recorded)."""
    split_of: dict[str, str] = {}
    sha256_of: dict[str, str] = {}
    rows = read_image_rows(file, "data.split", root, known, "split")
    for row in rows:
        path, split = row["path"], split_called(row["split"])
        if split not in (*SPLITS, LEFT_OUT):
            raise UsageError(
                f"data.split={str(file)!r}: each row needs a path and a split (train, val or test), not {row}."
            )
        split_of[path] = split
        sha256_of[path] = row.get("sha256") or ""
    if repeated := len(rows) - len(split_of):
        first = next(path for path, count in Counter(row["path"] for row in rows).items() if count > 1)
        rows_over = counted(repeated, "extra row")
        raise UsageError(
            f"data.split={str(file)!r} lists images more than once ({rows_over}, first: {first}). "
            "Remove the extra rows."
        )
    if absent := [split for split in ("train", "val") if split not in split_of.values()]:
        raise UsageError(
            f"data.split={str(file)!r} lists no images for {' or '.join(absent)}. "
            "Pass the split.csv of a run, or remove data.split."
        )
    return split_of, sha256_of


def _find_moved(
    split_of: Collection[str], recorded: dict[str, str], found: dict[str, str], left_out: Collection[str]
) -> dict[str, str]:
    """Old path → new path of images that are missing at the old path."""
    new: dict[str, list[str]] = {}
    for path in sorted(found.keys() - set(split_of)):
        new.setdefault(found[path], []).append(path)
    gone = [path for path in split_of if path not in found and path not in left_out]
    return {path: new[recorded[path]].pop(0) for path in gone if recorded[path] and new.get(recorded[path])}


def _warn(what: str, names: Sequence[str], catalog: Catalog, file: Path) -> None:
    if names:
        images = counted(len(names), "image")
        warnings.warn(f"{images} in {catalog.root} {what} {listed(names, 3)} ({file})", stacklevel=3)
