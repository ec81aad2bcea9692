"""Images of a source, and a flag that stops the program between them."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, TypeAlias

import numpy as np

from animals_pl.deploy.watch.state import FileVersion
from animals_pl.signals import end_process

_NAP = 0.1
"""Seconds after which a waiting program notices a signal."""


@dataclass(frozen=True)
class Frame:
    """An image of a source.

    Attributes:
        key: What identifies it in its source: a hash of its content, or its time.
        time: When it was taken, in seconds, for the quiet time of the rules.
        pixels: RGB (H, W, 3) uint8; None if it cannot be decoded.
        facts: Further keys of its alerts.
        problem: What is wrong with it; empty if nothing.
        file: The file to record as done with this image; None for videos and streams.
    """

    key: str
    time: float
    pixels: np.ndarray | None
    facts: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    file: FileVersion | None = None


Frames: TypeAlias = Generator[Frame | None, None, None]
"""Images of a source, and None while no image is available, so that the caller can do other work."""


class Stop:
    """Stop request: true after a signal, which it stores."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    def wait(self, seconds: float) -> None:
        """Sleep for ``seconds``, or until a signal arrives."""
        end = time.monotonic() + seconds
        # No threading.Event: set() in a signal handler deadlocks if the signal arrives during wait().
        while not self and (left := end - time.monotonic()) > 0:
            time.sleep(min(_NAP, left))

    def end_process(self) -> None:
        """Raise the exception that ends the process, if signalled; see :func:`~animals_pl.signals.end_process`."""
        if self.signal is not None:
            end_process(self.signal)

    @contextmanager
    def on_signals(self) -> Iterator[None]:
        """Stop at SIGINT and SIGTERM, if called in the main thread; a second SIGINT interrupts as usual."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = signal.Signals(number)
            signal.signal(signal.SIGINT, signal.default_int_handler)

        for number in before:
            signal.signal(number, stop)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
