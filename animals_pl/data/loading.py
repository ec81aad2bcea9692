"""Load a dataset (scan, exclude, group) and split it."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.grouping import group_by as groups_of_rule
from animals_pl.data.grouping import join_groups
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.splits import VAL_FRACTION, Split, folder_split, load_split, stratified_split
from animals_pl.data.strings import Strings
from animals_pl.data.tables import read_image_rows
from animals_pl.errors import UsageError, counted, listed


@dataclass(frozen=True)
class LoadedDataset:
    """The images of a folder and which of them can be used.

    Attributes:
        catalog: All images, with sha256 and groups.
        usable: The images that are neither broken nor excluded.
        broken: Path → problem of each image that cannot be decoded completely.
        excluded: Paths listed in the exclude file.
    """

    catalog: Catalog
    usable: Catalog
    broken: dict[str, str]
    excluded: set[str]


def load_dataset(
    root: str | Path,
    *,
    class_names: Sequence[str] | None = None,
    exclude: str | Path | None = None,
    group_duplicates: bool = True,
    group_by: str | None = None,
    argument: str = "data.root",
) -> LoadedDataset:
    """Scan a folder-per-class dataset, inspect its images and group those that belong together.

    Args:
        root: Folder with one folder of images per class.
        class_names: Label order of a trained model. Default: the sorted folder names.
        exclude: CSV file with a column ``path`` of images to leave out.
        group_duplicates: Group near-duplicates.
        group_by: Rule for further groups (see :func:`animals_pl.data.grouping.group_by`).
        argument: Name of the option that ``root`` came from, for messages.

    Raises:
        UsageError: The folder, the exclude file or the rule cannot be used.
    """
    catalog = scan_folder(root, class_names, argument)
    columns = scan(catalog).columns
    groups = np.asarray(columns["duplicate_group"]) if group_duplicates else catalog.groups
    if group_by:
        groups = join_groups(groups, groups_of_rule(group_by, catalog))
    catalog = replace(catalog, sha256=Strings.of(columns["sha256"]), groups=groups)
    problems = Strings.of(columns["problem"])
    is_usable = problems.lengths == 0
    broken = {catalog.paths[index]: problems[index] for index in np.flatnonzero(~is_usable).tolist()}
    excluded = _read_exclude(Path(exclude), catalog) if exclude else set()
    if excluded:
        is_usable &= [path not in excluded for path in catalog.paths]
    return LoadedDataset(catalog, catalog.take(np.flatnonzero(is_usable)), broken, excluded)


def split_dataset(
    loaded: LoadedDataset, *, split: str | None, val_fraction: float | None, test_fraction: float | None, seed: int
) -> Split:
    """Split the usable images by split file, by split folders, or at random (stratified).

    Raises:
        UsageError: A class has no usable images, a fraction is out of range, or the file does not fit the images or
            contradicts the split folders.
    """
    usable, fraction = loaded.usable, VAL_FRACTION if val_fraction is None else val_fraction
    for label in np.setdiff1d(loaded.catalog.labels, usable.labels):
        raise UsageError(
            f"{str(usable.root)!r}: class {usable.class_names[label]!r} has no usable images "
            "(all broken or excluded). Fix the files or remove the folder."
        )
    if split:
        drawn = load_split(split, usable, loaded.broken.keys() | loaded.excluded)
        _require_folders_kept(drawn, usable, split)
    elif usable.split_folders:
        _require_no_fractions(usable, val_fraction, test_fraction)
        drawn = folder_split(usable, fraction, seed)
    else:
        drawn = stratified_split(usable, fraction, test_fraction or 0.0, seed)
    _warn_of_missing_classes(drawn, usable)
    return drawn


def images_to_test(catalog: Catalog) -> Catalog:
    """Images of ``data.test_root`` to test on: all, or those in its test folder if it has split folders.

    Raises:
        UsageError: It has split folders, but none for test.
    """
    if not catalog.split_folders:
        return catalog
    paths = [path for path, split in catalog.folder_splits().items() if split == "test"]
    folders = ", ".join(catalog.split_folders)
    if not paths:
        raise UsageError(
            f"data.test_root={str(catalog.root)!r} has the split folders {folders}, but no test images. "
            "Pass one of the folders."
        )
    warnings.warn(
        f"data.test_root={str(catalog.root)!r} has the split folders {folders}; only test is used", stacklevel=3
    )
    return catalog.select(paths)


def _require_folders_kept(split: Split, catalog: Catalog, file: str) -> None:
    """Raise UsageError if a split moves images out of their split folder."""
    has_val = "val" in catalog.split_folders.values()
    split_of = split.by_path()
    for path, folder in catalog.folder_splits().items():
        given = split_of.get(path, folder)
        if given != folder and (has_val or (folder, given) != ("train", "val")):
            raise UsageError(
                f"data.split={file!r} puts {path!r} into {given}, but {str(catalog.root)!r} has the split "
                f"folders {', '.join(catalog.split_folders)}. Remove data.split."
            )


def _require_no_fractions(catalog: Catalog, val_fraction: float | None, test_fraction: float | None) -> None:
    """Raise UsageError if val_fraction or test_fraction is set for a dataset with split folders.

    val_fraction is allowed if there is no val folder.
    """
    given = {"data.val_fraction": val_fraction, "data.test_fraction": test_fraction}
    if "val" not in catalog.split_folders.values():
        del given["data.val_fraction"]
    given = {name: value for name, value in given.items() if value is not None}
    if given:
        raise UsageError(
            f"{', '.join(f'{name}={value}' for name, value in given.items())} cannot be used with "
            f"{str(catalog.root)!r}, which has the split folders {', '.join(catalog.split_folders)}. "
            f"Pass {' '.join(f'--{name} null' for name in given)}, or one of the folders as data.root."
        )


def _warn_of_missing_classes(split: Split, catalog: Catalog) -> None:
    total = catalog.counts()
    for name, kind in (("train", "training"), ("val", "validation")):
        counts = catalog.select(getattr(split, name)).counts()
        if absent := [repr(class_name) for class_name, count in counts.items() if total[class_name] and not count]:
            classes = f"{counted(len(absent), 'class')}: {listed(absent, 5)}"
            warnings.warn(f"no {kind} images in {classes}. Add some", stacklevel=4)


def _read_exclude(file: Path, catalog: Catalog) -> set[str]:
    rows = read_image_rows(file, "data.exclude", catalog.root, catalog.paths)
    named = {row["path"] for row in rows} - {""}
    if unknown := sorted(named - set(catalog.paths)):
        place = f"{str(catalog.root)!r} (first: {unknown[0]})"
        if len(unknown) == len(named):
            raise UsageError(
                f"data.exclude={str(file)!r} lists {counted(len(unknown), 'image')}, but none in {place}. "
                "Write paths relative to the dataset root."
            )
        images = counted(len(unknown), "image")
        warnings.warn(f"data.exclude={str(file)!r} lists {images} not in {place}", stacklevel=3)
    return named & set(catalog.paths)
