"""Read an image file, its size, modification time and hash, and its EXIF date and camera. Needs Pillow only."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

from animals_pl.data.decode import read_image

_DATE = re.compile(r"(\d{4}):(\d\d):(\d\d)[ T](\d\d:\d\d:\d\d)")
_OFFSET = re.compile(r"[+-]\d\d:\d\d")


def read_file(path: str) -> tuple[bytes, dict[str, Any], str]:
    """Read a file.

    Returns:
        Its content; its size in ``bytes``, the time when it was ``modified`` in nanoseconds, and its ``sha256``; and
        why it cannot be read. If it cannot, the content and the hash are empty and the numbers are None.
    """
    try:
        modified = Path(path).stat().st_mtime_ns
        content = read_image(Path(path))
    except (OSError, ValueError) as error:  # ValueError: a null character
        reason = f"cannot be read: {getattr(error, 'strerror', None) or error}"
        return b"", {"bytes": None, "modified": None, "sha256": ""}, reason
    return content, {"bytes": len(content), "modified": modified, "sha256": hashlib.sha256(content).hexdigest()}, ""


def is_unchanged(path: str, size: object, modified: object) -> bool:
    """Whether a file has this size in bytes and this modification time in nanoseconds; they may be given as text."""
    try:
        status = Path(path).stat()
    except (OSError, ValueError):
        return False
    return (str(size), str(modified)) == (str(status.st_size), str(status.st_mtime_ns))


def date_and_camera(picture: Image.Image) -> dict[str, str]:
    """When and with which camera an opened image was taken, as ``date`` and ``camera``; empty if not in EXIF.

    The date is written as ``2024-05-31T06:12:59``, with the offset from UTC if it is known.
    """
    try:
        exif = picture.getexif()
        details = exif.get_ifd(ExifTags.IFD.Exif) if exif else {}  # slow, so only called if there are EXIF data
    except Exception:  # decoders may raise any exception
        return {"date": "", "camera": ""}
    return {"date": _date(exif, details), "camera": _camera(exif)}


def _date(exif: Image.Exif, details: dict[int, object]) -> str:
    texts = [_text(details.get(ExifTags.Base.DateTimeOriginal)), _text(exif.get(ExifTags.Base.DateTime))]
    for text, offset_tag in zip(texts, (ExifTags.Base.OffsetTimeOriginal, ExifTags.Base.OffsetTime), strict=True):
        if found := _DATE.fullmatch(text):
            offset = _text(details.get(offset_tag))
            year, month, day, time = found.groups()
            return f"{year}-{month}-{day}T{time}" + (offset if _OFFSET.fullmatch(offset) else "")
    return ""


def _camera(exif: Image.Exif) -> str:
    """Make and model; many models start with the make."""
    make, model = _text(exif.get(ExifTags.Base.Make)), _text(exif.get(ExifTags.Base.Model))
    return model if model.lower().startswith(make.lower()) else f"{make} {model}".strip()


def _text(value: object) -> str:
    return " ".join(value.partition("\0")[0].split()) if isinstance(value, str) else ""
