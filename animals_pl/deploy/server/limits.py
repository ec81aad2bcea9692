"""Limits of the server. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

MOST_IMAGES = 16
"""Images in one request."""

MOST_CONNECTIONS = 256
"""Open connections; further ones are answered with 503."""

MOST_SCANS = 100
"""Scans of a JPEG. Encoders write up to about 20. A scan of 75 bytes costs 36 ms in a JPEG of 50 megapixels."""

LARGE = 4_000_000
"""Pixels above which images other than JPEG are decoded one at a time. They take up to 28 bytes per pixel, and files of
a few kB can have this size."""


@dataclass(frozen=True)
class Limits:
    """Limits of a request.

    Attributes:
        max_mb: Maximum size of a request, in 10⁶ bytes.
        max_megapixels: Maximum size of an image, in 10⁶ pixels.
        max_requests: Requests that are received or computed at the same time.
        timeout: Seconds for receiving a request.
    """

    max_mb: float = 20.0
    max_megapixels: float = 50.0
    max_requests: int = 16
    timeout: float = 30.0

    @property
    def most_bytes(self) -> int:
        """Bytes of a request."""
        return int(self.max_mb * 1e6)

    @property
    def most_pixels(self) -> int:
        """Pixels of an image."""
        return int(self.max_megapixels * 1e6)
