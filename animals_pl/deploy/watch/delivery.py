"""Deliver alerts in order, each at least once, with one thread per sink."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from animals_pl.deploy.watch.background import Background, Backoff
from animals_pl.deploy.watch.log import log
from animals_pl.deploy.watch.sinks import FAILURES, Sink, reason_of
from animals_pl.deploy.watch.state import State


class Delivery:
    """The queue of a sink, emptied by a thread.

    Args:
        sink: Where its alerts go.
        state: The alerts that wait.
    """

    def __init__(self, sink: Sink, state: State) -> None:
        self.sink = sink
        self.thread = Background(self._deliver)
        self._state = state
        self._new = threading.Event()

    def notify(self) -> None:
        """Wake the thread, since there are new alerts."""
        self._new.set()

    def close(self, seconds: float) -> None:
        """Stop within ``seconds``. An alert that is being delivered is delivered again after a restart."""
        self.thread.closing.set()
        self.notify()
        self.thread.close(seconds)

    def _deliver(self) -> None:
        closing = self.thread.closing
        backoff = Backoff(closing)
        while not closing.is_set():
            self._new.clear()
            waiting = self._state.next_delivery(self.sink.name)
            if waiting is None:
                self._new.wait()
                continue
            number, body = waiting
            try:
                self.sink.send(body)
            except BrokenPipeError:
                raise  # the reader of standard output is gone
            except FAILURES as error:
                log(f"{self.sink.name}: {reason_of(error)}; next attempt in {backoff.seconds:g} s")
                backoff.wait()
            else:
                backoff.reset()
                if not closing.is_set():  # the state may be closed
                    self._state.delivered(self.sink.name, number)


def drain(deliveries: Sequence[Delivery], state: State, seconds: float) -> None:
    """Wait until all alerts are delivered, for at most ``seconds``."""
    end = time.monotonic() + seconds
    names = {delivery.sink.name for delivery in deliveries}
    while names & state.waiting().keys() and time.monotonic() < end:
        for delivery in deliveries:
            delivery.thread.check()
        time.sleep(0.02)
