"""Find the image files below a folder."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

from animals_pl.data.decode import has_image_suffix, is_image
from animals_pl.errors import UsageError

OnError = Callable[[Path, OSError], None]


def _refuse(folder: Path, error: OSError) -> None:
    raise UsageError(f"{str(folder)!r} cannot be read ({error.strerror}). Fix or remove it.") from error


def find_images(folder: Path) -> list[Path]:
    """Files that are images (:func:`is_image`) at any depth below a folder, sorted. Hidden ones are skipped."""
    return sorted(iter_images(folder))


def iter_images(folder: Path, onerror: OnError = _refuse) -> Iterator[Path]:
    """Yield the files of :func:`find_images` while the folders are read; see :func:`walk_images`."""
    return (folder / path for path in walk_images(folder, onerror))


def walk_images(folder: Path, onerror: OnError = _refuse) -> Iterator[str]:
    """Yield the images of :func:`find_images` as POSIX paths relative to ``folder``, while the folders are read.

    The files of each folder are sorted by name. Linked folders come last. No folder is read twice, and no parent of
    ``folder`` is read.

    Args:
        folder: The folder.
        onerror: Called with a folder that cannot be read. Default: a :class:`UsageError` is raised.
    """
    seen = {_identity(parent) for parent in folder.resolve().parents}
    prefixes, links = [""], list[str]()
    while prefixes or links:
        prefix = (prefixes or links).pop()
        current = folder / prefix
        try:
            identity = _identity(current)
            files, folders = ([], []) if identity in seen else _entries(current)
        except OSError as error:
            onerror(current, error)
            continue
        seen.add(identity)
        links += [f"{prefix}{entry.name}/" for entry in folders if entry.is_symlink()]
        inner = [f"{prefix}{entry.name}/" for entry in folders if not entry.is_symlink()]
        for name in files:
            if has_image_suffix(name) or is_image(current / name):
                yield f"{prefix}{name}"
            else:
                warn_of_dead_link(current / name)
        prefixes += reversed(inner)  # the last one is read next


def _entries(folder: Path) -> tuple[list[str], list[os.DirEntry[str]]]:
    """Sorted names of the files in a folder, and its folders. Entries of files take three times the memory of names."""
    files, folders = list[str](), list[os.DirEntry[str]]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                folders.append(entry)
            else:
                files.append(entry.name)
    return sorted(files), sorted(folders, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def warn_of_dead_link(path: Path) -> None:
    """Warn if a path is a link to a missing file or folder."""
    if path.is_symlink() and not path.exists():
        warnings.warn(f"{str(path)!r} is a link to a missing file or folder", stacklevel=3)
