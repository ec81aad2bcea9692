"""The loop of ``watch``: take a frame, record its alerts, write the log."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import closing

from animals_pl.deploy.watch.alerts import AlertMaker
from animals_pl.deploy.watch.delivery import Delivery, drain
from animals_pl.deploy.watch.frame import Frame, Frames, Stop
from animals_pl.deploy.watch.log import log
from animals_pl.deploy.watch.state import State
from animals_pl.errors import counted

DRAIN_AT_END, DRAIN_AT_SIGNAL = 30.0, 2.0
"""Seconds to deliver waiting alerts when a video ends, and after a signal. A restart delivers the others."""


class Loop:
    """Takes frames until there are no more.

    Args:
        frames: Frames, and None while there is none.
        maker: Makes the alerts of a frame.
        state: Where they are recorded.
        deliveries: Where they are sent.
        counts: Counts of events, shared with the source.
        name: Name of the source in the log.
    """

    def __init__(
        self,
        frames: Frames,
        maker: AlertMaker,
        state: State,
        deliveries: Sequence[Delivery],
        counts: Counter[str],
        name: str,
    ) -> None:
        self._frames = frames
        self._maker = maker
        self._state = state
        self._deliveries = deliveries
        self._counts = counts
        self._name = name

    def run(self, heartbeat: float, stop: Stop) -> None:
        """Take frames, and write counts to the log every ``heartbeat`` seconds."""
        log(f"watching {self._name}")
        due = time.monotonic() + heartbeat
        for delivery in self._deliveries:
            delivery.thread.start()
        try:
            with closing(self._frames) as frames:
                for frame in frames:
                    if frame is not None:
                        self._handle(frame)
                    for delivery in self._deliveries:
                        delivery.thread.check()
                    if time.monotonic() >= due:
                        log(f"watching {self._name}: {self._summary()}")
                        due = time.monotonic() + heartbeat
            drain(self._deliveries, self._state, DRAIN_AT_SIGNAL if stop else DRAIN_AT_END)
        finally:
            for delivery in self._deliveries:
                delivery.close(1)
        log(f"watched {self._name}: {self._summary()}")

    def _handle(self, frame: Frame) -> None:
        alerts = self._maker.alerts(frame)
        if alerts or frame.file:
            sinks = [delivery.sink.name for delivery in self._deliveries]
            new = self._state.record(alerts, sinks, frame.file, time.time())
            self._counts.update({"alerts": new, "repeated": len(alerts) - new})
        for delivery in self._deliveries if alerts else []:
            delivery.notify()
        self._counts["images"] += 1

    def _summary(self) -> str:
        nouns = {"reconnections": "reconnection", "repeated": "repeated alert"}
        parts = [counted(self._counts["images"], "image"), counted(self._counts["alerts"], "alert")]
        parts += [f"{self._counts[key]:,} {key}" for key in ("unreadable", "dropped") if self._counts[key]]
        parts += [counted(self._counts[key], noun) for key, noun in nouns.items() if self._counts[key]]
        parts += [f"{count:,} waiting for {sink}" for sink, count in self._state.waiting().items()]
        return ", ".join(parts)
