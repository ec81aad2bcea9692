"""Find unlabelled images, and those among them that training can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from animals_pl.data.catalog import Catalog
from animals_pl.data.grouping import group_by as groups_of_rule
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import duplicate_groups
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.splits import Split
from animals_pl.data.strings import Strings
from animals_pl.data.walk import walk_images
from animals_pl.errors import UsageError, one_line

# Why an image is left out.
BROKEN = "broken"
LABELLED = "near-duplicate of a labelled image"
DUPLICATE = "near-duplicate of an unlabelled image"
GROUPED = "in the group (data.group_by) of a labelled image"


@dataclass(frozen=True)
class UnlabelledImages:
    """The images below a folder.

    Attributes:
        usable: The images that can be used, labelled -1, with sha256.
        left_out: Path → reason, for the others.
    """

    usable: Catalog
    left_out: dict[str, str]


def find_unlabelled(
    folder: str | Path, catalog: Catalog, split: Split, *, group_by: str | None = None, test_root: str | None = None
) -> UnlabelledImages:
    """Find the images at any depth below a folder, and inspect them.

    Images that cannot be decoded completely are left out. So are near-duplicates of labelled images, and images in the
    same group as a labelled image: copies of validation and test images would make the metrics too good. Of several
    near-duplicates among the unlabelled images, the first is usable.

    Args:
        folder: Folder of unlabelled images.
        catalog: The dataset.
        split: Its labelled images; excluded ones are in no split and count as unlabelled.
        group_by: Rule for further groups (see :func:`animals_pl.data.grouping.group_by`).
        test_root: Folder of other test images.

    Raises:
        UsageError: See :func:`scan_unlabelled`.
    """
    images = scan_unlabelled(folder, catalog)
    facts = scan(images).manifest
    is_labelled = Strings.of(split.by_path()).index_of(catalog.paths) >= 0
    others = [(catalog, is_labelled)]
    if test_root:
        tested = scan_unlabelled(test_root, argument="data.test_root")
        others.append((tested, np.ones(len(tested.paths), dtype=bool)))
    problems = (facts["problem"] != "").to_numpy()
    is_duplicate, is_repeated = _duplicates(images, facts, others)
    is_grouped = np.zeros(len(facts), dtype=bool)
    if group_by:
        both = replace(catalog, paths=[*catalog.paths, *images.paths])
        of_catalog, of_images = np.split(groups_of_rule(group_by, both), [len(catalog.paths)])
        is_grouped = (of_images >= 0) & np.isin(of_images, of_catalog[is_labelled])
    conditions = [problems, is_duplicate, is_grouped, is_repeated]
    reasons = np.select(conditions, [BROKEN, LABELLED, GROUPED, DUPLICATE], "")
    unlabelled = Catalog(images.root, [], images.paths, np.full(len(facts), -1), Strings.of(facts["sha256"]))
    left_out = {path: str(reason) for path, reason in zip(images.paths, reasons, strict=True) if reason}
    return UnlabelledImages(unlabelled.take(np.flatnonzero(reasons == "")), left_out)


def scan_unlabelled(folder: str | Path, dataset: Catalog | None = None, argument: str = "data.unlabelled") -> Catalog:
    """List the images at any depth below a folder, as a catalog with a single class.

    Args:
        folder: The folder.
        dataset: The dataset. The folder may not be one of its class folders, or inside one.
        argument: Name of the option that ``folder`` came from, for messages.

    Raises:
        UsageError: The folder does not exist, has no images, or is a class folder of the dataset or inside one.
    """
    root, remedy = Path(folder), "Pass another folder of images, or remove the argument."
    try:
        is_folder = root.is_dir()
    except OSError as error:  # such as a name that is too long
        raise UsageError(f"{argument}={str(folder)!r} is not a folder ({one_line(error)}). {remedy}") from error
    if not is_folder:
        raise UsageError(f"{argument}={str(folder)!r} is not a folder. {remedy}")
    if dataset is not None and root.resolve().parent.is_relative_to(dataset.root.resolve()):
        inner = f"{root.resolve().relative_to(dataset.root.resolve()).as_posix()}/"
        if any(path.startswith(inner) for path in dataset.paths):
            raise UsageError(
                f"{argument}={str(folder)!r} is a class folder of data.root, or inside one: its images are "
                "labelled. Move it out of data.root."
            )
    paths = Strings.of(sorted(walk_images(root)))
    if not paths:
        raise UsageError(f"{argument}={str(folder)!r} has no images. {remedy}")
    return Catalog(root, [""], paths, np.zeros(len(paths), dtype=np.int64))


def require_unchanged(folder: str | Path, paths: Sequence[str], sha256: Sequence[str]) -> None:
    """Check that images still exist, with the same contents.

    Args:
        folder: The folder.
        paths: Paths of the images below it (N).
        sha256: Their content hashes (N).

    Raises:
        UsageError: The folder does not exist, or an image is missing or has changed.
    """
    if not len(paths):
        return
    images = scan_unlabelled(folder)
    rows = Strings.of(images.paths).index_of(paths)
    found = np.array([*scan(images).columns["sha256"], ""], dtype=object)[rows]  # row -1 (missing): ""
    for path, now, before in zip(paths, found, sha256, strict=True):
        if now != before:
            change = "has changed" if now else "is missing"
            raise UsageError(
                f"data.unlabelled={str(folder)!r}: {path!r} {change} since the run was started. Restore it, or start "
                "a new run."
            )


def _duplicates(
    images: Catalog, facts: pd.DataFrame, others: Sequence[tuple[Catalog, np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each image (N,) is a near-duplicate of a labelled image, and whether of an earlier unlabelled one.

    ``others``: catalogs, and which of their images are labelled.
    """
    places = [images, *(catalog for catalog, _ in others)]
    table = pd.concat([facts, *(scan(catalog).manifest for catalog, _ in others)], ignore_index=True)
    files = [place.root / path for place in places for path in place.paths]
    groups = duplicate_groups(
        table["sha256"].where(table["problem"] == "", "").tolist(),
        table["perceptual_hash"].tolist(),
        table["centre_hash"].tolist(),
        lambda i, j: same_picture(files[i], files[j]),
    )
    mine, theirs = np.split(groups, [len(facts)])
    labelled = theirs[np.concatenate([is_labelled for _, is_labelled in others])]
    grouped = mine >= 0
    return grouped & np.isin(mine, labelled), grouped & pd.Series(mine).duplicated().to_numpy()
