"""Start the command serve in a process of its own, without the packages of training."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

from test_packaging import BLOCK

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Server:
    """A server that runs.

    Attributes:
        url: Its address, with a slash at the end.
        process: Its process.
        log: File with its standard error.
    """

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 0

    def request(self, method: str, path: str, body: object = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers with names in lower case, and body of an answer."""
        connection = HTTPConnection(*self.address)
        connection.request(method, path, body, headers)  # type: ignore[arg-type]
        response = connection.getresponse()
        content = response.read()
        connection.close()
        return response.status, {key.lower(): value for key, value in response.getheaders()}, content


@contextmanager
def running_server(model: Path, *options: str, log: Path) -> Iterator[Server]:
    """Run ``serve`` on a free port and end it with SIGTERM."""
    command = [sys.executable, "-c", BLOCK, "serve", str(model), "--port", "0", *options]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, cwd=PROJECT, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, log.read_text()
            yield Server(line.split()[0], process, log)
        finally:
            process.terminate()
            process.wait()
