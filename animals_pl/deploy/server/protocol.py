"""HTTP/1.1 of uvicorn with a time limit for request heads and a limit for connections.

uvicorn waits without limit for the rest of a head, and for a first byte. The time for a body is limited in ``app.py``.
"""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from animals_pl.deploy.server.limits import MOST_CONNECTIONS

_ENDED = b"Connection: close\r\nContent-Length: 0\r\n\r\n"

BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n" + _ENDED

LATE = b"HTTP/1.1 408 Request Timeout\r\n" + _ENDED


class PunctualProtocol(H11Protocol):
    """A connection whose next request head must arrive within ``timeout_keep_alive`` seconds.

    The time starts when the connection opens, and again with each response. The rest of a body that arrives after the
    response is discarded.
    """

    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait, or refuse the connection if there are too many."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            self._end_with(BUSY)
        else:
            self._expect_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop waiting when a head has arrived."""
        super().handle_events()
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_waiting()

    def on_response_complete(self) -> None:
        """Wait for the next request."""
        self._expect_request()
        super().on_response_complete()

    def _expect_request(self) -> None:
        self._stop_waiting()
        self._deadline = self.loop.call_later(self.timeout_keep_alive, self._give_up)

    def _stop_waiting(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        received, _ = self.conn.trailing_data
        self._end_with(LATE if received and self.conn.our_state is h11.IDLE else b"")

    def _end_with(self, response: bytes) -> None:
        self.transport.write(response)
        self.transport.close()
