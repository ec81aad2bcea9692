"""Run ``watch`` until something has happened, receive its alerts, write videos."""

from __future__ import annotations

import http.server
import io
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image

from animals_pl.cli import main

DEADLINE = 60.0
"""Seconds after which a condition that is not met fails the test."""


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    end = time.monotonic() + DEADLINE
    while not condition():
        assert time.monotonic() < end, "the condition was not met"
        threading.Event().wait(0.01)


def watch_until(condition: Callable[[], object], *args: object, number: int = signal.SIGINT) -> int:
    """Run the command in this process, send it a signal when a condition is met, and return the exit code."""
    ended, met = threading.Event(), list[bool]()

    def poll() -> None:
        end = time.monotonic() + DEADLINE
        while not ended.wait(0.01):
            if condition() or time.monotonic() > end:
                met.append(time.monotonic() <= end)
                os.kill(os.getpid(), number)
                return

    thread = threading.Thread(target=poll)
    thread.start()
    try:
        return watch(*args)
    finally:
        ended.set()
        thread.join()
        assert met == [True], "the command ended before the condition was met"


def watch(*args: object) -> int:
    """Run the command in this process, with short times."""
    options = [] if "--settle" in args else ["--settle", "0"]
    options += [] if "--every" in args else ["--every", "10ms"]
    options += [] if "--unknown" in args else ["--unknown", "false"]  # the tiny model may know no image
    return main(["watch", *map(str, args), *options])


def lines(file: Path) -> list[dict[str, object]]:
    """The alerts in a file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def whole_lines(file: Path) -> list[dict[str, object]]:
    """The alerts in a file, without lines that a kill has torn."""
    found = []
    for line in file.read_text().splitlines() if file.exists() else []:
        with suppress(json.JSONDecodeError):
            found.append(json.loads(line))
    return found


class Receiver:
    """A server on this machine that notes what it receives. It may be down, or answer with an error."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.statuses: list[int] = []
        """What to answer next; 200 when there are no more. 0: hang up without an answer."""
        self._server: http.server.HTTPServer | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Where alerts go."""
        return f"http://127.0.0.1:{self.port}/alerts"

    @property
    def ids(self) -> list[str]:
        """The ids of the alerts, in the order of their arrival."""
        return [json.loads(body)["id"] for body in self.bodies]

    def up(self) -> None:
        """Start, at the same port as before."""
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                receiver.headers.append(dict(self.headers))
                if status := receiver.statuses.pop(0) if receiver.statuses else 200:
                    self.send_response(status)
                    self.send_header("Location", "/elsewhere")
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            do_GET = do_POST  # noqa: N815 - the name that the server calls

            def log_message(self, *args: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_port
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def down(self) -> None:
        """Stop."""
        if self._server:
            self._server.shutdown()
            self._server.server_close()
            self._server = None


def distinct(content: bytes, number: int) -> bytes:
    """The same picture with another content: a comment after the start of a JPEG."""
    comment = f"image {number}".encode()
    return content[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + content[2:]


def pixels(content: bytes, size: tuple[int, int] = (96, 96)) -> np.ndarray:
    """RGB pixels of an image, resized."""
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB").resize(size))
