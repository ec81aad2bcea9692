"""Threads that pass their exceptions on, and pauses between attempts."""

from __future__ import annotations

import threading
from collections.abc import Callable

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
"""Seconds between two attempts; the pause doubles after each failure."""


class Background(threading.Thread):
    """A daemon thread whose exception :meth:`check` raises in the main thread.

    Args:
        work: The function to run. It should return soon after :attr:`closing` is set.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self.closing = threading.Event()
        self._work = work
        self._error: Exception | None = None

    def run(self) -> None:
        """Call the function."""
        try:
            self._work()
        except Exception as error:  # raised again by check()
            self._error = error

    def check(self) -> None:
        """Raise the exception that ended the thread, if any."""
        if self._error:
            raise self._error

    def close(self, seconds: float) -> None:
        """Ask the thread to end, and wait for it for at most ``seconds``."""
        self.closing.set()
        self.join(seconds)


class Backoff:
    """Pauses of an operation that is repeated until it succeeds.

    Args:
        closing: Event that ends a pause.
    """

    def __init__(self, closing: threading.Event) -> None:
        self._closing = closing
        self.seconds = FIRST_PAUSE

    def reset(self) -> None:
        """Start again with the first pause, after a success."""
        self.seconds = FIRST_PAUSE

    def wait(self) -> None:
        """Wait after a failure; the next pause is longer."""
        self._closing.wait(self.seconds)
        self.seconds = min(2 * self.seconds, LONGEST_PAUSE)
