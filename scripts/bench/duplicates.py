"""Tune ``duplicates.MAX_DISTANCE``: edited copies found within each distance, and pairs among the originals.

python -m scripts.bench.duplicates --root DIR --output DIR [--sample N] [--seed N]
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from PIL import Image, ImageEnhance, ImageOps
from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.inspection.alignment import same_picture
from animals_pl.data.inspection.duplicates import MAX_DISTANCE, near_pairs
from animals_pl.data.inspection.image_facts import ImageFacts
from animals_pl.data.inspection.manifest import inspect_all
from animals_pl.errors import UsageError

LIMITS = (52, 60, 64, 68, 72, 76, 84)
"""Distances in the tables, in bits of 256."""

SHOWN = (56, 84)
"""Range of the contact sheet in bits. Below it nearly all pairs are duplicates, above it nearly none."""

MOST = 120
"""Maximum number of pairs on the sheet. If there are more, an evenly spaced selection is shown."""

COLUMNS, FRAME = 3, (224, 168)
"""Pairs per row of the sheet; maximum width and height of an image, in pixels."""

Edit = Callable[[Image.Image, np.random.Generator], Image.Image]


def _crop(picture: Image.Image, left: float, top: float, right: float, bottom: float) -> Image.Image:
    """Crop these fractions of width and height on each side."""
    box = np.array([left, top, 1 - right, 1 - bottom]) * [*picture.size, *picture.size]
    return picture.crop(box.round().astype(int).tolist())


COPIES: dict[str, tuple[Edit, int]] = {
    "half size": (lambda picture, rng: ImageOps.scale(picture, 0.5, Image.Resampling.BICUBIC), 90),
    "stretched by 25 %": (lambda picture, rng: picture.resize((round(1.25 * picture.width), picture.height)), 90),
    "JPEG quality 30": (lambda picture, rng: picture, 30),
    "brighter by 30 %": (lambda picture, rng: ImageEnhance.Brightness(picture).enhance(1.3), 90),
    "flipped": (lambda picture, rng: ImageOps.mirror(picture), 90),
    "cropped by 5 % on each side": (lambda picture, rng: _crop(picture, 0.05, 0.05, 0.05, 0.05), 90),
    "cropped by up to 3 % a side": (lambda picture, rng: _crop(picture, *rng.uniform(0, 0.03, 4)), 90),
    "cropped by 8 % on one side": (lambda picture, rng: _crop(picture, *rng.permutation([0.08, 0, 0, 0])), 90),
}
"""Kind of copy → the edit and the JPEG quality."""


def hashed_pairs(
    found: Sequence[ImageFacts], distance: int, same: Callable[[int, int], bool] = lambda i, j: True
) -> np.ndarray:
    """Near pairs (P, 3) of files with a hash; ``same`` decides pairs whose colours differ."""
    index = np.array([place for place, one in enumerate(found) if one.perceptual_hash], dtype=np.int64)
    hashes, centres = ([getattr(found[i], key) for i in index] for key in ("perceptual_hash", "centre_hash"))
    pairs = near_pairs(hashes, centres, lambda i, j: same(index[i], index[j]), distance)
    return np.column_stack([index[pairs[:, :2]], pairs[:, 2]])


def _same(files: Sequence[Path], i: int, j: int) -> bool:
    return same_picture(files[i], files[j])


def recall(files: Sequence[Path], found: Sequence[ImageFacts], rng: np.random.Generator) -> dict[str, list[float]]:
    """Kind of copy → fraction of the files whose copy is found within each of LIMITS."""
    with tempfile.TemporaryDirectory() as folder:
        copies: dict[str, list[Path]] = {kind: [] for kind in COPIES}
        for number, file in enumerate(files):
            picture = Image.fromarray(decode(file))
            for kind, (edit, quality) in COPIES.items():
                copies[kind].append(Path(folder) / f"{kind} {number}.jpg")
                edit(picture, rng).save(copies[kind][-1], quality=quality)
        shares = {}
        for kind, paths in copies.items():
            both = [*found, *inspect_all(paths)]
            same = cache(partial(_same, [*files, *paths]))
            pairs = [hashed_pairs(both, limit, same) for limit in LIMITS]
            shares[kind] = [float((each[:, 1] - each[:, 0] == len(files)).sum()) / len(files) for each in pairs]
    return shares


def table(title: str, rows: dict[str, list[str]]) -> Table:
    """Table with one row per name and one column per limit."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    result.add_column("within … of 256 bits", no_wrap=True)
    for limit in LIMITS:
        result.add_column(f"{limit}", justify="right", style="bold" if limit == MAX_DISTANCE else "")
    for name, cells in rows.items():
        result.add_row(name, *cells)
    return result


def contact_sheet(catalog: Catalog, pairs: np.ndarray, same: np.ndarray) -> Figure:
    """Figure with pairs (P, 3) side by side, each with its distance, verdict ``same`` (P,) and labels."""
    rows = max(1, -(-len(pairs) // COLUMNS))
    figure = Figure(figsize=(4 * COLUMNS, 1.9 * rows), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
    for axes in panels:
        axes.set_axis_off()
    for axes, (i, j, bits), one in zip(panels, pairs.tolist(), same.tolist(), strict=False):
        pictures = [Image.fromarray(decode(catalog.root / catalog.paths[index])) for index in (i, j)]
        axes.imshow(np.hstack([np.asarray(ImageOps.pad(picture, FRAME, color="white")) for picture in pictures]))
        labels = " · ".join(dict.fromkeys(catalog.class_names[catalog.labels[index]] for index in (i, j)))
        colour = "green" if one and bits <= MAX_DISTANCE else "darkorange"
        axes.set_title(f"{bits} bits, {'duplicates' if one else 'different'}: {labels}", fontsize=9, color=colour)
    return figure


def main(args: Sequence[str] | None = None) -> None:
    """Measure a folder, print two tables and write the contact sheet ``pairs.png``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--output", type=Path, required=True, help="folder for the contact sheet")
    parser.add_argument("--sample", type=int, default=300, help="images to copy")
    parser.add_argument("--seed", type=int, default=0, help="seed of the sample and the crops")
    options = parser.parse_args(args)
    try:
        catalog = scan_folder(options.root, argument="root")
    except UsageError as error:
        parser.error(str(error))
    if options.sample < 1:
        parser.error(f"--sample={options.sample} is too small. Pass 1 or more.")

    console, rng = Console(), np.random.default_rng(options.seed)
    files = [catalog.root / path for path in catalog.paths]
    found = inspect_all(files)
    usable = [index for index, one in enumerate(found) if one.perceptual_hash]
    if not usable:
        parser.error(f"--root={str(options.root)!r} has only blank or broken images. Pass another folder.")
    sample = sorted(rng.permutation(usable)[: options.sample].tolist())
    shares = recall([files[index] for index in sample], [found[index] for index in sample], rng)
    cells = {kind: [f"{100 * share:.1f}".removesuffix(".0") for share in row] for kind, row in shares.items()}
    console.print(table(f"Copies of {len(sample):,} images found, in %", cells))

    same = cache(partial(_same, files))
    near = [hashed_pairs(found, limit) for limit in LIMITS]
    copies = [hashed_pairs(found, limit, same) for limit in LIMITS]
    across = [each[catalog.labels[each[:, 0]] != catalog.labels[each[:, 1]]] for each in copies]
    kinds = {"near": near, "duplicates": copies, "duplicates with conflicting labels": across}
    counts = {name: [f"{len(each):,}" for each in kind] for name, kind in kinds.items()}
    console.print(table(f"Pairs among the {len(files):,} images themselves", counts))

    pairs = hashed_pairs(found, SHOWN[1])
    duplicate_pairs = set(map(tuple, hashed_pairs(found, SHOWN[1], same)[:, :2].tolist()))
    one = np.array([(i, j) in duplicate_pairs for i, j, _ in pairs.tolist()], dtype=bool)
    shown = np.flatnonzero(pairs[:, 2] >= SHOWN[0])
    shown = shown[np.argsort(pairs[shown, 2], kind="stable")][:: -(-len(shown) // MOST) or 1]
    console.print(
        f"{len(shown)} pairs of {SHOWN[0]} to {SHOWN[1]} bits: {options.output / 'pairs.png'}", soft_wrap=True
    )
    options.output.mkdir(parents=True, exist_ok=True)
    contact_sheet(catalog, pairs[shown], one[shown]).savefig(options.output / "pairs.png")


if __name__ == "__main__":
    main()
