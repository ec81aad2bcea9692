"""New images in a folder, found by polling.

File system events are not used: NFS and SMB have none for files that other machines write.
"""

from __future__ import annotations

import os
import stat
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from animals_pl.data.decode import has_image_suffix
from animals_pl.data.problems import load_checked
from animals_pl.deploy.image_file import date_and_camera, read_file
from animals_pl.deploy.watch.frame import Frame, Frames, Stop
from animals_pl.deploy.watch.log import log
from animals_pl.deploy.watch.state import FileVersion, State

MOST_BYTES = 2**28
"""Larger files are not read."""

MOST_PENDING = 10_000
"""Maximum number of files waiting to be complete. Others wait for a place, so that memory is bounded."""

RETRY = 60.0
"""Seconds after which a file that cannot be read is tried again."""

CENSUS, REMEMBERED = 86_400.0, 30 * 86_400.0
"""Seconds between two records of which files still exist, and after which a missing file is forgotten."""


class Folder:
    """Yields images at any depth once they are complete.

    A file is complete when its size and modification time have been the same for ``settle`` seconds of this machine's
    clock. It is done when the caller has recorded it in the state. A file that changes later is another version.

    Args:
        root: The folder.
        state: What is done.
        size: Side of the square that images will be resized to, see :func:`animals_pl.data.decode.decode`.
        every: Seconds between two scans.
        settle: Seconds.
        counts: Receives ``unreadable``: number of files that cannot be decoded.
        stop: Ends the iteration.
    """

    def __init__(
        self, root: Path, state: State, size: int, every: float, settle: float, counts: Counter[str], stop: Stop
    ) -> None:
        self._root = root
        self._state = state
        self._size = size
        self._every = every
        self._settle = settle
        self._counts = counts
        self._stop = stop
        self._pending: dict[FileVersion, float] = {}  # and when it was first seen
        self._failed: set[str] = set()  # paths that cannot be read, so that each is logged once
        self._census = -CENSUS

    def __iter__(self) -> Frames:
        """Yield images, and None after each scan."""
        while not self._stop:
            for file in self._complete():
                if self._stop:
                    return
                if frame := self._read(file):
                    yield frame
            yield None
            self._stop.wait(self._every)

    def _complete(self) -> list[FileVersion]:
        """Files that are complete and not done, the oldest first."""
        now = time.monotonic()
        is_census = now - self._census >= CENSUS
        done: list[str] = []
        pending: dict[FileVersion, float] = {}
        for file in self._files():
            if self._state.is_done(file):
                done += [file.path] if is_census else []
            elif file in self._pending or len(pending) < MOST_PENDING:
                pending[file] = self._pending.get(file, now)
        self._pending = pending
        if is_census and done:  # if no file is there, the network drive may be absent
            self._state.mark_seen(done, time.time())
            self._state.forget(time.time() - REMEMBERED)
            self._census = now
        complete = [file for file, since in pending.items() if now - since >= self._settle]
        return sorted(complete, key=lambda file: (file.modified, file.path))

    def _files(self) -> Iterator[FileVersion]:
        """Every image below the folder. Hidden files and folders are skipped, and links are followed."""
        folders, entered = [""], set[tuple[int, int]]()
        while folders:
            folder = folders.pop()
            try:
                status = (self._root / folder).stat()
                if (status.st_dev, status.st_ino) in entered:  # a cycle of links
                    continue
                entered.add((status.st_dev, status.st_ino))
                with os.scandir(self._root / folder) as entries:
                    for entry in entries:
                        path = os.path.join(folder, entry.name)  # noqa: PTH118 - many times a second
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir():
                            folders.append(path)
                        elif has_image_suffix(entry.name) and (file := _version(path, entry)):
                            yield file
                self._failed.discard(folder)
            except OSError as error:
                self._log_failure(folder, f"the folder cannot be read: {error.strerror}")

    def _read(self, file: FileVersion) -> Frame | None:
        """The image of a file; None if it changes or cannot be read now."""
        path = str(self._root / file.path)
        if file.bytes > MOST_BYTES:
            return self._frame(file, "", None, f"larger than {MOST_BYTES:,} bytes", {})
        content, facts, problem = read_file(path)
        if problem:  # the network drive may be absent: not done
            self._pending[file] = time.monotonic() + RETRY - self._settle
            self._log_failure(file.path, problem)
            return None
        self._failed.discard(file.path)
        if (facts["bytes"], facts["modified"]) != (file.bytes, file.modified):
            return None
        details = {"date": "", "camera": ""}
        picture, problem = load_checked(content, self._size, lambda opened: details.update(date_and_camera(opened)))
        return self._frame(file, facts["sha256"], None if picture is None else np.array(picture), problem, details)

    def _frame(
        self, file: FileVersion, key: str, pixels: np.ndarray | None, problem: str, facts: dict[str, str]
    ) -> Frame:
        path = str(self._root / file.path)
        if problem:
            log(f"{path}: {problem}")
        self._counts["unreadable"] += pixels is None
        return Frame(key, time.time(), pixels, {"path": path} | facts, problem, file)

    def _log_failure(self, path: str, problem: str) -> None:
        is_there = not path or os.path.lexists(self._root / path)  # False: it was removed. A missing root is logged
        if is_there and path not in self._failed:
            self._failed.add(path)
            log(f"{self._root / path}: {problem}; it will be tried again")


def _version(path: str, entry: os.DirEntry[str]) -> FileVersion | None:
    try:
        status = entry.stat()
    except OSError:  # removed, or a broken link
        return None
    return FileVersion(path, status.st_size, status.st_mtime_ns) if stat.S_ISREG(status.st_mode) else None
