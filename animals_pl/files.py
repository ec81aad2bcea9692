"""Files: atomic writes, the cache folder, progress bars. Standard library and rich only."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from rich.console import Console
from rich.progress import track as rich_track

from animals_pl.errors import UsageError

Item = TypeVar("Item")


@contextmanager
def atomic_write(file: Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; rename it to ``file`` on success, remove it on failure.

    Readers see the old file or the new one, never a partial one. The folder is created if needed.

    Example:
        >>> import tempfile
        >>> target = Path(tempfile.mkdtemp()) / "numbers.txt"
        >>> with atomic_write(target) as partial:
        ...     _ = partial.write_text("1 2 3")
        >>> target.read_text()
        '1 2 3'
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    try:
        yield partial
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def cache_dir() -> Path:
    """Cache folder: ``$ANIMALS_PL_CACHE``, or ``animals_pl`` in the user's cache folder."""
    named = os.environ.get("ANIMALS_PL_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "animals_pl"


def require_empty(folder: Path) -> None:
    """Raise UsageError unless an output folder is new or empty."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UsageError(f"output={str(folder)!r} exists and is not an empty folder. Choose another folder.")


def wide_console(width: int = 130) -> Console:
    """Console of standard output: as wide as the terminal or ``COLUMNS``, else ``width`` (rich's default is 80)."""
    console = Console(highlight=False)
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=width, highlight=False)


def track(
    items: Iterable[Item], description: str, total: int | None = None, console: Console | None = None
) -> Iterable[Item]:
    """Iterate with a progress bar (by default on standard error), shown on terminals only and removed at the end."""
    console = console or Console(stderr=True)
    return rich_track(items, description, total, console=console, transient=True, disable=not console.is_terminal)
