"""Create numbered run directories, and remove those of runs that fail at once."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only

from animals_pl.errors import UsageError
from animals_pl.signals import Terminated
from animals_pl.training.callbacks.finite_loss import NOT_FINITE


def new_run_folder(parent: Path) -> Path:
    """Create and return ``parent/version_N`` with the first free N.

    Other processes of the same run return the folder that the first one created.

    Raises:
        UsageError: The folder cannot be created.
    """
    try:
        parent.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name.removeprefix("version_")) for p in parent.glob("version_*") if p.name[8:].isdigit()]
        version = max(taken, default=-1) + 1
        if getattr(rank_zero_only, "rank", 0):
            return parent / f"version_{version - 1}"
        while True:
            folder = parent / f"version_{version}"
            try:
                folder.mkdir()
            except FileExistsError:  # created by a concurrent run
                version += 1
            else:
                return folder
    except OSError as error:
        raise UsageError(
            f"cannot write below {str(parent)!r} ({error.strerror}). Use another folder: "
            "--trainer.default_root_dir DIR (analyze: --output DIR)."
        ) from error


@contextmanager
def without_empty_run(folder: Path | None, ckpt_path: str | Path | None) -> Iterator[None]:
    """Remove the folder of a new run that fails or is stopped before its first epoch is complete."""
    try:
        yield
    except (UsageError, KeyboardInterrupt, Terminated):
        if folder and ckpt_path is None and folder.exists() and _is_empty_run(folder):
            shutil.rmtree(folder)
            with suppress(OSError):  # not empty: it has other runs
                folder.parent.rmdir()
        raise


def _is_empty_run(folder: Path) -> bool:
    kept = ("metrics.csv", "*.ckpt", f"{NOT_FINITE}*.csv")
    return not any(any(folder.glob(name)) for name in kept)
