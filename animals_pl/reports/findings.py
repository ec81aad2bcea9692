"""Tables computed from a manifest: classes, outliers, broken files, duplicates, image sizes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from animals_pl.data.catalog import bilingual_name
from animals_pl.data.class_weights import class_weights
from animals_pl.data.inspection.manifest import groups_by
from animals_pl.data.splits import SPLITS

if TYPE_CHECKING:
    from animals_pl.reports.label_errors import LabelErrors

OUTLIERS = 12
"""Maximum number of images of each outlier kind."""

STRIDE = 32
"""Training sizes are multiples of 32, the total stride of most nets."""

LARGEST_SIZE = 448
"""Maximum suggested training size. The cost grows with the square of the size."""


def readable(manifest: pd.DataFrame) -> pd.DataFrame:
    """Rows of the images that can be decoded completely."""
    return manifest[manifest["problem"] == ""]


def class_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row per class: number of images, class weights, median size.

    ``balanced`` and ``reference`` are the values of ``model.class_weights``. ``balanced`` is also how often
    ``data.sampling=weighted`` draws each image of the class per epoch, on average.
    """
    classes = readable(manifest).groupby("label")
    number = classes.size().to_numpy()
    return pd.DataFrame(
        {
            "class": [bilingual_name(name) for name in classes.groups],
            "images": number,
            "share": number / number.sum(),
            "balanced": class_weights("balanced", number),
            "reference": class_weights("reference", number),
            "median width": classes["width"].median().to_numpy().astype(int),
            "median height": classes["height"].median().to_numpy().astype(int),
            "megabytes": classes["bytes"].sum().to_numpy() / 1e6,
        }
    )


def elongation(images: pd.DataFrame) -> pd.Series:
    """Longer side divided by shorter side of each image, at least 1."""
    sides = images[["width", "height"]]
    return sides.max(axis=1) / sides.min(axis=1)


def zoom_limits(images: pd.DataFrame) -> dict[str, float]:
    """Axis limits, in pixels, at which a plot of width and height shows all, 98 % or the densest part of the images."""
    long_side = images[["width", "height"]].max(axis=1)
    largest = float(long_side.max())
    densest = min(1.2 * float(long_side.median()), largest)
    return {"all": largest, "98 %": float(long_side.quantile(0.98)), "densest part": densest}


def broken_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """One row per image that cannot be decoded completely, with the reason in ``problem``."""
    return manifest.loc[manifest["problem"] != "", ["path", "label", "bytes", "problem"]].reset_index(drop=True)


def outlier_table(manifest: pd.DataFrame, count: int = OUTLIERS) -> pd.DataFrame:
    """One row per outlier: the extremes of each measure, the most extreme first.

    Columns: ``kind`` of outlier, ``value`` of the measure as text, ``path``, ``label``. Kinds: smallest, largest and
    most elongated images, near-empty ones (little local detail) and low-contrast ones (nearly one tone); at most
    ``count`` of each.
    """
    images = readable(manifest)
    pixels = images["width"] * images["height"]
    longer = elongation(images)
    shape = images["width"].astype(str) + "×" + images["height"].astype(str)
    measures = {  # kind: (values, ascending, values as text)
        "smallest": (pixels, True, shape),
        "largest": (pixels, False, shape),
        "most elongated": (longer, False, longer.map("{:.2f} : 1".format)),
        "near-empty": (images["detail"], True, images["detail"].map("detail {:.1f}".format)),
        "low-contrast": (images["contrast"], True, images["contrast"].map("contrast {:.1f}".format)),
    }
    tables = []
    for kind, (values, ascending, text) in measures.items():
        extreme = values.sort_values(ascending=ascending, kind="stable").index[:count]
        tables.append(images.loc[extreme, ["path", "label"]].assign(kind=kind, value=text[extreme]))
    return pd.concat(tables, ignore_index=True)[["kind", "value", "path", "label"]]


def duplicate_table(manifest: pd.DataFrame, split_of: dict[str, str] | None = None) -> pd.DataFrame:
    """One row per image with duplicates, sorted by group: conflicting labels first, then several splits, then size.

    Columns: ``group`` (from 1); ``kind``: ``exact`` if all files of the group are identical, else ``near``;
    ``images``, ``labels`` and ``splits``: number of distinct ones in the group; ``split`` (from ``split_of``, path →
    split; only train, val and test are counted); ``path``; ``label``. More than one label indicates a label
    error, more than one split a leak.
    """
    shared = manifest[manifest["duplicate_group"] >= 0].copy()
    shared["split"] = [(split_of or {}).get(path, "") for path in shared["path"]]
    by_group = shared.groupby("duplicate_group")
    shared["kind"] = np.where(by_group["sha256"].transform("nunique") == 1, "exact", "near")
    shared["labels"] = by_group["label"].transform("nunique")
    shared["splits"] = by_group["split"].transform(lambda splits: splits[splits.isin(SPLITS)].nunique())
    shared["images"] = by_group["path"].transform("size")
    order = ["labels", "splits", "images", "duplicate_group", "path"]
    shared = shared.sort_values(order, ascending=[False, False, False, True, True])
    shared["group"] = pd.factorize(shared["duplicate_group"])[0] + 1
    columns = ["group", "kind", "images", "labels", "splits", "split", "path", "label"]
    return shared[columns].reset_index(drop=True)


def size_table(manifest: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """The most frequent image sizes, with the number and share of images."""
    images = readable(manifest)
    sizes = images.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable").head(count)
    table = sizes.rename("images").reset_index()
    return table.assign(share=table["images"] / max(1, len(images)))


def suggest_sizes(manifest: pd.DataFrame) -> tuple[list[int], str]:
    """Suggest increasing training sizes for progressive resizing, and explain them in words.

    The last one is the largest multiple of 32 at which at most half of the images are enlarged, between 32 and 448.
    The first one is about half of it, where an epoch costs a quarter.
    """
    short = readable(manifest)[["width", "height"]].min(axis=1)
    median = float(short.median())
    final = int(np.clip(median // STRIDE * STRIDE, STRIDE, LARGEST_SIZE))
    first = max(STRIDE, round(0.55 * final / STRIDE) * STRIDE)
    sizes = sorted({*np.linspace(first, final, 4).round().astype(int) // STRIDE * STRIDE, first, final})
    enlarged = float((short < final).mean())
    cost = float(np.mean([(size / final) ** 2 for size in sizes]))
    reason = (
        f"The median of the shorter side is {median:.0f} px. {final} px is the largest multiple of {STRIDE} not above "
        f"it, but at least {STRIDE} and at most {LARGEST_SIZE}; {enlarged:.0%} of the images are enlarged at that "
        "size. "
    )
    if len(sizes) > 1:
        reason += (
            f"Training at {len(sizes)} sizes from {sizes[0]} px, each for an equal number of epochs, processes "
            f"{cost:.0%} of the pixels of training at {final} px only."
        )
    return [int(size) for size in sizes], reason


class Findings:
    """Tables that describe a dataset.

    Args:
        root: Folder that the manifest's paths are relative to.
        manifest: One row per image; at least one is readable.
        split_of: See :func:`duplicate_table`.
        label_errors: Suspected label errors; ``None``: not searched.

    Attributes:
        classes, outliers, broken, duplicates: See :func:`class_table` and so on.
    """

    def __init__(
        self,
        root: Path,
        manifest: pd.DataFrame,
        split_of: dict[str, str] | None = None,
        label_errors: LabelErrors | None = None,
    ) -> None:
        self.root, self.manifest, self.label_errors = root, manifest, label_errors
        self.classes = class_table(manifest)
        self.outliers = outlier_table(manifest)
        self.broken = broken_table(manifest)
        self.duplicates = duplicate_table(manifest, split_of)

    @property
    def imbalance(self) -> float:
        """Number of images of the largest class divided by that of the smallest."""
        counts = self.classes["images"]
        return counts.max() / counts.min()

    @property
    def notes(self) -> list[str]:
        """Notes on classes without a readable image, which are missing from the tables."""
        empty = set(self.manifest["label"]) - set(readable(self.manifest)["label"])
        return [f"class {name!r} has no image that can be decoded." for name in sorted(empty)]

    @property
    def groups(self) -> pd.DataFrame:
        """One row per duplicate group: the columns of :attr:`duplicates` that are the same for the whole group."""
        return self.duplicates.drop_duplicates("group")[["group", "kind", "images", "labels", "splits"]]

    @property
    def exact_groups(self) -> int:
        """Number of groups of identical files, which may be parts of duplicate groups."""
        return len(groups_by("sha256", readable(self.manifest)))

    @property
    def near_groups(self) -> int:
        """Number of duplicate groups whose files are not all identical."""
        return int((self.groups["kind"] == "near").sum())

    @property
    def exclude(self) -> pd.DataFrame:
        """Images whose label is in doubt, with the reason: suspects, and identical files with conflicting labels."""
        images = readable(self.manifest)
        exact = images[images.duplicated("sha256", keep=False)]
        labels = exact.groupby("sha256")["label"].transform(lambda names: " and ".join(sorted(set(names))))
        reasons = {
            path: f"identical files with the labels {names}"
            for path, label, names in zip(exact["path"], exact["label"], labels, strict=True)
            if label != names
        }
        if self.label_errors is not None:
            reasons |= dict(zip(self.label_errors.table["path"], self.label_errors.reasons, strict=True))
        return pd.DataFrame(list(reasons.items()), columns=["path", "reason"])
