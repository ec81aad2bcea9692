"""Paths of the images to classify, one after the other: files, folders, patterns, a list on standard input."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from animals_pl.data.walk import iter_images
from animals_pl.errors import UsageError

STDIN = "-"
"""Reads a list of paths from standard input."""

_BLOCK = 2**16


def require_existing(paths: Sequence[str]) -> None:
    """Raise a :class:`UsageError` if there are no paths, or one does not exist and matches no file as a pattern."""
    if not paths:
        raise UsageError("paths is empty. Pass images, folders or patterns, or - for a list on standard input.")
    for path in paths:
        if path != STDIN and not any(_expand(path)):
            kind = "matches no file" if glob.has_magic(path) else "does not exist"
            raise UsageError(f"paths: {path!r} {kind}. Pass images, folders, patterns such as '*.jpg', or -.")


def image_paths(paths: Sequence[str], onerror: Callable[[Path, OSError], None]) -> Iterator[str]:
    """Yield the paths of images.

    Folders are searched at any depth. Files that are named, by a path, a pattern or in the list on standard input, may
    have any suffix.

    Args:
        paths: Files, folders, patterns (``**`` for any depth), or :data:`STDIN`.
        onerror: Called with a folder that cannot be read; its images are missing.
    """
    for given in paths:
        for path in _listed(sys.stdin.buffer) if given == STDIN else _expand(given):
            if os.path.isdir(path):  # noqa: PTH112 - false, and not an error, for a path with a null character
                yield from map(str, iter_images(Path(path), onerror))
            else:
                yield path


def _expand(path: str) -> Iterator[str]:
    """The path if it exists, even if it looks like a pattern; else the sorted paths that match it."""
    return iter([path] if os.path.lexists(path) else sorted(glob.iglob(path, recursive=True)))  # noqa: PTH207


def _listed(stream: BinaryIO) -> Iterator[str]:
    """Paths in a list, separated by newlines, or by null characters as ``find -print0`` writes them."""
    separator, rest = b"", b""
    while block := stream.read1(_BLOCK):  # type: ignore[attr-defined]
        separator = separator or (b"\0" if b"\0" in block else b"\n")
        *names, rest = (rest + block).split(separator)
        yield from _decoded(names)
    yield from _decoded([rest])


def _decoded(names: Sequence[bytes]) -> Iterator[str]:
    for name in names:
        if stripped := name.removesuffix(b"\r") if os.name == "nt" else name:
            yield os.fsdecode(stripped)
