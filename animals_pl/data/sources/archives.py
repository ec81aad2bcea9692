"""Images out of an archive that nobody vouches for: all its entries are checked before a file is written."""

from __future__ import annotations

import gzip
import posixpath
import re
import stat
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, cast

from rich.console import Console
from rich.progress import track

from animals_pl.data.catalog import IMAGE_SUFFIXES, RAW
from animals_pl.errors import UsageError

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")

MOST_ENTRIES = 250_000
"""Files and folders in an archive: ten times those of Animals-10."""

HARMLESS = 2**30
"""Bytes that any archive may unpack to."""

EXPANSION = 20
"""An archive that unpacks to more than :data:`HARMLESS` and more than this many times its size is refused: images
hardly shrink, and what shrinks like this was made to fill a disk."""

_CHUNK = 2**20

_LEADS_ELSEWHERE = re.compile(r"^/|^[A-Za-z]:|\\|\0|(^|/)\.\.(/|$)")


class Unpacked(NamedTuple):
    """What became of an archive.

    Attributes:
        images: How many it has.
        written: How many of them were not there before.
        left_out: Its other files.
    """

    images: int
    written: int
    left_out: int


def is_archive(file: Path) -> bool:
    """Return whether a file has the name of an archive that :func:`unpack` reads."""
    return file.is_file() and file.name.lower().endswith(ARCHIVE_SUFFIXES)


def unpack(archive: Path, root: Path) -> Unpacked:
    """Put the images of an archive into class folders, without the folders that it may have around those.

    An image that is there in its full size is left alone, so an interrupted run goes on and a second one does
    nothing. No file is ever overwritten.

    Args:
        archive: A ``.zip``, ``.tar`` or ``.tar.gz`` file.
        root: The folder of the class folders.

    Raises:
        UsageError: The archive is damaged, unsafe or without images, or another file is in the way.
    """
    sizes: dict[PurePosixPath, int] = {}
    count = 0
    for entry in _watched(_files(archive), "checking the archive"):
        count += 1
        path = PurePosixPath(entry.name)
        if path in sizes:
            raise _refusal(archive, f"it has two files {entry.name!r}")
        if _is_image(path):
            sizes[path] = entry.size
    inner = _inner_root(sizes)
    targets = {
        path: root / path.relative_to(inner)
        for path in sizes
        if path.is_relative_to(inner) and path.parent != inner  # those beside the class folders have no class
    }
    if not targets:
        raise _refusal(archive, "it has no folders of images")
    missing = {path: target for path, target in targets.items() if not _is_there(target, sizes[path])}
    if missing:
        for entry in _watched(_files(archive), "unpacking", count):
            if target := missing.get(PurePosixPath(entry.name)):
                _write(entry, target)
    return Unpacked(len(targets), len(missing), count - len(targets))


@dataclass(frozen=True)
class _Entry:
    """Something in an archive; a file can be opened until the next entry is asked for."""

    archive: Path
    name: str
    size: int
    is_folder: bool
    fault: str
    open: Callable[[], IO[bytes]]

    def chunks(self) -> Iterator[bytes]:
        """Yield the content, no more of it than was announced.

        Raises:
            UsageError: It is damaged, longer or shorter.
        """
        left = self.size
        with _reading(self.archive), self.open() as stream:
            while chunk := stream.read(_CHUNK):
                left -= len(chunk)
                if left < 0:
                    break
                yield chunk
        if left:
            raise _refusal(self.archive, f"its file {self.name!r} has another length than it says")


def _files(archive: Path) -> Iterator[_Entry]:
    """Yield the files of an archive, one after another, until something is wrong with one."""
    limit = max(HARMLESS, EXPANSION * archive.stat().st_size)
    is_zip = archive.name.lower().endswith(".zip")
    unpacked = 0
    with _reading(archive):
        for number, entry in enumerate(_zip_entries(archive) if is_zip else _tar_entries(archive, limit), start=1):
            unpacked += entry.size
            if unpacked > limit:
                raise _refusal(archive, _too_large(limit))
            if number > MOST_ENTRIES:
                raise _refusal(archive, f"it has more than {MOST_ENTRIES:,} entries")
            if _LEADS_ELSEWHERE.search(entry.name):
                raise _refusal(archive, f"its entry {entry.name!r} leads out of the folder")
            if entry.fault:
                raise _refusal(archive, f"its entry {entry.name!r} {entry.fault}")
            if not entry.is_folder:
                yield entry


def _zip_entries(archive: Path) -> Iterator[_Entry]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            fault = "is encrypted" if info.flag_bits & 1 else ""
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                fault = "is a link or a device"
            yield _Entry(archive, info.filename, info.file_size, info.is_dir(), fault, partial(file.open, info))


def _tar_entries(archive: Path, limit: int) -> Iterator[_Entry]:
    compressed = archive.name.lower().endswith("gz")
    with gzip.open(archive) if compressed else archive.open("rb") as file:
        source = cast(IO[bytes], _Metered(file, archive, limit))
        with tarfile.open(fileobj=source, mode="r|", bufsize=_CHUNK) as tar:
            for info in tar:
                fault = "" if info.isreg() or info.isdir() else "is a link or a device"
                opened = cast(Callable[[], IO[bytes]], partial(tar.extractfile, info))
                yield _Entry(archive, info.name, info.size, info.isdir(), fault, opened)
            # tarfile takes a damaged header for the end, after which there are only zeros
            rest: Any = tar.fileobj
            while chunk := rest.read(_CHUNK):
                if chunk.strip(b"\0"):
                    raise tarfile.ReadError("damaged header")


class _Metered:
    """A stream that ends in a refusal once more was read than may be: sizes in headers need not be true."""

    def __init__(self, stream: Any, archive: Path, limit: int) -> None:
        self.stream, self.archive, self.limit = stream, archive, limit
        self.left = limit

    def read(self, size: int) -> bytes:
        chunk: bytes = self.stream.read(size)
        self.left -= len(chunk)
        if self.left < 0:
            raise _refusal(self.archive, _too_large(self.limit))
        return chunk


@contextmanager
def _reading(archive: Path) -> Iterator[None]:
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # readers of damaged archives raise what they like
        raise _refusal(archive, f"it cannot be read ({type(error).__name__}: {error})") from error


def _refusal(archive: Path, reason: str) -> UsageError:
    return UsageError(
        f"source={str(archive)!r} is refused: {reason}; get the archive again, "
        "or unpack it yourself and pass the folder as --source"
    )


def _too_large(limit: int) -> str:
    return f"it unpacks to more than {limit:,} bytes, absurd for an archive of its size"


def _is_image(path: PurePosixPath) -> bool:
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in path.parts)
    return path.suffix.lower() in IMAGE_SUFFIXES and not hidden


def _inner_root(images: Iterable[PurePosixPath]) -> PurePosixPath:
    """Return the folder inside an archive that ``find_root`` would find in it when unpacked."""
    folders = {path.parent for path in images} - {PurePosixPath()}
    for folder in sorted(folders):
        if RAW in folder.parts:
            return PurePosixPath(*folder.parts[: folder.parts.index(RAW) + 1])
    common = PurePosixPath(posixpath.commonpath(folders)) if folders else PurePosixPath()
    classes = {folder.relative_to(common).parts[:1] for folder in folders} - {()}
    return common if len(classes) > 1 else PurePosixPath()


def _is_there(target: Path, size: int) -> bool:
    try:
        found = target.lstat().st_size
    except FileNotFoundError:
        return False
    if found != size:
        raise UsageError(
            f"output: {str(target)!r} is another file than the archive's ({found:,} bytes, not {size:,}) and is not "
            "overwritten; move it away or pass another --output"
        )
    return True


def _write(entry: _Entry, target: Path) -> None:
    """Write a file under another name until it is complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.partial")
    try:
        with draft.open("wb") as file:
            file.writelines(entry.chunks())
        draft.replace(target)
    finally:
        draft.unlink(missing_ok=True)


def _watched(entries: Iterable[_Entry], doing: str, total: int | None = None) -> Iterable[_Entry]:
    console = Console(stderr=True)
    return track(entries, doing, total, console=console, transient=True, disable=not sys.stderr.isatty())
