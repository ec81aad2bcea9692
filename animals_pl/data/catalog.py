"""Scan image folders and map them to class labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from animals_pl.data.decode import is_image
from animals_pl.errors import UsageError

_ANIMALS10 = [
    ("cane", "dog", 4863),
    ("cavallo", "horse", 2623),
    ("elefante", "elephant", 1446),
    ("farfalla", "butterfly", 2112),
    ("gallina", "chicken", 3098),
    ("gatto", "cat", 1668),
    ("mucca", "cow", 1866),
    ("pecora", "sheep", 1820),
    ("ragno", "spider", 4821),
    ("scoiattolo", "squirrel", 1862),
]

ANIMALS10 = {italian: english for italian, english, _ in _ANIMALS10}
"""Animals-10's Italian folder names, in class order, and their English names."""

ANIMALS10_COUNTS = {italian: count for italian, _, count in _ANIMALS10}
"""Images per class in the full dataset (26,179 in total)."""

RAW = "raw-img"
"""Name of the folder that contains Animals-10's class folders."""


def english_name(class_name: str) -> str:
    """English name of an Italian Animals-10 class; other names unchanged."""
    return ANIMALS10.get(class_name.lower(), class_name)


def display_name(class_name: str) -> str:
    """``"cane (dog)"`` for an Italian Animals-10 class; other names unchanged."""
    english = english_name(class_name)
    return class_name if english == class_name else f"{class_name} ({english})"


@dataclass(frozen=True)
class Catalog:
    """The images below one folder.

    Attributes:
        root: The folder.
        class_names: Label order; ``labels`` index into it.
        paths: POSIX paths relative to ``root``.
        labels: int64 array (N,), one class index per path.
        sha256: N content hashes; empty strings if not computed.
        groups: int64 array (N,), the number of the group that a split must keep together, or -1.
    """

    root: Path
    class_names: list[str]
    paths: list[str]
    labels: np.ndarray
    sha256: list[str] = field(default_factory=list)
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        """Fill in empty hashes and groups."""
        if not self.sha256:
            object.__setattr__(self, "sha256", [""] * len(self.paths))
        if not len(self.groups):
            object.__setattr__(self, "groups", np.full(len(self.paths), -1, dtype=np.int64))

    def counts(self) -> dict[str, int]:
        """Images per class, in label order."""
        found = Counter(self.labels.tolist())
        return {name: found[index] for index, name in enumerate(self.class_names)}

    def select(self, paths: Sequence[str]) -> Catalog:
        """Catalog of the given paths, in that order."""
        index_of = {path: index for index, path in enumerate(self.paths)}
        chosen = np.array([index_of[path] for path in paths], dtype=np.int64)
        sha256 = [self.sha256[index] for index in chosen]
        return Catalog(self.root, self.class_names, list(paths), self.labels[chosen], sha256, self.groups[chosen])


def find_images(folder: Path) -> list[Path]:
    """Files that are images (:func:`is_image`) at any depth below a folder, sorted. Hidden ones are skipped."""
    return sorted(_images(folder))


def _images(folder: Path) -> Iterator[Path]:
    return (
        path
        for path in folder.rglob("*")
        if not any(part.startswith(".") for part in path.relative_to(folder).parts) and is_image(path)
    )


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith((".", "__")))


def find_root(folder: Path) -> Path:
    """Find the folder that contains the class folders.

    That is ``folder/raw-img`` if it exists (as in Animals-10). If ``folder`` contains a single folder, the search
    continues there, as long as it leads to two or more folders of images. Otherwise it is ``folder`` itself.
    """
    folders = _folders(folder) if folder.is_dir() else []
    if folder / RAW in folders:
        return folder / RAW
    if len(folders) == 1:
        inner = find_root(folders[0])
        if inner != folders[0] or sum(any(_images(found)) for found in _folders(inner)) > 1:
            return inner
    return folder


def _class_folders(root: Path, argument: str) -> list[Path]:
    remedy = f"Run 'python -m animals_pl prepare --source practice' or pass --{argument} DIR."
    if not root.is_dir():
        raise UsageError(f"{argument}={str(root)!r} is not a folder. {remedy}")
    folders = _folders(root)
    if not folders:
        raise UsageError(f"{argument}={str(root)!r} has no class folders (one folder of images per class). {remedy}")
    return folders


def match_classes(folder_names: Sequence[str], class_names: Sequence[str], argument: str = "data.root") -> list[int]:
    """Class index of every folder, matched by its name (Italian or English).

    Raises:
        UsageError: A folder matches no class, or two folders match the same class.
    """
    index_of = {english_name(name).lower(): index for index, name in enumerate(class_names)}
    indices = []
    for name in folder_names:
        index = index_of.get(english_name(name).lower())
        if index is None:
            known = ", ".join(display_name(c) for c in class_names)
            raise UsageError(
                f"{argument} has a folder {name!r}, which is not a class of this model. "
                f"Rename or remove it, or train a model with it (classes of this model: {known})."
            )
        if index in indices:
            raise UsageError(f"{argument} has two folders for the class {class_names[index]!r}. Merge them.")
        indices.append(index)
    return indices


def scan_folder(root: str | Path, class_names: Sequence[str] | None = None, argument: str = "data.root") -> Catalog:
    """List the images of a folder-per-class dataset.

    Args:
        root: Folder with one folder of images per class, or a parent of it (see :func:`find_root`).
        class_names: Label order of a trained model. Folders are matched to it by name (Italian or English) and
            classes may be missing. Default: the sorted folder names.
        argument: Name of the option that ``root`` came from, for messages.

    Raises:
        UsageError: The folder cannot be used, a class folder is empty, or a class is unknown.
    """
    root = find_root(Path(root))
    folders = _class_folders(root, argument)
    if class_names is None:
        class_names = [folder.name for folder in folders]
    indices = match_classes([folder.name for folder in folders], class_names, argument)
    found: list[tuple[str, int]] = []
    for folder, index in zip(folders, indices, strict=True):
        images = find_images(folder)
        if not images:
            raise UsageError(
                f"{argument}={str(root)!r}: class folder {folder.name!r} has no images. Fill or remove it."
            )
        found += [(path.relative_to(root).as_posix(), index) for path in images]
    found.sort()
    labels = np.array([label for _, label in found], dtype=np.int64)
    return Catalog(root, list(class_names), [path for path, _ in found], labels)
