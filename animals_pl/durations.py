"""Durations in options, such as ``10min``."""

from __future__ import annotations

import re

from animals_pl.errors import UsageError

_UNITS = {"ms": 0.001, "s": 1, "min": 60, "h": 3600, "d": 86400}


def duration(name: str, text: str, *, least: float = 0.0, most_days: int = 365) -> float:
    """Seconds of a duration.

    Args:
        name: Name of the option, for messages.
        text: A number and a unit (ms, s, min, h, d); without a unit, it is in seconds.
        least: Smallest value in seconds.
        most_days: Largest value in days.

    Raises:
        UsageError: The text is not a duration, or is out of range.

    Example:
        >>> duration("quiet", "10min"), duration("every", "0.5")
        (600.0, 0.5)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+) *(ms|s|min|h|d)?", text.strip())
    seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else -1.0
    if not least <= seconds <= most_days * _UNITS["d"]:
        bounds = f"of {least:g}s to {most_days}d" if least else f"of at most {most_days}d"
        raise UsageError(f"{name}={text!r} is invalid. Pass a duration {bounds}, such as 500ms, 10s, 5min or 1h.")
    return seconds
