"""Find configuration files: the user's own, and those shipped with the project."""

from __future__ import annotations

from pathlib import Path

from animals_pl.errors import UsageError

_PACKAGE = Path(__file__).resolve().parent
CONFIGS = next((folder for folder in (_PACKAGE / "configs", _PACKAGE.parent / "configs") if folder.is_dir()), _PACKAGE)
"""The shipped configurations: part of an installed package, or ``configs`` in the repository."""


def find_config(name: str, folder: Path = Path()) -> Path:
    """Absolute path of a file below ``folder`` or the working directory, or of a shipped configuration by its name.

    Raises:
        UsageError: There is no such file.
    """
    for file in (folder / name, Path(name), CONFIGS / f"{name}.yaml"):
        if file.is_file():
            return file.resolve()
    shipped = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
    raise UsageError(f"config={name!r} is not a file. Pass a YAML file or one of {shipped}.")
