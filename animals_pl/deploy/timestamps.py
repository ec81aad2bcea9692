"""Dates of images, and time zones. Standard library only."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from animals_pl.errors import UsageError

_OFFSET = re.compile(r"([+-])(\d\d):(\d\d)")


def parse_timezone(text: str) -> tzinfo:
    """Time zone with a name such as ``Europe/Rome``, or an offset from UTC such as ``+02:00``.

    Raises:
        UsageError: It is neither.
    """
    if text in ("Z", "UTC"):
        return UTC
    if found := _OFFSET.fullmatch(text):
        sign, hours, minutes = found.groups()
        if int(hours) < 24 and int(minutes) < 60:
            return timezone((1 if sign == "+" else -1) * timedelta(hours=int(hours), minutes=int(minutes)))
    try:
        return ZoneInfo(text)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise UsageError(
            f"timezone={text!r} is not known. Pass a name such as Europe/Rome, or an offset such as +02:00."
        ) from error


def parse_date(text: str) -> datetime | None:
    """A date such as ``2024-05-31T06:12:59``, with or without an offset; None if the text is not a date."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def iso_8601(date: datetime, zone: tzinfo) -> str:
    """``2024-05-31T06:12:59+02:00``. A date without an offset is in ``zone``."""
    return (date if date.tzinfo else date.replace(tzinfo=zone)).isoformat(timespec="seconds")
