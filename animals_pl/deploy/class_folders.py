"""Copy classified images into one folder per class. Nothing is overwritten."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from animals_pl.errors import UsageError
from animals_pl.files import atomic_write, require_writable


def require_copy_folder(folder: Path, class_names: Sequence[str], paths: Sequence[str]) -> None:
    """Check the folder for copies before the work starts.

    Raises:
        UsageError: The folder cannot be written or is inside a folder that is classified, or a class name cannot be
            the name of a folder.
    """
    require_writable(folder, "copy", folder=True)
    for path in paths:
        if os.path.isdir(path) and folder.resolve().is_relative_to(Path(path).resolve()):  # noqa: PTH112
            raise UsageError(f"copy={str(folder)!r} is inside {path!r}, which is classified. Choose another folder.")
    for name in class_names:
        if name in {"", ".", ".."} or "\0" in name or "/" in name or os.sep in name:
            raise UsageError(f"copy: the class {name!r} cannot be the name of a folder. Remove copy.")


def copy_into(folder: Path, source: Path) -> Path:
    """Copy a file into a folder under a free name, and return the copy.

    ``a.jpg`` becomes ``a_2.jpg``, ``a_3.jpg``, … if other files have that name. A copy that is already there is kept.
    """
    for name in _names(source):
        target = folder / name
        if not os.path.lexists(target):
            with atomic_write(target, durable=False) as partial:
                shutil.copy2(source, partial)
            return target
        if target.is_file() and filecmp.cmp(source, target):
            return target
    raise AssertionError("unreachable: the names do not end")


def _names(source: Path) -> Iterator[str]:
    yield source.name
    number = 2
    while True:
        yield f"{source.stem}_{number}{source.suffix}"
        number += 1
