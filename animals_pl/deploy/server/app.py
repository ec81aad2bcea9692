"""The web application: the page, ``POST /identify``, ``GET /health``, ``GET /model`` and ``GET /openapi.json``."""

from __future__ import annotations

import asyncio
import hmac
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from animals_pl.data.cores import available_cores
from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.server.answers import Answer, identify, model_facts, status_of
from animals_pl.deploy.server.limits import Limits
from animals_pl.deploy.server.openapi import openapi
from animals_pl.deploy.server.uploads import Upload, read_uploads

PAGE = Path(__file__).with_name("page")

TOP_K = 5
"""Default number of classes per image."""

MOST_TOP_K = 100

SECURITY_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Permissions-Policy": "camera=(self), geolocation=(), microphone=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(identifier: Identifier, limits: Limits | None = None, token: str | None = None) -> ASGIApp:
    """The ASGI application that serves a model.

    Args:
        identifier: The model; it should use one thread per call.
        limits: What a request may cost.
        token: Clients must send it as ``Authorization: Bearer TOKEN``, except for the page, ``/health`` and
            ``/openapi.json``. None: everyone may use the model.
    """
    service = _Service(identifier, limits or Limits(), token)
    routes = [
        Route("/identify", service.identify, methods=["POST"]),
        Route("/model", service.model),
        Route("/health", _health),
        Route("/openapi.json", _openapi),
    ]
    handlers = {HTTPException: _error, ClientDisconnect: _disconnected}
    app = Starlette(routes=routes, exception_handlers=handlers)  # type: ignore[arg-type]
    app.router.redirect_slashes = False
    app.router.default = StaticFiles(directory=PAGE, html=True)  # a Mount would hide that /identify is for POST only
    return _SecurityHeaders(app)


class _Service:
    """The endpoints that use the model. Images are decoded and classified in one thread per core."""

    def __init__(self, identifier: Identifier, limits: Limits, token: str | None) -> None:
        self._identifier = identifier
        self._limits = limits
        self._token = token
        self._pool = ThreadPoolExecutor(available_cores(), "identify")
        self._requests = 0

    async def model(self, request: Request) -> Response:
        """Describe the model."""
        self._require_token(request)
        return JSONResponse(model_facts(self._identifier.metadata, self._limits))

    async def identify(self, request: Request) -> Response:
        """Classify the images of a request."""
        self._require_token(request)
        top_k = _top_k(request)
        if self._requests >= self._limits.max_requests:
            raise HTTPException(503, "The server is busy. Try again in a second.", {"Retry-After": "1"})
        self._requests += 1
        try:
            async with asyncio.timeout(self._limits.timeout):
                uploads = await read_uploads(request, self._limits.most_bytes)
            loop = asyncio.get_running_loop()
            answers = await loop.run_in_executor(self._pool, self._identify_all, uploads, top_k)
        except TimeoutError:
            raise HTTPException(408, f"The request took longer than {self._limits.timeout:g} s.") from None
        finally:
            self._requests -= 1
        status, problem = status_of(answers)
        error = {"error": problem} if problem else {}
        return JSONResponse({**error, "model": self._identifier.metadata.sha256[:12], "images": answers}, status)

    def _identify_all(self, uploads: list[Upload], top_k: int) -> list[Answer]:
        """One after the other, so that only one decoded image is in memory."""
        return [identify(self._identifier, upload, self._limits.most_pixels, top_k) for upload in uploads]

    def _require_token(self, request: Request) -> None:
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        if self._token is None or (
            scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), self._token.encode())
        ):
            return
        raise HTTPException(401, "The token is missing or wrong.", {"WWW-Authenticate": "Bearer"})


def _top_k(request: Request) -> int:
    text = request.query_params.get("top_k", str(TOP_K))
    if not (text.isdecimal() and len(text) <= 3 and 1 <= int(text) <= MOST_TOP_K):
        raise HTTPException(400, f"top_k is not a number from 1 to {MOST_TOP_K}.")
    return int(text)


async def _health(request: Request) -> Response:
    return JSONResponse({"status": "ok"})


async def _openapi(request: Request) -> Response:
    return JSONResponse(openapi(MOST_TOP_K, TOP_K))


async def _error(request: Request, error: HTTPException) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _disconnected(request: Request, error: ClientDisconnect) -> Response:
    return Response(status_code=400)  # nobody receives it


class _SecurityHeaders:
    """Adds :data:`SECURITY_HEADERS` to every response."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SECURITY_HEADERS)
            await send(message)

        await self._app(scope, receive, send_with_headers)
