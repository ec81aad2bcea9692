"""The command ``serve``."""

from __future__ import annotations

import ipaddress
import math
import os
import re
import socket
import warnings
from contextlib import suppress

import uvicorn
from starlette.types import ASGIApp

from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.server.app import create_app
from animals_pl.deploy.server.device_page import write_device_page
from animals_pl.deploy.server.limits import Limits
from animals_pl.deploy.server.protocol import PunctualProtocol
from animals_pl.errors import UsageError, require_range

TOKEN_VARIABLE = "ANIMALS_PL_TOKEN"

_TOKEN = re.compile(r"[\w.~-]{16,256}", re.ASCII)

MOST_SECONDS_TO_END = 10
"""Seconds after SIGINT or SIGTERM in which running requests may finish."""


def serve(
    model: str,
    host: str = "127.0.0.1",
    port: int = 8000,
    token: str | None = None,
    max_mb: float = 20.0,
    max_megapixels: float = 50.0,
    max_requests: int = 16,
    timeout: float = 30.0,
    static: str | None = None,
    ort_web: str | None = None,
) -> None:
    """Serve an exported model: a web page, and an HTTP interface.

    PyTorch is not needed. Images stay in memory; nothing is written to disk. Ctrl-C or SIGTERM ends the server.

    Args:
        model: The ONNX file, written by ``export``.
        host: Address to listen on. Any address other than this machine's loopback address requires a token.
        port: Port to listen on; 0: any free one.
        token: Clients must send it as "Authorization: Bearer TOKEN". At least 16 letters, digits, or characters of
            "-._~". Default: the environment variable ANIMALS_PL_TOKEN, which other users of the machine cannot see.
        max_mb: Maximum size of a request, in 10^6 bytes.
        max_megapixels: Maximum size of an image, in 10^6 pixels.
        max_requests: Maximum number of requests at the same time. Further ones are refused with the status 503.
        timeout: Maximum time for receiving a request, in seconds.
        static: Write a page to this new folder instead of serving. Any web server can host it, and it also works
            without a network. The model must have been exported with input=image.
        ort_web: For static: the folder dist of the npm package onnxruntime-web. Default: npm downloads a fixed
            version, and its hash is checked.

    Raises:
        UsageError: The model or an option cannot be used, or the address is in use.
    """
    if static is not None:
        write_device_page(model, static, ort_web)
        return
    if ort_web is not None:
        raise UsageError("ort_web only applies to static. Remove it, or pass --static FOLDER.")
    require_range("port", port, 0, 65535)
    limits = _limits(max_mb, max_megapixels, max_requests, timeout)
    token = _require_token(token or os.environ.get(TOKEN_VARIABLE), host)
    with _listen(host, port) as listener:
        server = _server(create_app(Identifier(model, threads=1), limits, token), limits)
        shown_host = f"[{host}]" if ":" in host else host
        print(f"http://{shown_host}:{listener.getsockname()[1]}/ (Ctrl-C to end)", flush=True)
        # decoders change the filters of warnings, in several threads
        with warnings.catch_warnings(), suppress(KeyboardInterrupt):
            server.run([listener])


def _limits(max_mb: float, max_megapixels: float, max_requests: int, timeout: float) -> Limits:
    require_range("max_mb", max_mb, 0.001, 1000)
    require_range("max_megapixels", max_megapixels, 0.001, 1000)
    require_range("max_requests", max_requests, 1, 1000)
    require_range("timeout", timeout, 1, 3600)
    return Limits(max_mb, max_megapixels, max_requests, timeout)


def _server(app: ASGIApp, limits: Limits) -> uvicorn.Server:
    config = uvicorn.Config(
        app,
        http=PunctualProtocol,
        ws="none",
        lifespan="off",
        log_level="warning",
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=math.ceil(limits.timeout),
        timeout_graceful_shutdown=MOST_SECONDS_TO_END,
    )
    return uvicorn.Server(config)


def _require_token(token: str | None, host: str) -> str | None:
    if token is None and not _is_loopback(host):
        raise UsageError(
            f"host={host!r} can be reached from other machines. Set --token, or the environment variable "
            f"{TOKEN_VARIABLE}; python -c 'import secrets; print(secrets.token_urlsafe())' creates a token."
        )
    if token is not None and not _TOKEN.fullmatch(token):
        raise UsageError("token is invalid. Pass 16 to 256 letters, digits or characters of -._~.")
    return token


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UsageError(
            f"host={host!r}, port={port}: cannot listen ({error.strerror}). Choose another --port or --host."
        ) from error
    # Connections inherit it. asyncio sets it for listeners of its own only; without it, each answer takes 40 ms more.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener
