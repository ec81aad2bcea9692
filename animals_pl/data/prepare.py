"""Get photographs to train on."""

from __future__ import annotations

from typing import Literal

from animals_pl.data.practice import PRACTICE_ROOT, draw_practice_set


def prepare(
    source: Literal["practice"] = "practice", output: str = PRACTICE_ROOT, count: int = 1000, seed: int = 0
) -> None:
    """Put a folder-per-class dataset in place.

    Args:
        source: ``practice``: draw the built-in set of ten stylised animals.
        output: Folder to write; it must be absent or empty.
        count: Number of pictures, in Animals-10's class proportions.
        seed: Another seed, other pictures.
    """
    folder = draw_practice_set(output, count, seed)
    print(f"{count} pictures in ten classes drawn to {folder}")
