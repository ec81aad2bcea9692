"""Sources to watch: a folder, a video file, a camera or a stream."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from animals_pl.deploy.watch.folder import Folder
from animals_pl.deploy.watch.frame import Frames, Stop
from animals_pl.deploy.watch.options import Times
from animals_pl.deploy.watch.state import State
from animals_pl.deploy.watch.video import SCHEMES, Stream, VideoFile, without_secrets
from animals_pl.errors import UsageError


@dataclass(frozen=True)
class Source:
    """A source of images.

    Attributes:
        kind: What it is.
        address: Absolute path, index of a camera, or URL, which may contain a password.
        name: Its name in alerts and in the log.
    """

    kind: Literal["folder", "video", "camera", "stream"]
    address: str
    name: str

    @classmethod
    def of(cls, text: str) -> Source:
        """The source that a user names.

        Raises:
            UsageError: It does not exist, or has an unknown scheme.
        """
        if "://" in text:
            try:
                parts = urlsplit(text)
                is_stream = parts.scheme in SCHEMES and bool(parts.hostname)
            except ValueError:
                is_stream = False
            if not is_stream:
                raise UsageError(f"source is not the URL of a stream. Pass a URL with one of {', '.join(SCHEMES)}.")
            return cls("stream", text, without_secrets(text))
        path = Path(text)
        if path.is_dir():
            return cls("folder", str(path.resolve()), text)
        if path.is_file():
            return cls("video", str(path.resolve()), text)
        if text.isascii() and text.isdigit():
            return cls("camera", text, f"camera {int(text)}")
        raise UsageError(
            f"source={text!r} does not exist. Pass a folder, a video file, the index of a camera or a URL."
        )

    def frames(self, state: State, size: int, times: Times, counts: Counter[str], stop: Stop) -> Frames:
        """Its images, and None while there is none.

        Args:
            state: Files that are done.
            size: Side of the square that images will be resized to.
            times: The durations among the options.
            counts: Counts of events, which the source updates.
            stop: Ends the iteration.
        """
        if self.kind == "folder":
            return iter(Folder(Path(self.address), state, size, times.every, times.settle, counts, stop))
        if self.kind == "video":
            return iter(VideoFile(Path(self.address), times.every, stop))
        address = int(self.address) if self.kind == "camera" else self.address
        return iter(Stream(address, times.every, counts, stop))

    def contains(self, folder: Path) -> bool:
        """Whether a folder is inside the watched one."""
        return self.kind == "folder" and folder.resolve().is_relative_to(self.address)
