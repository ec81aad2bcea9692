"""Log lines on standard error."""

from __future__ import annotations

import sys
from datetime import datetime

from animals_pl.files import printable


def log(text: str) -> None:
    """Write a line with the local time. Threads may call it."""
    sys.stderr.write(f"{datetime.now():%Y-%m-%d %H:%M:%S} {printable(text)}\n")  # one write: lines are not mixed
    sys.stderr.flush()
