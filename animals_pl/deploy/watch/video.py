"""Frames of videos, cameras and streams. Needs OpenCV, which is imported when it is used."""

from __future__ import annotations

import contextlib
import os
import queue
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from animals_pl.deploy.watch.background import Background, Backoff
from animals_pl.deploy.watch.frame import Frame, Frames, Stop
from animals_pl.deploy.watch.log import log
from animals_pl.errors import UsageError

SCHEMES = {"rtsp", "rtsps", "http", "https", "rtmp", "srt", "udp"}
"""URL schemes of streams."""

TIMEOUT = 10.0
"""Seconds after which a stream that cannot be opened, or sends nothing, counts as interrupted."""

_TICK = 0.2
"""Seconds to wait for a frame before the caller may do something else."""


def import_opencv() -> Any:
    """The module ``cv2``, whose own messages are silenced: they contain URLs with passwords.

    Raises:
        UsageError: It is not installed.
    """
    os.environ.setdefault("OPENCV_LOG_LEVEL", "SILENT")
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    try:
        import cv2
    except ImportError as error:
        raise UsageError("source: videos and streams need OpenCV. Run: pip install 'animals_pl[video]'") from error
    return cv2


def without_secrets(url: str) -> str:
    """A URL without user name, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class VideoFile:
    """Yields frames of a video file as fast as the caller asks for them.

    Args:
        file: The video.
        every: Seconds of the video between two frames.
        stop: Ends the iteration.

    Raises:
        UsageError: OpenCV is not installed, or cannot read the file.
    """

    def __init__(self, file: Path, every: float, stop: Stop) -> None:
        self._cv2 = import_opencv()
        self._file = file
        self._every = every
        self._stop = stop

    def __iter__(self) -> Frames:
        """Yield frames. Their time is the position in the video."""
        status = self._file.stat()
        capture = self._cv2.VideoCapture(str(self._file))
        number, due = 0, 0.0
        while not self._stop and capture.grab():
            position = self._position(capture, number)
            number += 1
            if position < due:
                continue
            due = position + self._every
            is_decoded, pixels = capture.retrieve()
            if is_decoded:
                key = f"{status.st_size} {status.st_mtime_ns} {position:.3f}"
                facts = {"path": str(self._file), "position": round(position, 3)}
                yield Frame(key, position, _rgb(pixels), facts)
        capture.release()
        if not number:
            raise UsageError(f"source={str(self._file)!r} has no frames that OpenCV can read. Choose another file.")

    def _position(self, capture: Any, number: int) -> float:
        """Seconds from the start; from the frame rate if the file has no timestamps."""
        milliseconds = capture.get(self._cv2.CAP_PROP_POS_MSEC)
        if milliseconds > 0 or not number:
            return max(0.0, milliseconds / 1000)
        return number / (capture.get(self._cv2.CAP_PROP_FPS) or 25.0)


class Stream:
    """Yields the newest frame of a camera or a stream, and reconnects when it is interrupted.

    A thread reads all frames, since a stream that is not read falls behind. It keeps only the newest one: a frame that
    was not taken is replaced by the next and counted as dropped.

    Args:
        address: URL, or index of a camera.
        every: Seconds between two frames.
        counts: Receives ``dropped`` frames and ``reconnections``.
        stop: Ends the iteration.

    Raises:
        UsageError: OpenCV is not installed.
    """

    def __init__(self, address: str | int, every: float, counts: Counter[str], stop: Stop) -> None:
        self._cv2 = import_opencv()
        self._address = address
        self._name = without_secrets(address) if isinstance(address, str) else f"camera {address}"
        self._every = every
        self._counts = counts
        self._stop = stop
        self._newest: queue.Queue[Frame] = queue.Queue(maxsize=1)
        self._reader = Background(self._read)

    def __iter__(self) -> Frames:
        """Yield frames, and None while there is none. They have the time of this machine's clock."""
        self._reader.start()
        try:
            while not self._stop:
                self._reader.check()
                try:
                    yield self._newest.get(timeout=_TICK)
                except queue.Empty:
                    yield None
        finally:
            self._reader.close(TIMEOUT + 1)  # a thread inside OpenCV would crash when Python ends

    def _read(self) -> None:
        closing = self._reader.closing
        backoff = Backoff(closing)
        while not closing.is_set():
            capture = self._open()
            if self._read_until_cut(capture):
                backoff.reset()
            capture.release()
            if not closing.is_set():
                self._counts["reconnections"] += 1
                log(f"{self._name}: no frames; reconnecting in {backoff.seconds:g} s")
                backoff.wait()

    def _open(self) -> Any:
        if isinstance(self._address, int):
            return self._cv2.VideoCapture(self._address)
        milliseconds = int(1000 * TIMEOUT)
        timeouts = [self._cv2.CAP_PROP_OPEN_TIMEOUT_MSEC, milliseconds]
        timeouts += [self._cv2.CAP_PROP_READ_TIMEOUT_MSEC, milliseconds]
        return self._cv2.VideoCapture(self._address, self._cv2.CAP_FFMPEG, timeouts)

    def _read_until_cut(self, capture: Any) -> bool:
        """Read frames until the stream is interrupted. Returns whether there were any."""
        due = -self._every
        while not self._reader.closing.is_set() and capture.grab():
            now = time.monotonic()
            if now < due:
                continue
            is_decoded, pixels = capture.retrieve()
            if is_decoded:
                due = now + self._every
                self._keep(pixels)
        return due > 0

    def _keep(self, pixels: np.ndarray) -> None:
        taken = time.time()
        frame = Frame(datetime.fromtimestamp(taken, UTC).isoformat(), taken, _rgb(pixels))
        with contextlib.suppress(queue.Empty):
            self._newest.get_nowait()
            self._counts["dropped"] += 1
        self._newest.put(frame)


def _rgb(pixels: np.ndarray) -> np.ndarray:
    """OpenCV's BGR, or grey, as RGB (H, W, 3)."""
    if pixels.ndim == 2:
        pixels = np.stack([pixels] * 3, axis=-1)
    return np.ascontiguousarray(pixels[:, :, ::-1])
