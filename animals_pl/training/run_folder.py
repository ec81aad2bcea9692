"""Create numbered run directories."""

from __future__ import annotations

from pathlib import Path

from lightning_utilities.core.rank_zero import rank_zero_only

from animals_pl.errors import UsageError


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
