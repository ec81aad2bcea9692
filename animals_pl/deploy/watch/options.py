"""Read the options of ``watch``: durations, classes with thresholds, k of n frames."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from animals_pl.data.catalog import match_classes
from animals_pl.durations import duration
from animals_pl.errors import UsageError, require_range

MOST_FRAMES = 1000


class Times(NamedTuple):
    """The durations among the options, in seconds."""

    quiet: float
    every: float
    settle: float
    heartbeat: float

    @classmethod
    def parse(cls, quiet: str, every: str, settle: str, heartbeat: str) -> Times:
        """Read them. Raises UsageError, see :func:`animals_pl.durations.duration`."""
        return cls(
            duration("quiet", quiet),
            duration("every", every, least=0.01),
            duration("settle", settle),
            duration("heartbeat", heartbeat, least=0.1),
        )


def thresholds(alert: str, default: float, class_names: Sequence[str]) -> dict[int, float]:
    """Label → threshold of the classes that raise alerts.

    Args:
        alert: Class names in Italian or English, separated by commas, each with or without ``:THRESHOLD``.
        default: Threshold of classes without one.
        class_names: The model's classes in label order.

    Raises:
        UsageError: A class is unknown or named twice, or a threshold is out of range.

    Example:
        >>> thresholds("elephant,gatto:0.95", 0.8, ["elefante", "gatto", "cane"])
        {0: 0.8, 1: 0.95}
    """
    require_range("threshold", default, 0, 1)
    values: dict[str, float] = {}
    for part in alert.split(","):
        name, threshold = _split(part.strip(), default)
        require_range(f"alert={part.strip()!r}: the threshold", threshold, 0, 1)
        if name in values:
            raise UsageError(f"alert={alert!r} has {name!r} twice. Name each class once.")
        values[name] = threshold
    return dict(zip(match_classes(list(values), class_names, "alert"), values.values(), strict=True))


def _split(part: str, default: float) -> tuple[str, float]:
    name, colon, text = part.rpartition(":")
    try:
        return (name.strip(), float(text)) if colon else (part, default)
    except ValueError:  # a colon in the name of a class
        return part, default


def k_of_n(frames: str) -> tuple[int, int]:
    """``k`` and ``n`` of a text such as ``2/3``.

    Raises:
        UsageError: The text has another form, or not 1 ≤ k ≤ n.

    Example:
        >>> k_of_n("2/3")
        (2, 3)
    """
    found = re.fullmatch(r"(\d+) */ *(\d+)", frames.strip())
    k, n = (int(found[1]), int(found[2])) if found else (0, 0)
    if not 1 <= k <= n <= MOST_FRAMES:
        raise UsageError(f"frames={frames!r} is invalid. Pass k/n, such as 2/3, with 1 <= k <= n <= {MOST_FRAMES}.")
    return k, n
