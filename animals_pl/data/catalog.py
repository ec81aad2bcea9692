"""Scan image folders and map them to class labels."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from animals_pl.data.decode import is_image
from animals_pl.data.strings import Strings
from animals_pl.data.walk import iter_images, walk_images, warn_of_dead_link
from animals_pl.errors import UsageError, listed
from animals_pl.files import printable

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

SPLITS = ("train", "val", "test")

SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
"""Names of split folders (lower case) → split."""

_SPLIT_WORDS = {*SPLIT_FOLDERS, "dev", "eval", "evaluation"}
"""Words in the names of split folders, recognised or not."""

MAX_CLASSES = 30
"""Maximum number of classes in a printed table or a figure."""


def english_name(class_name: str) -> str:
    """English name of an Italian Animals-10 class; other names unchanged."""
    return ANIMALS10.get(class_name.lower(), class_name)


def bilingual_name(class_name: str) -> str:
    """``"cane (dog)"`` for an Italian Animals-10 class; other names as they are."""
    english = english_name(class_name)
    return class_name if english == class_name else f"{class_name} ({english})"


def display_name(class_name: str) -> str:
    """The bilingual name as printable text."""
    return printable(bilingual_name(class_name))


def _class_key(name: str) -> str:
    """Canonical key of a class name: English, lower case, Unicode NFC."""
    return english_name(unicodedata.normalize("NFC", name)).lower()


@dataclass(frozen=True)
class Catalog:
    """The images below one folder.

    Attributes:
        root: The folder.
        class_names: Label order; ``labels`` index into it.
        paths: POSIX paths relative to ``root``. Those of a scan are :class:`Strings`, which workers share.
        labels: int64 array (N,), one class index per path.
        sha256: N content hashes; empty strings if not computed.
        groups: int64 array (N,), the number of the group that a split must keep together, or -1.
        split_folders: Folder → split, if the dataset has train, val and test folders. Otherwise empty.
    """

    root: Path
    class_names: list[str]
    paths: Sequence[str]
    labels: np.ndarray
    sha256: Sequence[str] = ()
    groups: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    split_folders: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Fill in empty hashes and groups."""
        if not len(self.sha256):
            object.__setattr__(self, "sha256", [""] * len(self.paths))
        if not len(self.groups):
            object.__setattr__(self, "groups", np.full(len(self.paths), -1, dtype=np.int64))

    def counts(self) -> dict[str, int]:
        """Images per class, in label order."""
        found = np.bincount(self.labels[self.labels >= 0], minlength=len(self.class_names))
        return dict(zip(self.class_names, found.tolist(), strict=True))

    def select(self, paths: Iterable[str]) -> Catalog:
        """Catalog of the given paths, in that order.

        Raises:
            KeyError: A path is not in the catalog.
        """
        wanted = Strings.of(paths)
        indices = Strings.of(self.paths).index_of(wanted)
        if (indices < 0).any():
            raise KeyError(wanted[int(indices.argmin())])
        return self.take(indices)

    def take(self, indices: np.ndarray) -> Catalog:
        """Catalog of the images at the given indices (K,), in that order."""
        paths, sha256 = (Strings.of(column).take(indices) for column in (self.paths, self.sha256))
        return replace(self, paths=paths, labels=self.labels[indices], sha256=sha256, groups=self.groups[indices])

    def with_images_of(self, other: Catalog) -> Catalog:
        """Catalog of these images and those of another one with the same classes, whose paths become absolute."""
        root = other.root.absolute()
        return replace(
            self,
            paths=Strings.of(self.paths) + Strings.of(str(root / path) for path in other.paths),
            labels=np.concatenate([self.labels, other.labels]),
            sha256=Strings.of(self.sha256) + Strings.of(other.sha256),
            groups=np.concatenate([self.groups, other.groups]),
        )

    def folder_splits(self) -> dict[str, str]:
        """Path → split of its folder; empty without split folders."""
        folders = self.split_folders
        return {path: folders[path.partition("/")[0]] for path in self.paths} if folders else {}


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def split_called(name: str) -> str:
    """Split for a name in :data:`SPLIT_FOLDERS`; other names are stripped and lower-cased."""
    key = name.strip().lower()
    return SPLIT_FOLDERS.get(key, key)


def splits_of_folders(names: Iterable[str]) -> dict[str, str]:
    """Folder → split, for the names in :data:`SPLIT_FOLDERS`, in the order of :data:`SPLITS`."""
    split_of = {name: SPLIT_FOLDERS[name.lower()] for name in names if name.lower() in SPLIT_FOLDERS}
    return dict(sorted(split_of.items(), key=lambda item: SPLITS.index(item[1])))


def find_root(folder: Path, class_names: Sequence[str] = ()) -> Path:
    """Find the folder that contains the class folders, or the train, val and test folders.

    The result is ``folder/raw-img`` if it exists (as in Animals-10). If ``folder`` contains a single folder that is not
    one of the known classes, the search continues there, as long as it leads to two or more folders of images. In all
    other cases the result is ``folder``.
    """
    folders = _folders(folder) if folder.is_dir() else []
    if folder / RAW in folders:
        return folder / RAW
    is_loop = len(folders) == 1 and folder.resolve().is_relative_to(folders[0].resolve())
    if len(folders) == 1 and not is_loop and not _has_class(folders, class_names):
        inner = find_root(folders[0], class_names)
        found = _folders(inner)
        if inner != folders[0] or _has_class(found, class_names) or sum(any(iter_images(each)) for each in found) > 1:
            return inner
    return folder


def _has_class(folders: Iterable[Path], class_names: Iterable[str]) -> bool:
    return bool({_class_key(folder.name) for folder in folders} & set(map(_class_key, class_names)))


def _split_folders(root: Path, class_names: Sequence[str], argument: str) -> dict[str, str]:
    """Folder → split, if a dataset has split folders (train, val, test) that contain class folders.

    Empty if the folders match the known classes, or if none of them contains class folders.
    """
    folders = _folders(root)
    split_of = splits_of_folders(folder.name for folder in folders)
    found, splits = [folder for folder in folders if folder.name in split_of], set(split_of.values())
    if {_class_key(folder.name) for folder in folders} <= {_class_key(name) for name in class_names}:
        return {}
    if len(splits) < 2:
        _refuse_other_split_names(root, folders, argument)
        return {}
    flat = [folder.name for folder in found if any(is_image(path) for path in folder.iterdir() if path.name[0] != ".")]
    others = [folder.name for folder in folders if folder not in found and any(iter_images(folder))]
    if others and len(flat) == len(found):
        return {}
    names = ", ".join(folder.name for folder in found)
    if others:
        fault = f"and other image folders ({', '.join(others)}). Remove the latter"
    elif len(flat) == len(found):
        fault = f"without class folders. Move the images to {found[0].name}/CLASS"
    elif flat:
        fault = f"but {flat[0]!r} has images outside class folders. Move them"
    elif len(found) > len(splits):
        fault = "of which two are for the same split. Merge them"
    else:
        return split_of
    raise UsageError(f"{argument}={str(root)!r} has split folders ({names}) {fault}, or pass one of the folders.")


def _refuse_other_split_names(root: Path, folders: Sequence[Path], argument: str) -> None:
    """Raise a UsageError if folders such as dev or train_set, which are not recognised, contain the same classes."""
    divided = [folder for folder in folders if _SPLIT_WORDS & set(re.split("[^a-z]+|set|data", folder.name.lower()))]
    inner = [{each.name for each in _folders(folder) if any(iter_images(each))} for folder in divided]
    if len(divided) > 1 and len(common := set.intersection(*inner)) > 1:
        raise UsageError(
            f"{argument}={str(root)!r}: the folders {listed([folder.name for folder in divided])} are not classes, "
            f"since each has the folders {listed(sorted(common), 3)}. Name split folders "
            f"{', '.join(SPLIT_FOLDERS)}, or pass one of the folders."
        )


def _class_folders(root: Path, argument: str) -> list[Path]:
    remedy = f"Run 'python -m animals_pl prepare --source practice' or pass --{argument} DIR."
    if not root.is_dir():
        raise UsageError(f"{argument}={str(root)!r} is not a folder. {remedy}")
    folders = _folders(root)
    for path in root.iterdir():
        warn_of_dead_link(path)
    if not folders:
        raise UsageError(f"{argument}={str(root)!r} has no class folders (one folder of images per class). {remedy}")
    return folders


def match_classes(folder_names: Sequence[str], class_names: Sequence[str], argument: str = "data.root") -> list[int]:
    """Class index of every folder, matched by its name (Italian or English).

    Raises:
        UsageError: A folder matches no class, or two folders match the same class.
    """
    index_of = {_class_key(name): index for index, name in enumerate(class_names)}
    found: dict[int, str] = {}
    for name in folder_names:
        index = index_of.get(_class_key(name))
        if index is None:
            known = listed([display_name(c) for c in class_names])
            raise UsageError(
                f"{argument} contains {name!r}, which is not a class of this model. "
                f"Rename or remove it, or train a model with it (classes of this model: {known})."
            )
        if index in found:
            raise UsageError(
                f"{argument} contains class {class_names[index]!r} twice: {found[index]!r} and {name!r}. Merge them."
            )
        found[index] = name
    return list(found)


def _images_of_class(folder: Path, argument: str) -> list[str]:
    """Paths of the images below a class folder. Raises UsageError if it has split folders."""
    images = list(walk_images(folder))
    inner = {image.partition("/")[0] for image in images if "/" in image}
    split_of = splits_of_folders(inner)
    if len(set(split_of.values())) > 1:
        names = sorted(split_of)
        raise UsageError(
            f"{argument}: class folder {str(folder)!r} has split folders ({', '.join(names)}). "
            f"Move them above class folders, as in {names[0]}/CLASS, or rename them."
        )
    return images


def scan_folder(root: str | Path, class_names: Sequence[str] | None = None, argument: str = "data.root") -> Catalog:
    """List the images of a folder-per-class dataset.

    Args:
        root: Folder with one folder of images per class, or with train, val and test folders that contain class
            folders, or a parent of such a folder (see :func:`find_root`).
        class_names: Label order of a trained model. Folders are matched to it by name (Italian or English) and
            classes may be missing. Default: the sorted folder names.
        argument: Name of the option that ``root`` came from, for messages.

    Raises:
        UsageError: The folder cannot be used, a class folder is empty, or a class is unknown.
    """
    root = find_root(Path(root), class_names or ())
    split_folders = _split_folders(root, class_names or (), argument) if root.is_dir() else {}
    parents = [_class_folders(root / name, argument) for name in split_folders] or [_class_folders(root, argument)]
    if class_names is None:
        name_of = {_class_key(folder.name): folder.name for folders in reversed(parents) for folder in folders}
        class_names = sorted(name_of.values())
    paths: list[str] = []
    labels: list[int] = []
    empty: list[str] = []
    for folders in parents:
        indices = match_classes([folder.name for folder in folders], class_names, argument)
        for folder, index in zip(folders, indices, strict=True):
            images, place = _images_of_class(folder, argument), folder.relative_to(root).as_posix()
            paths += [f"{place}/{image}" for image in images]
            labels += [index] * len(images)
            if not images:
                empty.append(place)
    if empty:
        raise UsageError(f"{argument}={str(root)!r}: class folder {empty[0]!r} has no images. Fill or remove it.")
    order = sorted(range(len(paths)), key=paths.__getitem__)
    ordered = Strings.of(map(paths.__getitem__, order))
    return Catalog(root, list(class_names), ordered, np.array(labels, np.int64)[order], split_folders=split_folders)
