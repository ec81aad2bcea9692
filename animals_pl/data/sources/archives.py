"""Unpack images from untrusted archives. All entries are checked before a file is written."""

from __future__ import annotations

import errno
import re
import stat
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from animals_pl.data.catalog import find_root
from animals_pl.data.walk import find_images
from animals_pl.errors import UsageError, one_line
from animals_pl.files import track

ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")

MAX_ENTRIES = 250_000
"""Maximum number of files and folders: ten times those of Animals-10."""

ALWAYS_ALLOWED = 2**30
"""Bytes that any archive may unpack to."""

MAX_EXPANSION = 20
"""Maximum ratio of unpacked to packed bytes above :data:`ALWAYS_ALLOWED`. Images are hardly compressible."""

_UTF8_NAME = 0x800
"""Flag of a zip entry whose name is declared to be UTF-8."""

UNSAFE_NAME = re.compile(r"^/|^[A-Za-z]:|\0|(^|/)\.\.(/|$)")
"""Matches names of files that would be written outside the target folder."""


class Unpacked(NamedTuple):
    """Result of unpacking: number of images, newly written images, and other files (in Parquet: rows left out)."""

    images: int
    written: int
    left_out: int


class _Entry(NamedTuple):
    """A file or folder in an open archive. ``extract`` takes the folder to extract to."""

    name: str
    size: int
    is_folder: bool
    fault: str
    extract: Callable[[Path], object]


def is_archive(file: Path) -> bool:
    """Whether a file is an archive that :func:`unpack` reads, by its suffix, or else by its content."""
    if not file.is_file():
        return False
    return file.name.lower().endswith(ARCHIVE_SUFFIXES) or _is_tar(file) or zipfile.is_zipfile(file)


def _is_tar(file: Path) -> bool:
    with suppress(EOFError):  # a compressed file that ends early
        return tarfile.is_tarfile(file)
    return False


def _is_zip(file: Path) -> bool:
    """Whether to read an archive as zip. The format of a damaged archive follows its suffix."""
    # The end of a tar that contains a zip file looks like a zip.
    return not _is_tar(file) and (zipfile.is_zipfile(file) or file.suffix.lower() == ".zip")


def unpack(archive: Path, root: Path) -> Unpacked:
    """Unpack the images of a zip or tar archive to ``root/<class>/…``, without the folders around the class folders.

    Slashes or backslashes separate folders in the archive. Images that exist with the same size are kept, so an
    interrupted run can be repeated. No file is overwritten.

    Raises:
        UsageError: The archive is damaged, unsafe or has no images, or a different file exists at an image's path.
    """
    with _reraise_errors(archive), zipfile.ZipFile(archive) if _is_zip(archive) else tarfile.open(archive) as opened:
        entries = _zip_entries(opened) if isinstance(opened, zipfile.ZipFile) else _tar_entries(opened)
        files = [entry for entry in track(_checked(archive, entries), "checking the archive") if not entry.is_folder]
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{root.name}-", dir=root.parent) as scratch:
            for entry in track([file for file in files if "__MACOSX" not in file.name.split("/")], "unpacking"):
                try:
                    entry.extract(Path(scratch))
                except (IsADirectoryError, NotADirectoryError, FileExistsError) as error:
                    raise _archive_error(archive, f"its entry {entry.name!r} is both a file and a folder") from error
            inner = find_root(Path(scratch))
            # Images beside the class folders have no class.
            targets = {image: root / image.relative_to(inner) for image in find_images(inner) if image.parent != inner}
            if not targets:
                raise _archive_error(archive, "it has no folders of images")
            missing = {image: target for image, target in targets.items() if not exists(target, image.stat().st_size)}
            for image, target in missing.items():
                target.parent.mkdir(parents=True, exist_ok=True)
                image.rename(target)
    return Unpacked(len(targets), len(missing), len(files) - len(targets))


def _zip_entries(opened: zipfile.ZipFile) -> Iterator[_Entry]:
    for info in opened.infolist():
        kind = stat.S_IFMT(info.external_attr >> 16)
        fault = "is encrypted" if info.flag_bits & 1 else ""
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            fault = "is a link or a device"
        if not info.flag_bits & _UTF8_NAME:  # zipfile reads the name as code page 437; macOS writes UTF-8
            with suppress(UnicodeDecodeError):
                info.filename = info.filename.encode("cp437").decode()
        info.filename = info.filename.replace("\\", "/")  # as Windows writes them
        yield _Entry(info.filename, info.file_size, info.is_dir(), fault, partial(opened.extract, info))


def _tar_entries(opened: tarfile.TarFile) -> Iterator[_Entry]:
    for info in opened:
        info.name = info.name.replace("\\", "/")
        fault = "" if info.isreg() or info.isdir() else "is a link or a device"
        extract = partial(opened.extract, info, set_attrs=False, filter="data")
        yield _Entry(info.name, info.size, info.isdir(), fault, extract)
    # tarfile treats a damaged header as the end of the archive, but only zeros may follow the end.
    if stream := opened.fileobj:
        stream.seek(opened.offset)
        while chunk := stream.read(2**20):
            if chunk.strip(b"\0"):
                raise tarfile.ReadError("damaged header")


def _checked(archive: Path, entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """Yield entries; raise UsageError at the first unsafe one.

    Sizes are those in the headers; the archive modules never extract more.
    """
    limit = max(ALWAYS_ALLOWED, MAX_EXPANSION * archive.stat().st_size)
    unpacked = 0
    paths: set[PurePosixPath] = set()
    for number, entry in enumerate(entries, start=1):
        unpacked += entry.size
        path = PurePosixPath(entry.name)
        if unpacked > limit:
            raise _archive_error(archive, f"it unpacks to more than {limit:,} bytes, too many for its size")
        if number > MAX_ENTRIES:
            raise _archive_error(archive, f"it has more than {MAX_ENTRIES:,} entries")
        if UNSAFE_NAME.search(entry.name):
            raise _archive_error(archive, f"its entry {entry.name!r} is outside the folder")
        if entry.fault:
            raise _archive_error(archive, f"its entry {entry.name!r} {entry.fault}")
        if path in paths and not entry.is_folder:
            raise _archive_error(archive, f"it has two files {entry.name!r}")
        paths.add(path)
        yield entry


@contextmanager
def _reraise_errors(archive: Path) -> Iterator[None]:
    """Re-raise errors as a one-line UsageError that names the archive."""
    try:
        yield
    except UsageError:
        raise
    except Exception as error:  # readers may raise any exception
        # From the operating system, such as a full disk. EINVAL: zipfile seeks to where a damaged zip points.
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise
        raise _archive_error(archive, f"it cannot be read ({type(error).__name__}: {one_line(error)})") from error


def _archive_error(archive: Path, reason: str) -> UsageError:
    return UsageError(
        f"source={str(archive)!r} cannot be unpacked: {reason}. Download the archive again, "
        "or unpack it yourself and pass the folder as --source."
    )


def exists(target: Path, size: int, what: str = "the archive's file") -> bool:
    """Whether a file exists with this size.

    Raises:
        UsageError: It exists with a different size.
    """
    try:
        found = target.lstat().st_size
    except FileNotFoundError:
        return False
    if found != size:
        raise UsageError(
            f"output: {str(target)!r} exists and differs from {what} ({found:,} bytes instead of "
            f"{size:,}). Move it away or pass another --output."
        )
    return True
