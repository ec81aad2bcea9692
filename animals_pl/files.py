"""Files and the console: output files, the cache folder, tables, progress bars. Standard library and rich only."""

from __future__ import annotations

import atexit
import errno
import os
import re
import shutil
import stat
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TextIO, TypeVar

from animals_pl.errors import UsageError

# Type checking only: importing rich before Lightning reorders Lightning's `int | float` annotations to `float | int`
# (Python 3.11), so that 1 would be parsed as 1.0.
if TYPE_CHECKING:
    from rich.table import Table

Item = TypeVar("Item")

# Control characters, line separators, bidirectional marks, and surrogates (bytes of a file name that are not UTF-8).
_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


PARTIAL = ".partial"
"""Ending of the temporary files of :func:`atomic_write`."""


@contextmanager
def atomic_write(file: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path; move it to ``file`` on success, remove it on failure.

    Readers see the old file or the new one, never a partial one. With ``durable``, this also holds after a power cut,
    and the new file survives it: file and folder are flushed to the disk, which takes a few milliseconds; pass false
    for thousands of files that can be recreated. The folder is created if needed. If ``file`` is a link, the file that
    it points to is replaced. A pipe or a device receives the content at the end.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_write(target) as partial:
        ...     _ = partial.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    stream = is_stream(file)
    target = Path(os.path.realpath(file))
    with tempfile.TemporaryDirectory() if stream else nullcontext(target.parent) as folder:
        partial = Path(folder) / f"{target.name[:50]}.{os.getpid()}{PARTIAL}"
        try:
            partial.parent.mkdir(parents=True, exist_ok=True)
            yield partial
            if stream:
                _copy(partial, file)
            else:
                if durable:
                    with partial.open("r+b") as written:
                        os.fsync(written.fileno())
                partial.replace(target)
                if durable:
                    _flush_folder(target.parent)
        except OSError as error:
            if error.errno and error.filename in (None, str(partial)):  # the error of a full disk has no filename
                error.filename = str(file)
            raise
        finally:
            partial.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Flush a directory's entries to the disk where supported (not on Windows and some network file systems)."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def remove_partial_files(folder: Path) -> None:
    """Remove the temporary files of :func:`atomic_write` that a killed process left in a folder."""
    for file in folder.glob(f"*{PARTIAL}"):
        file.unlink(missing_ok=True)


class StagedFolder:
    """A new folder that takes the place of another one as a whole: readers see the earlier files or the new ones.

    Args:
        target: The folder to replace, or to create. If it is a link, the folder that it points to is replaced.

    Attributes:
        path: The new folder, beside the target, until it is published.
    """

    def __init__(self, target: Path) -> None:
        self._target = Path(os.path.realpath(target))
        self.path = self._target.with_name(f".{self._target.name[:50]}.{os.getpid()}.partial")
        self.discard()  # left by a killed process with the same PID
        self.path.mkdir(parents=True)

    def publish(self) -> None:
        """Replace the target."""
        earlier = self.path.with_suffix(".earlier")
        while True:
            with suppress(FileNotFoundError):
                self._target.rename(earlier)
            try:
                self.path.rename(self._target)
                break
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # another process published in the meantime
                    raise
                shutil.rmtree(earlier, ignore_errors=True)
        shutil.rmtree(earlier, ignore_errors=True)

    def discard(self) -> None:
        """Remove the new folder; the target stays as it is."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder that replaces ``folder`` on success and is removed on failure."""
    staged = StagedFolder(folder)
    try:
        yield staged.path
        staged.publish()
    finally:
        staged.discard()


def is_stream(file: Path) -> bool:
    """Whether a path is a pipe, a device, or the process's standard output."""
    try:
        mode = file.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)) or is_stdout(file)


def is_stdout(file: Path) -> bool:
    """Whether a path, such as /dev/stdout, is the process's standard output."""
    with suppress(OSError):
        return os.path.samestat(file.stat(), os.fstat(1))
    return False


def message_stream(file: Path) -> TextIO:
    """Stream for status messages: stderr if the output file is stdout, else stdout."""
    return sys.stderr if is_stdout(file) else sys.stdout


def _copy(source: Path, stream: Path) -> None:
    sys.stdout.flush()
    # Reopening /dev/stdout would truncate it if it is a regular file.
    opened = os.fdopen(os.dup(1), "wb") if is_stdout(stream) else stream.open("wb")
    with source.open("rb") as content, opened as output:
        shutil.copyfileobj(content, output)


def require_writable(path: Path, argument: str = "output", *, folder: bool = False) -> None:
    """Check that a file or a folder can be written, before the work starts.

    Raises:
        UsageError: The path has the wrong type, one of its parents is a file, or permission is denied.
    """
    target = Path(os.path.realpath(path))
    existing = next(place for place in (target, *target.parents) if os.access(place, os.F_OK))
    fault = ""
    if is_stream(path):
        fault = "" if not folder and os.access(path, os.W_OK) else "cannot be written"
    elif existing == target and target.is_dir() != folder:
        fault = "is a file" if folder else "is a folder"
    elif existing != target and not existing.is_dir():
        fault = f"cannot be created: {str(existing)!r} is a file"
    elif existing == target and not os.access(target, os.W_OK):
        fault = "is not writable"
    else:
        try:
            with tempfile.TemporaryFile(dir=existing if existing.is_dir() else existing.parent):
                pass
        except OSError as error:
            fault = f"cannot be written ({error.strerror})"
    if fault:
        raise UsageError(f"{argument}={str(path)!r} {fault}. Choose another {argument}.")


def require_empty(folder: Path) -> None:
    """Raise UsageError unless an output folder is new or empty, and can be written."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"output={str(folder)!r} exists and is not an empty folder. Choose another folder.")
    require_writable(folder, folder=True)


def cache_dir() -> Path:
    """Cache folder: ``$ANIMALS_PL_CACHE``, or ``animals_pl`` in the user's cache folder.

    Without a home folder, a temporary folder is used, with a warning.
    """
    named = os.environ.get("ANIMALS_PL_CACHE")
    if named:
        return Path(named)
    user_cache = os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(user_cache or Path.home() / ".cache") / "animals_pl"
    except RuntimeError:  # neither HOME nor an entry in the user database
        return _temporary_cache()


@cache
def _temporary_cache() -> Path:
    """Folder that is removed when the process ends."""
    warnings.warn(
        "the cache is kept for this command only: this user has no home folder. "
        "Set ANIMALS_PL_CACHE to a writable folder.",
        stacklevel=3,
    )
    folder = Path(tempfile.mkdtemp(prefix="animals_pl-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def screen_width(default: int = 130) -> int:
    """Columns of the terminal, or ``COLUMNS``, else ``default``."""
    return shutil.get_terminal_size((default, 25)).columns


def printable(text: object) -> str:
    r"""Text in one line, with characters escaped that would control the terminal, such as ``\x1b`` or ``\u202e``.

    Example:
        >>> print(printable("red \x1b[31m\n"))
        red \x1b[31m\n
    """
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


def show(table: Table, width: int | None = None) -> None:
    """Print a table without interpreting Rich markup. Use ``print`` for other text.

    The output of either appears above a progress bar.
    """
    from rich.console import Console

    console = Console(width=width or screen_width(), markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        console.print(table)
    print(capture.get(), end="")


def track(items: Iterable[Item], description: str, total: int | None = None) -> Iterator[Item]:
    """Iterate with a progress bar on standard error, shown on terminals only and removed at the end.

    It shows the rate and, if the total is known, the time left.
    """
    if not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskProgressColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return TaskProgressColumn.render_speed(task.finished_speed or task.speed)

    columns = ("{task.description}", BarColumn(), TaskProgressColumn(), Rate(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        yield from progress.track(items, total, description=escape(description))
