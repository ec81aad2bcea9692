"""Put images in place, look at every one of them, and say what there is."""

from __future__ import annotations

import shlex
import tempfile
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
from PIL import Image
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import (
    ANIMALS10,
    ANIMALS10_COUNTS,
    RAW,
    display_name,
    english_name,
    find_images,
    scan_folder,
)
from animals_pl.data.inspection.duplicates import LARGE
from animals_pl.data.inspection.manifest import COLUMNS, groups_by, scan, write_manifest
from animals_pl.data.sources.archives import is_archive, unpack
from animals_pl.data.sources.practice.practice_set import (
    FEWEST_PER_CLASS,
    PRACTICE_ROOT,
    draw_practice_set,
    practice_counts,
)
from animals_pl.errors import UsageError, did_you_mean

ANIMALS10_ROOT = "datasets/animals10"
"""Where images are put, in ``raw-img``, unless another folder is named; the configurations look for them there."""

KAGGLE_HANDLE = "alessiocorrado99/animals10"

MOST_NAMED = 10
"""Files that the report names at most."""


def prepare(source: str = "practice", output: str | None = None, count: int = 1000, seed: int = 0) -> None:
    """Put a folder-per-class dataset in place, check it, and write a manifest of it.

    What is there already is kept: an interrupted run goes on, and a second one only checks again.

    Args:
        source: ``practice``: draw a set of ten stylised animals. ``kaggle``: download Animals-10. An archive (.zip,
            .tar, .tar.gz): unpack it. A folder with one folder of images per class: link to it.
        output: Folder that gets the images and ``manifest.csv``; left out: ``datasets/practice`` for the
            practice set, else ``datasets/animals10``.
        count: Pictures of the practice set, in Animals-10's class proportions.
        seed: Another seed, another practice set.

    Raises:
        UsageError: The source cannot be used, or the output cannot be written without harm to what is there.
    """
    folder = Path(output or (PRACTICE_ROOT if source == "practice" else ANIMALS10_ROOT))
    manifest = folder / "manifest.csv"
    try:
        _spare(manifest)
        catalog = scan_folder(_put_in_place(source, folder, count, seed), argument="source")
        found = scan(catalog)
        write_manifest(found.manifest, catalog.root, manifest)
    except OSError as error:
        raise UsageError(
            f"output={str(folder)!r} cannot be prepared ({error}); make room, mend permissions or pass another --output"
        ) from error
    root, counts = catalog.root, catalog.counts()
    link = f" -> {root.resolve()}" if root.is_symlink() else ""
    print(f"images       {_printable(f'{root}{link}')}")
    print(f"manifest          {_printable(str(manifest))}")
    print(f"scan              {found}")
    _print_faults(found.manifest)
    _print_classes(counts, {} if source == "practice" else _known_counts(counts))
    _print_next(root, "quickstart" if source == "practice" else "mobilenetv3_small_frozen")


def _spare(manifest: Path) -> None:
    """Refuse to overwrite a file that has the manifest's name and is none."""
    if manifest.exists():
        with manifest.open(encoding="utf-8", errors="replace") as file:
            if not file.readline().startswith(",".join(COLUMNS[:2])):
                raise UsageError(
                    f"output: {str(manifest)!r} is no manifest of images; rename it or pass another --output"
                )


def _put_in_place(source: str, output: Path, count: int, seed: int) -> Path:
    """Return the folder that holds the images now."""
    if source == "practice":
        return _draw(output, count, seed)
    if source == "kaggle":
        return _link(_download(), output)
    if is_archive(Path(source)):
        return _unpack(Path(source), output / RAW)
    if source and Path(source).is_dir():  # an empty one would be the working directory
        return _link(Path(source), output)
    raise UsageError(
        f"source={source!r} is nothing to prepare from; {did_you_mean(source, ['practice', 'kaggle'])}"
        "pass practice, kaggle, an archive (.zip, .tar, .tar.gz) or a folder with one folder of images per class"
    )


def _draw(folder: Path, count: int, seed: int) -> Path:
    if _is_drawn(folder, count, seed):
        print(f"{count} pictures in ten classes are there already")
    else:
        draw_practice_set(folder, count, seed)
        print(f"{count} pictures in ten classes drawn")
    return folder


def _is_drawn(folder: Path, count: int, seed: int) -> bool:
    """Return whether a folder holds this practice set: as many of each class, and the first ones of the same sizes."""
    counts = practice_counts(count)
    try:
        if scan_folder(folder).counts() != counts:
            return False
        with tempfile.TemporaryDirectory() as scratch:
            first = draw_practice_set(Path(scratch) / "set", FEWEST_PER_CLASS * len(counts), seed)
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
        raise UsageError(f"source=kaggle needs kagglehub; pip install 'animals_pl[kaggle]', {remedy}") from error
    try:
        return Path(kagglehub.dataset_download(KAGGLE_HANDLE))
    except Exception as error:  # its own, those of requests, of zipfile and of the system
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(f"source=kaggle cannot be downloaded ({reason}); try again, {remedy}") from error


def _unpack(archive: Path, root: Path) -> Path:
    if root.is_symlink():
        raise UsageError(
            f"output: {str(root)!r} is a link to {str(root.resolve())!r}, where nothing is unpacked; "
            "remove the link or pass another --output"
        )
    done = unpack(archive, root)
    there = f", {done.images - done.written:,} were there already" if done.written < done.images else ""
    others = f", {done.left_out:,} other files left out" if done.left_out else ""
    print(f"{done.written:,} images unpacked{there}{others}")
    return root


def _link(folder: Path, output: Path) -> Path:
    """Let ``output/raw-img`` lead to a dataset and return it, or ``output`` if the class folders are in there."""
    root = scan_folder(folder, argument="source").root.resolve()
    link = output / RAW
    if root == output.resolve():
        return output
    if root == link.resolve():
        return link
    if output.resolve().is_relative_to(root):
        raise UsageError(f"output={str(output)!r} is inside the images' own folder; pass another --output")
    if link.exists() or link.is_symlink():
        what = f"is a link to {str(link.resolve())!r}" if link.is_symlink() else "is there already"
        raise UsageError(f"output: {str(link)!r} {what}; remove it or pass another --output")
    output.mkdir(parents=True, exist_ok=True)
    try:
        link.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise UsageError(
            f"output: {str(link)!r} cannot be made a link to the images ({error.strerror}); "
            f"do without: pass --data.root {shlex.quote(str(root))} to fit"
        ) from error
    return link


def _printable(text: str) -> str:
    """Return a file's name as a terminal takes it; file names may be any bytes."""
    return text.encode(errors="backslashreplace").decode()


def _print_faults(manifest: pd.DataFrame) -> None:
    """Print which images are broken, and how many are copies of others."""
    broken = manifest[manifest["problem"] != ""]
    print(f"broken            {_number(len(broken), 'image')}")
    for path, problem in broken[["path", "problem"]].head(MOST_NAMED).itertuples(index=False):
        print(f"  {_printable(f'{path}: {problem}')}")
    if len(broken) > MOST_NAMED:
        print(f"  and {len(broken) - MOST_NAMED:,} more, all in the manifest")
    sound = manifest[manifest["problem"] == ""]
    alike = groups_by("duplicate_group", sound[sound["duplicate_group"] >= 0])
    print(f"exact duplicates  {_extent(groups_by('sha256', sound))}")
    print(f"near duplicates   {_extent(alike[alike['contents'] > 1])}")
    for path, size in alike.loc[alike["size"] > LARGE, ["first", "size"]].itertuples(index=False):
        print(f"  {size:,} are alike, such as {_printable(path)}")


def _extent(groups: pd.DataFrame) -> str:
    if groups.empty:
        return "none"
    images, across = _number(int(groups["size"].sum()), "image"), (groups["labels"] > 1).sum()
    return f"{images} in {_number(len(groups), 'group')}; groups across classes: {across or 'none'}"


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}" if count else "none"


def _known_counts(class_names: Iterable[str]) -> dict[str, int]:
    """Return the images that Animals-10 has of each of its classes, or nothing if most of them are not here.

    A class goes by its name here, Italian or English, and by its Italian one if it is missing.
    """
    here = {english_name(name).lower(): name for name in class_names}
    known = {here.get(english, name): ANIMALS10_COUNTS[name] for name, english in ANIMALS10.items()}
    return known if len(known.keys() & here.values()) >= len(known) / 2 else {}


def _print_classes(counts: dict[str, int], known: dict[str, int]) -> None:
    """Print the images of every class, beside Animals-10's if these are its classes, and warn of differences."""
    table = Table(box=None, padding=(0, 2), pad_edge=False, header_style="bold")
    table.add_column("class")
    for column in ("images", "in Animals-10", "difference")[: 3 if known else 1]:
        table.add_column(column, justify="right")
    names = sorted(counts.keys() | known.keys())
    rows = [(display_name(name), counts.get(name, 0), known.get(name, 0)) for name in names]
    for name, here, there in [*rows, ("all", sum(counts.values()), sum(known.values()))]:
        comparison = [f"{there:,}", f"{here - there:+,}" if here != there else ""] if known else []
        table.add_row(_printable(name), f"{here:,}", *comparison)
    print()
    Console(markup=False, highlight=False).print(table)
    if known:
        _warn("missing classes of Animals-10", [name for name in known if name not in counts])
        _warn("classes that Animals-10 does not have", [name for name in counts if name not in known])
        differing = [name for name in counts if counts[name] != known.get(name, counts[name])]
        _warn("fewer or more images than Animals-10 has", differing)


def _warn(what: str, class_names: list[str]) -> None:
    if class_names:
        print(f"\nwarning: {what}: {_printable(', '.join(map(display_name, class_names)))}")


def _print_next(root: Path, configuration: str) -> None:
    """Print the commands that come next."""
    usual = root in (Path(PRACTICE_ROOT), Path(ANIMALS10_ROOT) / RAW)  # where the configurations look
    place = shlex.quote(str(root))
    print("\nnext:")
    print(f"  python -m animals_pl analyze {place}")
    print(f"  python -m animals_pl fit --config configs/{configuration}.yaml{'' if usual else f' --data.root {place}'}")
