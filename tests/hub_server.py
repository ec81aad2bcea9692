"""What stand-ins for the Hugging Face Hub have in common; the code of huggingface_hub is the real one."""

from __future__ import annotations

import _socket
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import huggingface_hub.constants
import huggingface_hub.utils._http
import pytest


class StandIn(http.server.BaseHTTPRequestHandler):
    """A server whose subclasses define ``respond``."""

    def do_HEAD(self) -> None:
        self.respond()

    def do_GET(self) -> None:
        self.respond()

    def do_POST(self) -> None:
        self.respond()

    def do_PUT(self) -> None:
        self.respond()

    def respond(self) -> None:
        """Answer a request."""
        raise NotImplementedError

    def answer_json(self, value: object) -> None:
        self.answer(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: object) -> None:
        pass


def isolate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to an empty folder, with caches of its own and without a user's token."""
    constants = huggingface_hub.constants
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.utils._http.time, "sleep", lambda seconds: None)  # between its retries
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def use_endpoint(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    """As HF_ENDPOINT does, which is read when huggingface_hub is imported."""
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@contextmanager
def served(handler: type[StandIn], monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Serve to this machine only, as the endpoint of the hub."""

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        assert self.family == getattr(socket, "AF_UNIX", None) or address[0] == "127.0.0.1"
        _socket.socket.connect(self, address)  # what the fixture no_network has replaced

    monkeypatch.setattr(socket.socket, "connect", connect)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        use_endpoint(monkeypatch, f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield
        server.shutdown()
        thread.join()
