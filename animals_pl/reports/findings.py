"""Manifest → tables: the classes, odd and broken images, duplicates, leaks, sizes to train at.

Pure functions of a manifest (see :mod:`animals_pl.data.inspection.manifest`), one table each.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from animals_pl.data.catalog import display_name
from animals_pl.data.class_weights import class_weights

ODD_COUNT = 12
"""How many images of each kind of oddness are listed."""

STRIDE = 32
"""Training sizes are multiples of the factor by which most nets shrink their input."""

LARGEST_SIZE = 448
"""No larger training size is suggested, whatever the images: cost grows with the square."""


def readable(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the images that can be used."""
    return manifest[manifest["problem"] == ""]


def class_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return one row per class: its images, and how each option would balance it.

    The columns ``balanced`` and ``reference`` are the factors of ``model.class_weights``; the first is also how
    often ``data.sampling=weighted`` draws each of the class's images in an epoch, on average.
    """
    usable = readable(manifest)
    counts = usable["label"].value_counts().sort_index()
    number = counts.to_numpy()
    sides = usable.groupby("label")[["width", "height"]].median()
    return pd.DataFrame(
        {
            "class": [display_name(name) for name in counts.index],
            "images": number,
            "share": number / number.sum(),
            "balanced": class_weights("balanced", number),
            "reference": class_weights("reference", number),
            "median width": sides["width"].to_numpy().astype(int),
            "median height": sides["height"].to_numpy().astype(int),
            "megabytes": usable.groupby("label")["bytes"].sum().to_numpy() / 1e6,
        }
    )


def elongation(usable: pd.DataFrame) -> pd.Series:
    """Return how many times longer the longer side of each image is: 1 for a square."""
    sides = usable[["width", "height"]]
    return sides.max(axis=1) / sides.min(axis=1)


def zoom_limits(usable: pd.DataFrame) -> dict[str, float]:
    """Return, in pixels, up to where a plot of width and height shows all, nearly all and the densest part."""
    long_side = usable[["width", "height"]].max(axis=1)
    largest = float(long_side.max())
    densest = min(1.2 * float(long_side.median()), largest)
    return {"all": largest, "98 %": float(long_side.quantile(0.98)), "densest part": densest}


def broken_table(manifest: pd.DataFrame) -> pd.DataFrame:
    """Return the images that cannot be used, with the reason."""
    return manifest.loc[manifest["problem"] != "", ["path", "label", "bytes", "problem"]].reset_index(drop=True)


def odd_table(manifest: pd.DataFrame, count: int = ODD_COUNT) -> pd.DataFrame:
    """Return the most unusual images: the extremes of each measure, the most extreme first.

    The columns ``oddness`` and ``value`` say in which respect, and how much. *Near-empty* ones hardly change from
    one place to the next, *low-contrast* ones have nearly one tone; the rest is size and shape.
    """
    usable = readable(manifest)
    pixels = usable["width"] * usable["height"]
    longer = elongation(usable)
    shape = usable["width"].astype(str) + "×" + usable["height"].astype(str)
    measures = {  # name: (order, smallest first or largest, text)
        "smallest": (pixels, True, shape),
        "largest": (pixels, False, shape),
        "most elongated": (longer, False, longer.map("{:.2f} : 1".format)),
        "near-empty": (usable["detail"], True, usable["detail"].map("detail {:.1f}".format)),
        "low-contrast": (usable["contrast"], True, usable["contrast"].map("contrast {:.1f}".format)),
    }
    tables = []
    for name, (order, ascending, text) in measures.items():
        extreme = order.sort_values(ascending=ascending, kind="stable").index[:count]
        tables.append(usable.loc[extreme, ["path", "label"]].assign(oddness=name, value=text[extreme]))
    return pd.concat(tables, ignore_index=True)[["oddness", "value", "path", "label"]]


def duplicate_table(manifest: pd.DataFrame, split_of: dict[str, str] | None = None) -> pd.DataFrame:
    """Return the images that have duplicates, group by group, those under two labels first, then by size.

    Columns: ``group`` (from 1); ``kind``, ``exact`` where all of a group have the same content, else ``near``;
    ``labels`` and ``splits``, how many different ones the group has; ``copies``, its images; ``split`` where a
    split is given; ``path`` and ``label``. More than one label is a label error, more than one split is a leak.

    Args:
        manifest: The images.
        split_of: Path → split of a split.
    """
    shared = manifest[manifest["duplicate_group"] >= 0].copy()
    shared["split"] = [(split_of or {}).get(path, "") for path in shared["path"]]
    by_group = shared.groupby("duplicate_group")
    shared["kind"] = np.where(by_group["sha256"].transform("nunique") == 1, "exact", "near")
    shared["labels"] = by_group["label"].transform("nunique")
    shared["splits"] = by_group["split"].transform(
        lambda splits: splits[splits.isin(("train", "val", "test"))].nunique()
    )
    shared["copies"] = by_group["path"].transform("size")
    order = ["labels", "splits", "copies", "duplicate_group", "path"]
    shared = shared.sort_values(order, ascending=[False, False, False, True, True])
    shared["group"] = pd.factorize(shared["duplicate_group"])[0] + 1
    columns = ["group", "kind", "copies", "labels", "splits", "split", "path", "label"]
    return shared[columns].reset_index(drop=True)


def size_table(manifest: pd.DataFrame, count: int = 10) -> pd.DataFrame:
    """Return the most frequent picture sizes and the share of images that has each."""
    usable = readable(manifest)
    sizes = usable.groupby(["width", "height"]).size().sort_values(ascending=False, kind="stable").head(count)
    table = sizes.rename("images").reset_index()
    return table.assign(share=table["images"] / max(1, len(usable)))


def suggest_sizes(manifest: pd.DataFrame) -> tuple[list[int], str]:
    """Return training sizes for progressive resizing, rising, and the reason in words.

    The last is the largest multiple of 32 that does not enlarge more than half of the images; the others
    begin at about half of it, where an epoch costs a quarter.
    """
    short = readable(manifest)[["width", "height"]].min(axis=1)
    median = float(short.median())
    final = int(np.clip(median // STRIDE * STRIDE, STRIDE, LARGEST_SIZE))
    first = max(STRIDE, round(0.55 * final / STRIDE) * STRIDE)
    sizes = sorted({*np.linspace(first, final, 4).round().astype(int) // STRIDE * STRIDE, first, final})
    enlarged = float((short < final).mean())
    cost = float(np.mean([(size / final) ** 2 for size in sizes]))
    reason = (
        f"Half of the images have a shorter side of {median:.0f} px or more. {final} px is the largest multiple "
        f"of {STRIDE} (what most nets shrink their input by) up to that, between {STRIDE} and {LARGEST_SIZE}: "
        f"{enlarged:.0%} of the images have to be enlarged for it. "
    )
    if len(sizes) > 1:
        reason += (
            f"Beginning at {sizes[0]} px and rising in {len(sizes)} equal parts of the epochs takes {cost:.0%} of the "
            f"pixels of a training at {final} px throughout."
        )
    return [int(size) for size in sizes], reason
