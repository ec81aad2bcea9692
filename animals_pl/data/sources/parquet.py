"""Write the images of Parquet files into folders, one per class."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from animals_pl.data.decode import FORMATS
from animals_pl.data.sources.archives import ALWAYS_ALLOWED, MAX_ENTRIES, MAX_EXPANSION, Unpacked, exists
from animals_pl.errors import UsageError, listed, one_line
from animals_pl.files import atomic_write, track

LABELS = ("label", "labels", "class")
"""Names of the label column, for schemas that do not mark it."""

ROWS = 64
"""Rows that are read at a time."""

_SUFFIXES = {"JPEG": ".jpg", "TIFF": ".tif"}


class _Columns(NamedTuple):
    image: str
    label: str
    names: list[str]
    """Class names in label order; empty if the labels are names."""


def write_images(files: Mapping[Path, str], root: Path, source: str) -> Unpacked:
    """Write the images of Parquet files to ``root/[SPLIT/]CLASS/…``.

    Images that exist with the same size are kept, so an interrupted run can be repeated. No file is overwritten. Rows
    without a label, as in some test splits, are left out.

    Args:
        files: Parquet file → its split (may be empty). Each has a column of images (``bytes``) and one of labels. Class
            names come from the schema's metadata, as the ``datasets`` library writes them.
        root: The folder to write to.
        source: Value of ``source``, for messages.

    Raises:
        UsageError: pyarrow is missing; a file cannot be read, has other columns or too many rows; a class name cannot
            be the name of a folder; or a different file exists at an image's path.
    """
    try:
        from pyarrow import ArrowException
    except ImportError as error:
        raise UsageError(f"source={source!r} needs pyarrow. Run pip install 'animals_pl[train,hub]'.") from error

    def refuse(reason: str) -> UsageError:
        return UsageError(f"source={source!r}: {reason}. Write the images into one folder per class yourself.")

    counts = {"images": 0, "written": 0, "left out": 0}
    limit = max(ALWAYS_ALLOWED, MAX_EXPANSION * sum(file.stat().st_size for file in files))
    try:
        for target, content in track(_images(files, root, refuse), "writing images"):
            limit -= len(content or b"")
            if limit < 0:
                raise refuse("its Parquet files contain too many bytes for their size")
            if target is None or content is None:
                counts["left out"] += 1
                continue
            counts["images"] += 1
            if not exists(target, len(content), "the image in the dataset"):
                counts["written"] += 1
                with atomic_write(target, durable=False) as partial:
                    partial.write_bytes(content)
    except ArrowException as error:
        raise refuse(f"a Parquet file cannot be read ({one_line(error)})") from error
    if not counts["images"]:
        raise refuse("no row has an image and a label")
    return Unpacked(counts["images"], counts["written"], counts["left out"])


def _images(
    files: Mapping[Path, str], root: Path, refuse: Callable[[str], UsageError]
) -> Iterator[tuple[Path | None, bytes | None]]:
    """Yield the path and the content of each row's image; None without a label or an image."""
    from pyarrow.parquet import ParquetFile

    rows = 0
    for number, (file, split) in enumerate(files.items()):
        with ParquetFile(file) as opened:
            rows += opened.metadata.num_rows
            if rows > MAX_ENTRIES:
                raise refuse(f"it has more than {MAX_ENTRIES:,} rows")
            columns = _columns(opened.schema_arrow, refuse)
            folders = {name: root / split / _folder_name(name, refuse) for name in columns.names}
            index = -1
            for batch in opened.iter_batches(ROWS, columns=[columns.image, columns.label]):
                for row in batch.to_pylist():
                    index += 1
                    content, name = _content(row[columns.image]), _class_name(row[columns.label], columns, refuse)
                    if content is None or name is None:
                        yield None, None
                        continue
                    if name not in folders:
                        folders[name] = root / split / _folder_name(name, refuse)
                    yield folders[name] / f"{number:05}_{index:07}{_suffix(content)}", content


def _columns(schema: Any, refuse: Callable[[str], UsageError]) -> _Columns:
    """Find the columns by the schema's metadata, else by their types and names."""
    import pyarrow as pa

    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        kinds = {name: feature.get("_type") for name, feature in features.items() if isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError):
        features, kinds = {}, {}
    images = [name for name in schema.names if kinds.get(name) == "Image"]
    images = images or [field.name for field in schema if _has_bytes(pa, field.type)]
    labels = [name for name in schema.names if kinds.get(name) == "ClassLabel"]
    labels = labels if len(labels) == 1 else [name for name in schema.names if name in LABELS]
    if len(images) != 1 or len(labels) != 1:
        raise refuse(f"it needs exactly one image column and one label column (it has {listed(schema.names)})")
    names = features.get(labels[0], {}).get("names", []) if kinds.get(labels[0]) == "ClassLabel" else []
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise refuse(f"the class names of its column {labels[0]} are damaged")
    return _Columns(images[0], labels[0], names)


def _has_bytes(pa: Any, kind: Any) -> bool:
    return pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0


def _content(value: Any) -> bytes | None:
    content = value.get("bytes") if isinstance(value, dict) else value
    return content if isinstance(content, bytes) and content else None


def _class_name(value: Any, columns: _Columns, refuse: Callable[[str], UsageError]) -> str | None:
    """Class of a label; None if the row is not labelled."""
    if value is None or value == -1:
        return None
    if not columns.names:
        return str(value)
    if not isinstance(value, int) or not 0 <= value < len(columns.names):
        raise refuse(f"its column {columns.label} has the value {value!r}, but there are {len(columns.names)} classes")
    return columns.names[value]


def _folder_name(name: str, refuse: Callable[[str], UsageError]) -> str:
    """A class name as the name of a folder: separators become ``_``."""
    folder = re.sub(r"[/\\\0]", "_", name)
    if not folder.strip() or folder.startswith((".", "__")) or len(folder.encode()) > 255:
        raise refuse(f"its class {name!r} cannot be the name of a folder")
    return folder


def _suffix(content: bytes) -> str:
    """Suffix of an image file by its content; ``.jpg`` if it is not an image, so that it is reported as broken."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            kind = picture.format or "JPEG"
    except Exception:  # decoders may raise any exception
        kind = "JPEG"
    return _SUFFIXES.get(kind, f".{kind.lower()}")
