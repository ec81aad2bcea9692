"""Metadata of an exported file: everything that its predictions depend on, and golden images to check them with.

Needs numpy only. Values are text; numbers, lists and mappings are JSON.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Literal

import numpy as np

from animals_pl.data.resize import Interpolation, Resize, ResizeRule
from animals_pl.errors import UsageError, listed, require_range, require_types

InputKind = Literal["batch", "image"]

WeightsKind = Literal["float32", "int8"]

MOST_CHARACTERS = 2**24
"""Maximum length of a value in a file that is read."""

MOST_GOLDEN_IMAGES = 64
"""Maximum number of golden images in a file that is read."""

MOST_TOLERANCE = 0.1
"""Maximum ``golden_tolerance`` in a file that is read."""

TEXT = {"animals_pl_version", "input", "weights", "resize", "interpolation", "sha256"}
"""Keys whose values are plain text."""

_METADATA_PROPS = 14
"""Field number of the metadata in ONNX's ModelProto."""

_SHA256_KEY = b"\n\x06sha256"
"""How the metadata entry ``sha256`` starts in protobuf: the tag of the key, its length and the key."""

_VARINT, _BYTES = 0, 2
"""Protobuf wire types of the fields of a ModelProto."""


@dataclass(frozen=True)
class GoldenImage:
    """An image and the probabilities that the file must reproduce.

    Attributes:
        jpeg: Content of a JPEG file.
        probabilities: Calibrated probabilities (C,).
    """

    jpeg: bytes
    probabilities: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """The image as plain values."""
        probabilities = [round(float(value), 7) for value in self.probabilities]
        return {"jpeg": base64.b64encode(self.jpeg).decode("ascii"), "probabilities": probabilities}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> GoldenImage:
        """The inverse of :meth:`as_json`. Raises ValueError, TypeError or KeyError for invalid values."""
        probabilities = np.array(values["probabilities"], dtype=float)
        return cls(base64.b64decode(values["jpeg"], validate=True), probabilities)


@dataclass(frozen=True)
class Metadata:
    """The keys of an exported file's metadata that :class:`~animals_pl.deploy.runtime.Identifier` reads.

    Attributes:
        animals_pl_version: Version that wrote the file.
        class_names: C names in label order.
        english_names: Their English names.
        input: ``batch``: resized images (B, 3, S, S); ``image``: one image (H, W, 3) of any size.
        input_size: Side S of the images that the net sees, in pixels.
        resize, interpolation, crop_pct: How an image is resized, as in ``data.*``.
        golden_images: Images that the file must reproduce, see :class:`GoldenImage`.
        golden_tolerance: Maximum difference of a probability from that of a golden image.
        sha256: :func:`digest` of the file.
        metrics: Metrics of the run's test or validation images; None if it was not evaluated.
        weights: Type of the weights in the file.
        unknown_threshold: Images with a higher ``unknown_score`` are of no known class; None: there is no threshold.
    """

    animals_pl_version: str
    class_names: list[str]
    english_names: list[str]
    input: InputKind
    input_size: int
    resize: ResizeRule
    interpolation: Interpolation
    crop_pct: float
    golden_images: list[dict[str, Any]]
    golden_tolerance: float
    sha256: str
    metrics: dict[str, Any] | None = None
    weights: WeightsKind = "float32"
    unknown_threshold: float | None = None

    @property
    def rule(self) -> Resize:
        """How an image is resized."""
        return Resize(self.resize, self.interpolation, float(self.crop_pct))


def as_text(values: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as an ONNX file stores it."""
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def parse_metadata(texts: Mapping[str, str]) -> Metadata:
    """Read the metadata of an exported file.

    Raises:
        UsageError: A key is missing, or a value has the wrong type, is too long or is out of range.
    """
    if "animals_pl_version" not in texts:
        raise UsageError("it has no metadata of animals_pl")
    read = {field.name: field for field in fields(Metadata)}
    if missing := [name for name, field in read.items() if field.default is MISSING and name not in texts]:
        raise UsageError(f"its metadata lacks {listed(missing)}")
    values = {key: _value(key, text) for key, text in texts.items() if key in read}
    require_types(Metadata, values)
    metadata = Metadata(**values)
    require_range("input_size", metadata.input_size, 1, 2**14)
    require_range("golden_tolerance", metadata.golden_tolerance, 0, MOST_TOLERANCE)
    require_range("number of classes", len(metadata.class_names), 1, 2**20)
    require_range("number of golden images", len(metadata.golden_images), 1, MOST_GOLDEN_IMAGES)
    if len(metadata.english_names) != len(metadata.class_names):
        raise UsageError("class_names and english_names differ in length")
    return metadata


def _value(key: str, text: str) -> Any:
    if len(text) > MOST_CHARACTERS:
        raise UsageError(f"{key} in its metadata has {len(text):,} characters (allowed: {MOST_CHARACTERS:,})")
    if key in TEXT:
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise UsageError(f"{key} in its metadata is not JSON") from None


def read_texts(content: bytes) -> dict[str, str]:
    """Metadata of an ONNX file, without loading its graph.

    Raises:
        ValueError: The content is not an ONNX file, is truncated, or has a value that is too long.
    """
    entries = [value for number, _, value in _protobuf_fields(memoryview(content)) if number == _METADATA_PROPS]
    longest = max(map(len, entries), default=0)
    if longest > MOST_CHARACTERS:
        raise ValueError(f"a value in its metadata has {longest:,} bytes (allowed: {MOST_CHARACTERS:,})")
    pairs = [{number: str(value, "utf-8") for number, _, value in _protobuf_fields(entry)} for entry in entries]
    return {pair.get(1, ""): pair.get(2, "") for pair in pairs}


def digest(content: bytes) -> str:
    """SHA-256 of everything in an ONNX file except the metadata entry ``sha256``.

    It detects accidental changes only: anyone who changes a file on purpose can also replace the digest.

    Raises:
        ValueError: The content is not an ONNX file, or is truncated.
    """
    hasher = hashlib.sha256()
    for number, field, value in _protobuf_fields(memoryview(content)):
        if number != _METADATA_PROPS or bytes(value[: len(_SHA256_KEY)]) != _SHA256_KEY:
            hasher.update(field)
    return hasher.hexdigest()


def _protobuf_fields(message: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield the number of each field of a protobuf message, its bytes with the tag, and those of its value."""
    position = 0
    while position < len(message):
        start = position
        tag, position = _varint(message, position)
        if tag & 7 not in (_VARINT, _BYTES):
            raise ValueError(f"unexpected wire type {tag & 7}")
        number, after = _varint(message, position)
        position, end = (position, after) if tag & 7 == _VARINT else (after, after + number)
        if end > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[start:end], message[position:end]
        position = end


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number of 7 bits per byte, the lowest first, and the position after it."""
    value = 0
    for index, byte in enumerate(message[position : position + 10]):
        value |= (byte & 127) << (7 * index)
        if byte < 128:
            return value, position + index + 1
    raise ValueError("truncated")
