"""Decoded photographs in one file, for runs that spend longer on decoding than on learning."""

from __future__ import annotations

import hashlib
import os
import sys
import time
import warnings
import zlib
from collections import deque
from collections.abc import Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import PIL
from rich.console import Console
from rich.progress import track

from animals_pl.data.catalog import Catalog
from animals_pl.data.decode import decode
from animals_pl.data.manifest import cache_folder

_FORMAT = 1
"""To be raised when ``decode`` gives other pixels or the file is laid out otherwise: older files are then replaced."""

_ROW = np.dtype([("position", "<u8"), ("height", "<u4"), ("width", "<u4")])
"""What the file says of each photograph in it: which of the dataset's contents it is, and its shape."""

_COUNT = np.dtype("<u8")
"""The file is the pixels of all photographs, their rows, how many there are, and the CRC-32 of all that."""

_ABANDONED = 600
"""Seconds after which a half-written file that nobody goes on with is taken for one of a run that was killed."""


class DecodedStore:
    """Photographs as ``decode`` gives them for one size, in a file that all processes map into memory.

    Args:
        file: A file that :func:`keep_decoded` wrote.
        size: Side in pixels of the squares that the photographs were decoded for.
        places: Content hash → offset in the file in bytes, height and width in pixels.
    """

    def __init__(self, file: Path, size: int, places: dict[str, tuple[int, int, int]]) -> None:
        self.file = file
        self.size = size
        self.places = places
        # Loader processes that are forked share this mapping, which outlives a removal of the file.
        self._pixels = np.memmap(file, np.uint8, "r")

    def get(self, content: str) -> np.ndarray | None:
        """Return the photograph of this content hash as a new (H, W, 3) uint8 array; ``None`` if it is not kept."""
        if content not in self.places:
            return None
        offset, height, width = self.places[content]
        return np.array(self._pixels[offset : offset + 3 * height * width]).reshape(height, width, 3)

    def __reduce__(self) -> tuple[Any, ...]:
        """Send other processes the file's name in place of its content."""
        return _reopened, (self.file, self.size, self.places)

    def __str__(self) -> str:
        """Return where the file is and how large."""
        return f"{str(self.file)!r} ({len(self._pixels) / 1e9:.3g} GB)"


def _reopened(file: Path, size: int, places: dict[str, tuple[int, int, int]]) -> DecodedStore | None:
    """Map the file in a process that was not forked; it may have been replaced since."""
    with suppress(OSError):
        return DecodedStore(file, size, places)
    return None


def keep_decoded(catalog: Catalog, size: int, gigabytes: float) -> DecodedStore | None:
    """Return the store of a dataset; a new one, in place of an older one, if there is none or it is damaged.

    Photographs are kept in the catalog's order as long as there is room. Where nothing can be written, a warning
    says so and the result is ``None``.

    Args:
        catalog: All photographs of the dataset that can be decoded, with their content hashes.
        size: Side in pixels of the squares that they are wanted for.
        gigabytes: Size that the file may have, in 10⁹ bytes.
    """
    file = _store_file(catalog, size, gigabytes)
    _remove_others(file)
    store = find_decoded(catalog, size, gigabytes)
    if store is None:
        try:
            _write(file, [path for _, path in _contents(catalog)], size, gigabytes * 1e9)
        except OSError as error:  # every run can decode its photographs, which is no reason to stop
            warnings.warn(
                f"decoded photographs cannot be kept in {str(file.parent)!r} ({error.strerror}); "
                "set ANIMALS_PL_CACHE to a folder with room that can be written, or data.keep_decoded to 0",
                stacklevel=2,
            )
            return None
        store = find_decoded(catalog, size, gigabytes)
    return store


def find_decoded(catalog: Catalog, size: int, gigabytes: float) -> DecodedStore | None:
    """Return the store that :func:`keep_decoded` wrote with the same arguments; ``None`` if it is absent or damaged."""
    file = _store_file(catalog, size, gigabytes)
    try:
        return DecodedStore(file, size, _places(file, [content for content, _ in _contents(catalog)]))
    except (OSError, ValueError):
        return None


def _contents(catalog: Catalog) -> list[tuple[str, Path]]:
    """Return each content hash and a file that has it, in the catalog's order; copies are kept once."""
    files: dict[str, Path] = {}
    for content, path in zip(catalog.contents, catalog.paths, strict=True):
        files.setdefault(content, catalog.root / path)
    return list(files.items())


def _store_file(catalog: Catalog, size: int, gigabytes: float) -> Path:
    """Return the file's place: its name begins with the dataset's and ends with what its content depends on."""
    facts = [_FORMAT, PIL.__version__, size, float(gigabytes), *(content for content, _ in _contents(catalog))]
    key = hashlib.sha256("\n".join(map(str, facts)).encode()).hexdigest()[:16]
    root = catalog.root.resolve()
    place = hashlib.sha256(os.fsencode(root)).hexdigest()[:12]
    return cache_folder() / "photographs" / f"{root.name[:40]}-{place}-{key}"


def _remove_others(file: Path) -> None:
    """Leave one file per dataset: remove its predecessor, and what a killed run left half-written."""
    dataset = file.name.rpartition("-")[0]
    with suppress(OSError):
        for other in file.parent.iterdir():
            written = other.suffix == ".partial" and time.time() - other.stat().st_mtime < _ABANDONED
            if other != file and other.name.rpartition("-")[0] == dataset and not written:
                other.unlink(missing_ok=True)


def _write(file: Path, photographs: Sequence[Path], size: int, room: float) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as stream:
            _write_photographs(stream, photographs, size, room)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _write_photographs(stream: BinaryIO, photographs: Sequence[Path], size: int, room: float) -> None:
    """Write photographs as long as there is room, in bytes; only those that wait for their turn are in memory."""
    rows: list[tuple[int, int, int]] = []
    checksum = taken = 0
    room -= 2 * _COUNT.itemsize
    with closing(_decoded(photographs, size)) as images:
        watched = track(
            images,
            "decoding photographs",
            total=len(photographs),
            console=Console(stderr=True),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
        for position, image in enumerate(watched):
            needed = image.nbytes + _ROW.itemsize
            if taken + needed <= room:
                stream.write(image.data)
                checksum = zlib.crc32(image.data, checksum)
                rows.append((position, *image.shape[:2]))
                taken += needed
            elif (room - taken) * len(rows) < taken:  # not even one of average size would fit
                break
    end = np.array(rows, _ROW).tobytes() + np.array(len(rows), _COUNT).tobytes()
    stream.write(end + np.array(zlib.crc32(end, checksum), _COUNT).tobytes())


def _decoded(files: Sequence[Path], size: int) -> Generator[np.ndarray]:
    """Decode files on every core, a few ahead of what is asked for.

    In threads: Pillow decodes without the interpreter's lock, and processes would have to send the pixels. Measured on
    two cores, photographs per second: 2,060 in threads, 950 in processes, 1,510 in turn; of 4000 × 3000 pixels 116,
    102 and 62.
    """
    cores = os.cpu_count() or 1
    # Threads that silence warnings side by side may leave them silenced; this puts back what there was.
    with warnings.catch_warnings(), ThreadPoolExecutor(cores) as pool:
        waiting: deque[Future[np.ndarray]] = deque()
        for file in files:
            waiting.append(pool.submit(decode, file, size))
            if len(waiting) > 2 * cores:  # pool.map would decode all, however slowly they are written
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _places(file: Path, contents: Sequence[str]) -> dict[str, tuple[int, int, int]]:
    """Return where the photographs are in a file, once all of it has been read and found whole.

    Raises:
        ValueError: It is damaged.
    """
    data = np.memmap(file, np.uint8, "r")
    *_, count, checksum = np.frombuffer(data[-2 * _COUNT.itemsize :].tobytes(), _COUNT).tolist()
    whole = data[: -_COUNT.itemsize]
    found = 0
    for start in range(0, len(whole), 1 << 26):  # in parts, between which a person may interrupt
        found = zlib.crc32(whole[start : start + (1 << 26)].data, found)
    if found != checksum:
        raise ValueError(f"{file} is damaged")
    end = len(whole) - _COUNT.itemsize
    rows = np.frombuffer(whole[end - count * _ROW.itemsize : end].tobytes(), _ROW)
    lengths = 3 * rows["height"].astype(np.int64) * rows["width"]
    offsets = np.cumsum(lengths) - lengths
    places = zip(offsets.tolist(), rows["height"].tolist(), rows["width"].tolist(), strict=True)
    return dict(zip([contents[position] for position in rows["position"]], places, strict=True))
