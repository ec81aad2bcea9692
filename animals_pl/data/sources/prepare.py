"""The command ``prepare``: generate, download, unpack or link a dataset, and inspect it."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from PIL import Image
from rich.table import Table

from animals_pl.data.catalog import (
    ANIMALS10,
    ANIMALS10_COUNTS,
    MAX_CLASSES,
    RAW,
    Catalog,
    display_name,
    english_name,
    scan_folder,
)
from animals_pl.data.inspection.duplicates import MAX_COMPONENT
from animals_pl.data.inspection.manifest import groups_by, is_manifest, scan, write_manifest
from animals_pl.data.sources.archives import Unpacked, is_archive, unpack
from animals_pl.data.sources.hub_dataset import download_dataset, split_of_files
from animals_pl.data.sources.parquet import write_images
from animals_pl.data.sources.practice import practice_set
from animals_pl.data.sources.practice.practice_set import PRACTICE_ROOT, draw_practice_set
from animals_pl.data.walk import find_images
from animals_pl.errors import UsageError, counted, did_you_mean, one_line
from animals_pl.files import printable, require_writable, show
from animals_pl.hub import is_address

ANIMALS10_ROOT = "datasets/animals10"
"""Default output. The configurations expect the images in its folder ``raw-img``."""

KAGGLE_HANDLE = "alessiocorrado99/animals10"

MAX_LISTED = 10
"""Maximum number of broken files that the report lists."""


def prepare(source: str = "practice", output: str | None = None, count: int = 1000, seed: int = 0) -> None:
    """Generate, download, unpack or link a dataset, inspect it and write its manifest.

    Existing images are kept, so an interrupted run can be repeated; a second run only inspects again.

    Args:
        source: ``practice`` generates a synthetic dataset of ten animal classes. ``kaggle`` downloads Animals-10.
            ``hf://datasets/OWNER/NAME`` or ``hf://datasets/OWNER/NAME@REVISION`` downloads a dataset on the Hugging
            Face Hub (folders of images, or Parquet). An archive (.zip, .tar, .tar.gz) is unpacked. A folder with one
            folder of images per class is linked.
        output: Folder for the images and ``manifest.csv``. Default: ``datasets/practice`` for the practice set,
            otherwise ``datasets/animals10``.
        count: Number of images of the practice set, in Animals-10's class proportions.
        seed: Seed of the practice set.

    Raises:
        UsageError: The source cannot be used, or the output cannot be written without overwriting other files.
    """
    folder = Path(output or (PRACTICE_ROOT if source == "practice" else ANIMALS10_ROOT))
    manifest = folder / "manifest.csv"
    if seed < 0:
        raise UsageError(f"seed={seed} is too small. Choose 0 or more.")
    require_writable(folder, folder=True)
    if manifest.exists() and not is_manifest(manifest):
        raise UsageError(f"output: {str(manifest)!r} exists but is not a manifest. Rename it or pass another --output.")
    try:
        catalog = scan_folder(_provide(source, folder, count, seed), argument="source")
    except OSError as error:
        if error.filename is not None:
            raise
        raise UsageError(  # the error of a full disk has no filename
            f"output={str(folder)!r} cannot be written ({error.strerror}). Free disk space, or choose another output."
        ) from error
    found = scan(catalog)
    write_manifest(found.manifest, catalog.root, manifest)
    root, counts = catalog.root, catalog.counts()
    link = f" -> {root.resolve()}" if root.is_symlink() else ""
    print(printable(f"images            {root}{link}"))
    print(printable(f"manifest          {manifest}"))
    print(f"scan              {found}")
    if catalog.split_folders:
        print(f"split             folders {', '.join(catalog.split_folders)}")
    _print_faults(found.manifest)
    _print_classes(counts, {} if source == "practice" else _known_counts(counts))
    _print_next(catalog, "quickstart" if source == "practice" else "mobilenetv3_small_best")


def _provide(source: str, output: Path, count: int, seed: int) -> Path:
    if source == "practice":
        return _draw(output, count, seed)
    if source == "kaggle":
        return _link(_download(), output)
    if is_address(source):
        return _fetch(source, output)
    if is_archive(Path(source)):
        return _unpack(Path(source), output / RAW)
    if source and Path(source).is_dir():  # "" would be the working directory
        return _link(Path(source), output)
    fault = "is not an archive that can be unpacked" if Path(source).is_file() else "does not exist"
    raise UsageError(
        f"source={source!r} {fault}. {did_you_mean(source, ['practice', 'kaggle'])}"
        "Pass practice, kaggle, hf://datasets/OWNER/NAME, an archive (.zip, .tar, .tar.gz) or a folder with one folder "
        "of images per class."
    )


def _draw(folder: Path, count: int, seed: int) -> Path:
    if _is_drawn(folder, count, seed):
        print(f"the practice set of {count:,} images already exists")
    else:
        draw_practice_set(folder, count, seed)
        print(f"{counted(count, 'image')} generated")
    return folder


def _is_drawn(folder: Path, count: int, seed: int) -> bool:
    """Whether a folder contains this practice set: the same class counts, and the first images of the same size."""
    counts = practice_set.practice_counts(count)
    try:
        if scan_folder(folder).counts() != counts:
            return False
        with tempfile.TemporaryDirectory() as scratch:
            first = draw_practice_set(Path(scratch) / "set", practice_set.MIN_PER_CLASS * len(counts), seed)
            return all(_size(folder / image.relative_to(first)) == _size(image) for image in find_images(first))
    except (UsageError, OSError):
        return False


def _size(image: Path) -> tuple[int, int]:
    with Image.open(image) as picture:
        return picture.size


def _download() -> Path:
    remedy = f"or download https://www.kaggle.com/datasets/{KAGGLE_HANDLE} yourself and pass --source ARCHIVE.zip"
    try:
        import kagglehub
    except ImportError as error:
        install = "pip install 'animals_pl[train,kaggle]'"
        raise UsageError(f"source=kaggle needs kagglehub. Run {install}, {remedy}.") from error
    try:
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except Exception as error:  # from kagglehub, requests, zipfile or the system
        raise UsageError(f"source=kaggle cannot be downloaded ({one_line(error)}). Try again, {remedy}.") from error


def _fetch(source: str, output: Path) -> Path:
    """Link a dataset of the hub, or write the images of its Parquet files to ``output/raw-img``."""
    folder, parquet = download_dataset(source)
    if not parquet:
        return _link(folder, output)
    root = output / RAW
    _require_no_link(root)
    split_of = split_of_files(parquet, source)
    _print_unpacked(write_images({folder / file: split for file, split in split_of.items()}, root, source))
    return root


def _unpack(archive: Path, root: Path) -> Path:
    _require_no_link(root)
    _print_unpacked(unpack(archive, root))
    return root


def _require_no_link(root: Path) -> None:
    if root.is_symlink():
        raise UsageError(
            f"output: {str(root)!r} is a link to {str(root.resolve())!r}. Images are not written "
            "through links; remove the link or pass another --output."
        )


def _print_unpacked(result: Unpacked) -> None:
    existing = f", {result.images - result.written:,} already exist" if result.written < result.images else ""
    others = f", {counted(result.left_out, 'other item')} left out" if result.left_out else ""
    print(f"{counted(result.written, 'image')} unpacked{existing}{others}")


def _link(folder: Path, output: Path) -> Path:
    """Link ``output/raw-img`` to a dataset and return it, or ``output`` if it contains the class folders itself."""
    root = scan_folder(folder, argument="source").root.resolve()
    link = output / RAW
    if root == output.resolve():
        return output
    if root == link.resolve():
        return link
    if output.resolve().is_relative_to(root):
        raise UsageError(f"output={str(output)!r} is inside the image folder. Pass another --output.")
    if link.exists() or link.is_symlink():
        what = f"is a link to {str(link.resolve())!r}" if link.is_symlink() else "already exists"
        raise UsageError(f"output: {str(link)!r} {what}. Remove it or pass another --output.")
    output.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise UsageError(
            f"output: the link {str(link)!r} cannot be created ({error.strerror}). "
            f"Pass --data.root {shlex.quote(str(root))} to fit instead."
        ) from error
    return link


def _print_faults(manifest: pd.DataFrame) -> None:
    broken = manifest[manifest["problem"] != ""]
    print(f"broken            {counted(len(broken), 'image') if len(broken) else 'none'}")
    for path, problem in broken[["path", "problem"]].head(MAX_LISTED).itertuples(index=False):
        print(printable(f"  {path}: {problem}"))
    if len(broken) > MAX_LISTED:
        print(f"  and {len(broken) - MAX_LISTED:,} more (see the manifest)")
    readable = manifest[manifest["problem"] == ""]
    groups = groups_by("duplicate_group", readable[readable["duplicate_group"] >= 0])
    print(f"exact duplicates  {_summary(groups_by('sha256', readable))}")
    print(f"near-duplicates   {_summary(groups[groups['sha256'] > 1])}")
    for path, size in groups.loc[groups["size"] > MAX_COMPONENT, ["first", "size"]].itertuples(index=False):
        print(f"  {size:,} near-duplicates, such as {printable(path)}")


def _summary(groups: pd.DataFrame) -> str:
    if groups.empty:
        return "none"
    images, conflicting = counted(int(groups["size"].sum()), "image"), (groups["labels"] > 1).sum()
    return f"{images} in {counted(len(groups), 'group')}; groups with conflicting labels: {conflicting or 'none'}"


def _known_counts(class_names: Iterable[str]) -> dict[str, int]:
    """Animals-10's images per class, or nothing if fewer than half of its classes are present.

    Classes are named as in the dataset (Italian or English); missing ones have their Italian name.
    """
    here = {english_name(name).lower(): name for name in class_names}
    known = {here.get(english, name): ANIMALS10_COUNTS[name] for name, english in ANIMALS10.items()}
    return known if len(known.keys() & here.values()) >= len(known) / 2 else {}


def _print_classes(counts: dict[str, int], known: dict[str, int]) -> None:
    """Print images per class; if ``known`` is given, compare with Animals-10 and warn of differences."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="bold")
    table.add_column("class")
    for column in ("images", "in Animals-10", "difference")[: 3 if known else 1]:
        table.add_column(column, justify="right")
    names = sorted(counts.keys() | known.keys())
    rows = [(display_name(name), counts.get(name, 0), known.get(name, 0)) for name in names]
    print()
    if len(rows) > MAX_CLASSES:
        print(f"the {MAX_CLASSES} of {len(rows):,} classes with the fewest images:")
        rows = sorted(rows, key=lambda row: row[1])[:MAX_CLASSES]
    for name, here, there in [*rows, ("total", sum(counts.values()), sum(known.values()))]:
        comparison = [f"{there:,}", f"{here - there:+,}" if here != there else ""] if known else []
        table.add_row(name, f"{here:,}", *comparison)
    show(table)
    if known:
        _warn("missing classes of Animals-10", [name for name in known if name not in counts])
        _warn("classes that are not in Animals-10", [name for name in counts if name not in known])
        differing = [name for name in counts if counts[name] != known.get(name, counts[name])]
        _warn("class counts that differ from Animals-10", differing)


def _warn(what: str, class_names: list[str]) -> None:
    if class_names:
        print(f"\nwarning: {what}: {', '.join(map(display_name, class_names))}")


def _print_next(catalog: Catalog, configuration: str) -> None:
    place = shlex.quote(str(catalog.root))
    is_default = catalog.root in (Path(PRACTICE_ROOT), Path(ANIMALS10_ROOT) / RAW)  # as in the configurations
    option = "" if is_default else f" --data.root {place}"
    if catalog.split_folders:
        option += " --data.val_fraction null --data.test_fraction null"
    print("\nnext:")
    print(printable(f"  python -m animals_pl analyze {place}"))
    print(printable(f"  python -m animals_pl fit --config {configuration}{option}"))
