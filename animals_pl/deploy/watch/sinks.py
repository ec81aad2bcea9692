"""Sinks of alerts: a file or standard output, a server, a command."""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Protocol
from urllib.parse import urlsplit

from animals_pl.deploy.watch.log import log
from animals_pl.errors import UsageError, one_line
from animals_pl.files import is_stream, require_writable

SECRET = "ANIMALS_PL_SECRET"
"""Environment variable with the key of the signature."""

SIGNATURE = "X-Signature-256"
"""HTTP header: ``sha256=`` and the HMAC-SHA256 of the body in hexadecimal digits."""

REFUSED = {400, 413, 422}
"""Status codes of a server that would refuse the same request again."""

POST_TIMEOUT, COMMAND_TIMEOUT = 10.0, 60.0
"""Seconds."""

FAILURES = (OSError, http.client.HTTPException, subprocess.SubprocessError)
"""Errors of a sink, after which an alert is sent again."""


class Sink(Protocol):
    """Where alerts go.

    Attributes:
        name: Name of its queue in the state.
    """

    name: str

    def send(self, body: str) -> None:
        """Deliver the JSON of an alert. Raises one of :data:`FAILURES` if it has to be sent again."""


class Output:
    """Appends lines to a file, or writes them to standard output.

    Args:
        file: The file; None: standard output.

    Raises:
        UsageError: The file cannot be written, or is a pipe or a device.
    """

    name = "output"

    def __init__(self, file: Path | None) -> None:
        if file is not None:
            require_writable(file)
            if is_stream(file):
                raise UsageError(f"output={str(file)!r} is a stream. Remove output to write to standard output.")
            file.parent.mkdir(parents=True, exist_ok=True)
        self._file = file

    def send(self, body: str) -> None:
        """Write a line."""
        if self._file is None:
            sys.stdout.write(f"{body}\n")
            sys.stdout.flush()
            return
        with self._file.open("a+b") as stream:  # opened each time, for programs that rotate logs
            is_torn = stream.tell() and _last_byte(stream) != b"\n"
            stream.write((b"\n" if is_torn else b"") + body.encode() + b"\n")
            stream.flush()
            os.fsync(stream.fileno())


class Post:
    """Sends alerts to a server as JSON.

    Args:
        url: HTTP or HTTPS address.
        secret_file: File with the key of the signature. Default: the value of :data:`SECRET`, or no signature.

    Raises:
        UsageError: The address or the file cannot be used.
    """

    name = "post"

    def __init__(self, url: str, secret_file: str | None) -> None:
        try:
            parts = urlsplit(url)
            is_usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            is_usable = False
        if not is_usable or "@" in parts.netloc or any(character <= " " for character in url):
            raise UsageError("post is not a usable URL. Pass one with http:// or https://, without user and password.")
        self._url = url
        self._secret = _secret(secret_file)
        self._opener = urllib.request.build_opener(_NoRedirects())

    def send(self, body: str) -> None:
        """Send an alert. Any status but 2xx is a failure."""
        content = body.encode()
        headers = {"Content-Type": "application/json", "User-Agent": "animals_pl"}
        if self._secret:
            headers[SIGNATURE] = "sha256=" + hmac.new(self._secret, content, hashlib.sha256).hexdigest()
        request = urllib.request.Request(self._url, content, headers, method="POST")
        try:
            with self._opener.open(request, timeout=POST_TIMEOUT):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            if error.code not in REFUSED:
                raise
            log(f"post: the server refuses an alert ({error}), which is not sent again: {body}")


class Command:
    """Runs a command with the alert on standard input.

    Args:
        args: The command and its arguments; no shell is involved.

    Raises:
        UsageError: There is no such command.
    """

    name = "run"

    def __init__(self, args: Sequence[str]) -> None:
        if not args or not shutil.which(args[0]):
            raise UsageError(f"run={list(args)} is not a command. Pass one and its arguments, as in '[\"notify\"]'.")
        self._args = list(args)

    def send(self, body: str) -> None:
        """Run the command, whose output goes to standard error. Any exit code but 0 is a failure."""
        subprocess.run(
            self._args,
            input=f"{body}\n".encode(),
            stdout=2,
            check=True,
            timeout=COMMAND_TIMEOUT,
            start_new_session=True,  # Ctrl-C does not end it
        )


def reason_of(error: BaseException) -> str:
    """Why a sink failed."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"the command ended with exit code {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"the command took more than {COMMAND_TIMEOUT:g} s"
    if isinstance(error, urllib.error.URLError) and isinstance(error.reason, OSError):
        return one_line(error.reason)
    return one_line(error)


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirect with a GET request, without the alert."""

    def redirect_request(self, *args: object, **kwargs: object) -> None:
        """Make the redirect an error."""
        return


def _secret(file: str | None) -> bytes:
    if file is None:
        return os.environ.get(SECRET, "").encode()
    try:
        secret = Path(file).read_bytes().strip()
    except OSError as error:
        raise UsageError(f"secret_file={file!r} cannot be read ({error.strerror}). Choose another file.") from error
    if not secret:
        raise UsageError(f"secret_file={file!r} is empty. Write a key into it, or remove secret_file.")
    return secret


def _last_byte(stream: IO[bytes]) -> bytes:
    stream.seek(-1, os.SEEK_END)
    return stream.read(1)
