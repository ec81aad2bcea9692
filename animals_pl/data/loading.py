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
from animals_pl.data.splits import Split, load_split, stratified_split
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError


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
    manifest = scan(catalog).manifest
    groups = manifest["duplicate_group"].to_numpy() if group_duplicates else catalog.groups
    if group_by:
        groups = join_groups(groups, groups_of_rule(group_by, catalog))
    catalog = replace(catalog, sha256=manifest["sha256"].tolist(), groups=groups)
    problems = zip(catalog.paths, manifest["problem"], strict=True)
    broken = {path: problem for path, problem in problems if problem}
    excluded = _read_exclude(Path(exclude), catalog) if exclude else set()
    usable = [path for path in catalog.paths if path not in broken and path not in excluded]
    return LoadedDataset(catalog, catalog.select(usable), broken, excluded)


def split_dataset(
    loaded: LoadedDataset, *, split: str | None, val_fraction: float, test_fraction: float, seed: int
) -> Split:
    """Split the usable images (see :func:`stratified_split`), or read their split from the file ``split``.

    Raises:
        UsageError: A class has no usable images, a fraction is out of range, or the file does not fit the images.
    """
    for label in np.setdiff1d(loaded.catalog.labels, loaded.usable.labels):
        raise UsageError(
            f"{str(loaded.catalog.root)!r}: class {loaded.catalog.class_names[label]!r} has no usable images "
            "(all broken or excluded). Fix the files or remove the folder."
        )
    if split:
        return load_split(split, loaded.usable, loaded.broken.keys() | loaded.excluded)
    return stratified_split(loaded.usable, val_fraction, test_fraction, seed)


def _read_exclude(file: Path, catalog: Catalog) -> set[str]:
    named = {row["path"] for row in read_rows(file, "data.exclude", "path")} - {""}
    if unknown := sorted(named - set(catalog.paths)):
        warnings.warn(
            f"data.exclude={str(file)!r} lists {len(unknown)} images that are not in {str(catalog.root)!r} "
            f"(first: {unknown[0]})",
            stacklevel=3,
        )
    return named & set(catalog.paths)
