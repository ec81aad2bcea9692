"""SIGINT and SIGTERM: what they raise, and the exit code. Standard library only."""

from __future__ import annotations

import multiprocessing
import os
import signal
from types import FrameType
from typing import NoReturn

STOPPING = (signal.SIGINT, signal.SIGTERM)
"""Signals that ask a process to end."""


class Terminated(SystemExit):
    """The process received SIGTERM. The exit code is 143.

    Args:
        message: What the command line prints.
    """

    def __init__(self, message: str = "terminated") -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        """The message."""
        return self.message


def end_process(number: int, frame: FrameType | None = None) -> NoReturn:
    """Signal handler that ends the process by an exception, so that temporary files are removed.

    Raises:
        KeyboardInterrupt: SIGINT; the exit code is 130.
        Terminated: SIGTERM; the exit code is 143.
    """
    if multiprocessing.parent_process() is not None:  # a forked worker has nothing to remove
        os._exit(128 + number)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
