"""A server in a process of its own and hostile clients: correct answers, bounded memory, and it keeps running."""

from __future__ import annotations

import io
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from serving import Server, running_server

from animals_pl.deploy.server.limits import MOST_CONNECTIONS

MB = 1_000_000


@pytest.fixture
def photo(tiny_tree) -> bytes:
    return sorted(tiny_tree.rglob("*.jpg"))[5].read_bytes()


@pytest.fixture(autouse=True)
def serves_in_the_end(server: Server, photo: bytes) -> Iterator[None]:
    """After each test, the server still works, has not used much more memory, and has reported no error."""
    assert server.request("POST", "/identify", photo)[0] == 200
    before = peak_memory(server)
    yield
    assert server.request("POST", "/identify", photo)[0] == 200
    assert peak_memory(server) - before < 60 * MB
    assert "Traceback" not in server.log.read_text()


def peak_memory(server: Server) -> int:
    """Maximum resident memory of the server so far, in bytes. It is at least the proportional one (PSS)."""
    lines = Path(f"/proc/{server.process.pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))


def exchange(server: Server, *parts: bytes, end: bool = False) -> bytes:
    """Send parts of a request, and return everything received until the server closes the connection."""
    with socket.create_connection(server.address) as connection:
        for part in parts:
            connection.sendall(part)
        if end:
            connection.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: connection.recv(65536), b""))


def blank_png(side: int) -> bytes:
    """A black image of ``side`` × ``side`` pixels in a file of a thousandth of its size."""
    rows = zlib.compressobj(9)
    data = b"".join(rows.compress(bytes(1 + 3 * side)) for _ in range(side)) + rows.flush()
    chunks = {b"IHDR": struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0), b"IDAT": data, b"IEND": b""}
    parts = [
        struct.pack(">I", len(value)) + name + value + struct.pack(">I", zlib.crc32(name + value))
        for name, value in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_uploads_of_200_mb_are_refused(server):
    declared = server.request("POST", "/identify", io.BytesIO(bytes(200 * MB)), **{"Content-Length": str(200 * MB)})
    chunked = server.request("POST", "/identify", iter([bytes(MB)] * 200))
    assert [declared[0], chunked[0]] == [413, 413]


@pytest.mark.parametrize("body", [b"\xff\xd8\xff", b""])
def test_a_truncated_body_has_no_result(server, body):
    answer = exchange(server, b"POST /identify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n" + body, end=True)
    assert not answer or answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    "sent",
    [
        b"POST /identify HTTP/1.1\r\nHost: a\r\nX-A: ",
        b"POST /identify HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n123",
    ],
    ids=["head", "body"],
)
def test_a_slow_client_is_disconnected(server, sent):
    assert exchange(server, sent).startswith(b"HTTP/1.1 408 ")


def test_a_silent_client_is_disconnected(server):
    assert exchange(server) == b""


def test_slow_clients_occupy_places_until_they_go(model, photo, tmp_path):
    head = b"POST /identify HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    with running_server(model, "--max_requests", "3", log=tmp_path / "other_log") as other:
        with ExitStack() as stack:
            for _ in range(3):
                connection = stack.enter_context(socket.create_connection(other.address))
                connection.sendall(head)
                assert connection.recv(100).startswith(b"HTTP/1.1 100 ")  # the server waits for the body
            status, headers, _ = other.request("POST", "/identify", photo)
            assert (status, headers["retry-after"]) == (503, "1")
            assert other.request("GET", "/health")[0] == 200
        while status == 503:  # until the server has noticed that they are gone
            status = other.request("POST", "/identify", photo)[0]
        assert status == 200
        assert "Traceback" not in other.log.read_text()


def test_100_parallel_requests_are_answered_or_told_to_come_back(server, photo):
    def answer(_: int) -> tuple[int, str | None]:
        status, headers, _ = server.request("POST", "/identify", photo)
        return status, headers.get("retry-after")

    with ThreadPoolExecutor(100) as pool:
        found = Counter(pool.map(answer, range(100)))
    assert found.keys() <= {(200, None), (503, "1")}
    assert found[200, None] >= 4


def test_a_decompression_bomb_is_refused(server):
    status, _, content = server.request("POST", "/identify", blank_png(8000))
    assert status == 422
    assert b"too many pixels: 64.0 megapixels (allowed: 50)" in content


def test_more_connections_than_allowed_are_refused(server):
    with ExitStack() as stack:
        held = [stack.enter_context(socket.create_connection(server.address)) for _ in range(MOST_CONNECTIONS)]
        assert exchange(server).startswith(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n")
        assert [connection.recv(1) for connection in held] == [b""] * MOST_CONNECTIONS  # given up


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000,
        b"\0\xff\r\n\r\n",
        b"POST /identify HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /identify HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    ids=["head", "binary", "length", "chunks"],
)
def test_damaged_requests_are_refused(server, sent):
    answer = exchange(server, sent)
    assert answer.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 431 "))


def test_sigterm_ends_the_server(model, loopback, tmp_path):
    with running_server(model, log=tmp_path / "other_log") as other:
        assert other.request("GET", "/health")[0] == 200
    assert other.process.returncode == -15
    assert (tmp_path / "other_log").read_text() == ""
