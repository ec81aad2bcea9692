"""Read the images of a request into memory. Needs starlette and python-multipart."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from animals_pl.deploy.server.limits import MOST_IMAGES

MOST_CHARACTERS_OF_A_NAME = 255
"""Longer file names are cut."""


@dataclass(frozen=True)
class Upload:
    """An image file of a request.

    Attributes:
        name: File name as the client sent it; empty if it sent none. It may contain any character.
        content: Content of the file.
    """

    name: str
    content: bytes


class _MemoryParser(MultiPartParser):
    """Parses form data without temporary files, and notices if they are truncated."""

    spool_max_size = 0  # SpooledTemporaryFile: no limit, so that nothing is written to disk
    complete = False

    def on_end(self) -> None:
        self.complete = True


async def read_uploads(request: Request, most_bytes: int) -> list[Upload]:
    """The images of a request, whose body is an image, or form data with one or several files.

    Raises:
        HTTPException: 400: there is no image, or the form data are damaged. 413: the body has more than ``most_bytes``.
            415: the content type is not supported.
    """
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    is_form = media_type == "multipart/form-data"
    if not is_form and media_type not in ("", "application/octet-stream") and not media_type.startswith("image/"):
        text = f"Content-Type {media_type!r} is not supported. Send image/*, application/octet-stream or "
        raise HTTPException(415, text + "multipart/form-data.")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > most_bytes:
        raise _too_large(most_bytes)
    body = _limited(request, most_bytes)
    uploads = await _form_files(request, body) if is_form else [Upload("", b"".join([chunk async for chunk in body]))]
    if not any(upload.content for upload in uploads):
        raise HTTPException(400, "There is no image in the request. Send a file as the body or as form data.")
    return uploads


async def _limited(request: Request, most_bytes: int) -> AsyncGenerator[bytes, None]:
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > most_bytes:
            raise _too_large(most_bytes)
        yield chunk


async def _form_files(request: Request, body: AsyncGenerator[bytes, None]) -> list[Upload]:
    parser = _MemoryParser(request.headers, body, max_files=MOST_IMAGES)
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise HTTPException(400, f"The form data cannot be read: {error.message}") from error
    if not parser.complete:
        raise HTTPException(400, "The form data are truncated.")
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    return [Upload((file.filename or "")[:MOST_CHARACTERS_OF_A_NAME], await file.read()) for file in files]


def _too_large(most_bytes: int) -> HTTPException:
    return HTTPException(413, f"The request is too large. At most {most_bytes / 1e6:g} MB are allowed.")
