"""Find unlabelled images, and those among them that training can use."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from animals_pl.data.catalog import Catalog
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import duplicate_groups
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.splits import Split
from animals_pl.data.strings import Strings
from animals_pl.data.walk import walk_images
from animals_pl.errors import UsageError

BROKEN, LABELLED, DUPLICATE = "broken", "near-duplicate of a labelled image", "near-duplicate of an unlabelled image"
"""Why an image is left out."""


@dataclass(frozen=True)
class UnlabelledImages:
    """The images below a folder.

    Attributes:
        usable: The images that can be used, labelled -1, with sha256.
        left_out: Path → reason, for the others.
    """

    usable: Catalog
    left_out: dict[str, str]


def find_unlabelled(folder: str | Path, catalog: Catalog, split: Split) -> UnlabelledImages:
    """Find the images at any depth below a folder, and inspect them.

    Images that cannot be decoded completely are left out, and so are near-duplicates of labelled images: those of
    validation and test images would make the metrics too good. Of near-duplicates among each other, the first one is
    usable.

    Args:
        folder: The folder.
        catalog: The dataset.
        split: Its labelled images; excluded ones are in no split and count as unlabelled.

    Raises:
        UsageError: See :func:`scan_unlabelled`.
    """
    images = scan_unlabelled(folder)
    mine = scan(images).manifest
    of_catalog, of_mine = np.split(_groups(catalog, images, mine), [len(catalog.paths)])
    of_labelled = of_catalog[Strings.of(catalog.paths).index_of(split.by_path())]
    reasons = np.select(
        [mine["problem"] != "", (of_mine >= 0) & np.isin(of_mine, of_labelled), _repeated(of_mine)],
        [BROKEN, LABELLED, DUPLICATE],
        "",
    )
    usable = np.flatnonzero(reasons == "")
    unlabelled = Catalog(images.root, [], images.paths, np.full(len(mine), -1), Strings.of(mine["sha256"]))
    left_out = {path: str(reason) for path, reason in zip(images.paths, reasons, strict=True) if reason}
    return UnlabelledImages(unlabelled.take(usable), left_out)


def scan_unlabelled(folder: str | Path) -> Catalog:
    """List the images at any depth below a folder, as a catalog with a single class.

    Raises:
        UsageError: The folder does not exist, or has no images.
    """
    root = Path(folder)
    if not root.is_dir():
        raise UsageError(f"data.unlabelled={str(folder)!r} is not a folder. Pass a folder of images, or remove it.")
    paths = Strings.of(sorted(walk_images(root)))
    if not paths:
        raise UsageError(f"data.unlabelled={str(folder)!r} has no images. Pass another folder, or remove it.")
    return Catalog(root, [""], paths, np.zeros(len(paths), dtype=np.int64))


def _groups(catalog: Catalog, images: Catalog, facts: pd.DataFrame) -> np.ndarray:
    """Number of the group of near-duplicates of each image of the dataset and of each unlabelled image, or -1."""
    both = pd.concat([scan(catalog).manifest, facts], ignore_index=True)
    files = [place.root / path for place in (catalog, images) for path in place.paths]
    return duplicate_groups(
        both["sha256"].where(both["problem"] == "", "").tolist(),
        both["perceptual_hash"].tolist(),
        both["centre_hash"].tolist(),
        lambda i, j: same_picture(files[i], files[j]),
    )


def _repeated(groups: np.ndarray) -> np.ndarray:
    """Whether each image (N,) is not the first one of its group."""
    return pd.Series(groups).duplicated().to_numpy() & (groups >= 0)
