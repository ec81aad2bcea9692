"""MegaDetector's batch output: check, read and write it. Standard library only.

Format: ``megadetector-output-format.md`` in https://github.com/agentmorris/MegaDetector, versions 1.x.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from animals_pl.deploy.json_stream import read_members, write_members
from animals_pl.deploy.metadata import Metadata
from animals_pl.deploy.prediction_rows import REVIEW
from animals_pl.deploy.prediction_table import Row
from animals_pl.errors import UsageError
from animals_pl.evaluation.top_k import UNKNOWN
from animals_pl.files import atomic_write

IMAGES = "images"

ANIMAL = "animal"
"""Name of the detection category whose boxes are classified."""

FORMAT_VERSION = "1.4"
"""Version of the files with whole images; they use no member of a later version."""

_LARGEST = 1e9
"""Maximum magnitude of a coordinate or confidence in a file that is read."""


@dataclass(frozen=True)
class Contents:
    """Contents of a file other than its images.

    Attributes:
        animal_ids: Identifiers of the detection categories with the name :data:`ANIMAL`.
        images: Number of images.
    """

    animal_ids: frozenset[str]
    images: int


def check(file: Path) -> Contents:
    """Check a whole file before the work starts.

    Raises:
        UsageError: The file cannot be read, is not JSON, or lacks something that is needed to classify its boxes.
    """
    if not file.is_file():
        raise UsageError(f"detections={str(file)!r} is not a file. Pass the JSON file that MegaDetector wrote.")
    members: dict[str, Any] = {}
    images = 0
    try:
        for key, value in read_members(file, IMAGES):
            if key != IMAGES or not isinstance(value, Iterator):
                members[key] = value
                continue
            members[key] = []
            for image in value:
                if fault := _fault_of(image):
                    name = f" ({image['file']!r})" if isinstance(image, dict) and "file" in image else ""
                    raise ValueError(f"images[{images}]{name} {fault}")
                images += 1
        return Contents(_animal_ids(members), images)
    except ValueError as error:
        raise UsageError(f"detections={str(file)!r} cannot be used: {error}. Pass MegaDetector's output.") from error


def _animal_ids(members: dict[str, Any]) -> frozenset[str]:
    info, categories = members.get("info"), members.get("detection_categories")
    version = info.get("format_version") if isinstance(info, dict) else None
    if not isinstance(version, str) or not re.fullmatch(r"1(\.\d+)*", version):
        raise ValueError(f"info.format_version is {version!r}, not '1.x'")
    if not isinstance(categories, dict):
        raise ValueError("it lacks detection_categories, an object with the names of the categories")
    if not isinstance(members.get(IMAGES), list):
        raise ValueError("it lacks images, a list")
    ids = frozenset(key for key, name in categories.items() if name == ANIMAL)
    if not ids:
        raise ValueError(f"no category in detection_categories is named {ANIMAL!r}")
    return ids


def _fault_of(image: Any) -> str:
    """What an element of ``images`` lacks; empty if nothing."""
    if not isinstance(image, dict):
        return "is not an object"
    if not isinstance(image.get("file"), str) or not image["file"]:
        return "lacks file, a path"
    detections = image.get("detections")
    if detections is None:
        return ""
    if not isinstance(detections, list):
        return "has detections that are not a list"
    faults = (f"detections[{number}] lacks {fault}" for number, one in enumerate(detections) if (fault := _lacks(one)))
    return next(faults, "")


def _lacks(detection: Any) -> str:
    if not isinstance(detection, dict) or not isinstance(detection.get("category"), str):
        return "category, a string"
    if not _is_number(detection.get("conf")):
        return "conf, a number"
    box = detection.get("bbox")
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)):
        return "bbox, four numbers"
    return ""


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and -_LARGEST <= value <= _LARGEST


class Classifications:
    """How predictions are written in this format.

    Args:
        metadata: The model's metadata.
        model: File of the model.
    """

    def __init__(self, metadata: Metadata, model: Path) -> None:
        self.categories = {str(label): name for label, name in enumerate(metadata.english_names)}
        self.info = {
            "classifier": f"{model.name} ({metadata.sha256[:12]})",
            "classification_completion_time": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._ids = {name: str(label) for label, name in enumerate(metadata.class_names)}

    def of(self, row: Row) -> list[list[Any]]:
        """``[[category, confidence], …]``, the most probable first; empty for unknown images and those for review."""
        if row["class"] in ("", UNKNOWN, REVIEW):
            return []
        ranks = range(1, 1 + sum(key.startswith("class_") for key in row))
        pairs = [(row[f"class_{rank}"], row[f"probability_{rank}"]) for rank in ranks]
        return [[self._ids[name], probability] for name, probability in pairs if name]


def write_classified(
    source: Path, output: Path, images: Iterable[dict[str, Any]], classifications: Classifications
) -> None:
    """Write a file with the members of another one in their order, but with other images.

    Members that describe classifications are replaced.
    """
    with atomic_write(output) as partial, partial.open("w", encoding="ascii") as stream:
        write_members(stream, _with_classifications(source, images, classifications), IMAGES)


def _with_classifications(
    source: Path, images: Iterable[dict[str, Any]], classifications: Classifications
) -> Iterator[tuple[str, Any]]:
    for key, value in read_members(source, IMAGES):
        if key == IMAGES:
            yield "classification_categories", classifications.categories
            yield key, images
        elif key == "info":
            others = {name: text for name, text in value.items() if name != "classifier_metadata"}
            yield key, others | classifications.info
        elif key not in ("classification_categories", "classification_category_descriptions"):
            yield key, value


def write_whole_images(output: Path, rows: Iterable[Row], base: Path | None, classifications: Classifications) -> None:
    """Write rows of images, each with one box around the whole image, as MegaDetector's tools do for classifiers.

    Args:
        output: The file to write.
        rows: As :class:`~animals_pl.deploy.prediction_rows.RowRules` makes them. Those without a class are failures.
        base: Paths are written relative to this folder. None: as they are.
        classifications: How predictions are written.
    """
    info = {"format_version": FORMAT_VERSION, "detector": "none (whole images)"} | classifications.info
    members: list[tuple[str, Any]] = [
        ("info", info),
        ("detection_categories", {"1": ANIMAL}),
        ("classification_categories", classifications.categories),
        (IMAGES, (_whole_image(row, base, classifications) for row in rows)),
    ]
    with atomic_write(output) as partial, partial.open("w", encoding="ascii") as stream:
        write_members(stream, members, IMAGES)


def _whole_image(row: Row, base: Path | None, classifications: Classifications) -> dict[str, Any]:
    file = row["path"] if base is None else os.path.relpath(row["path"], base)
    name = file.replace(os.sep, "/")
    if not row["class"]:
        return {"file": name, "failure": row["problem"], "detections": None}
    box: dict[str, Any] = {"category": "1", "conf": 1.0, "bbox": [0.0, 0.0, 1.0, 1.0]}
    if found := classifications.of(row):
        box["classifications"] = found
    return {"file": name, "detections": [box]}


def path_below(root: Path, file: str) -> Path | None:
    """Path of an image below a folder; None if it leads out of the folder.

    Args:
        root: The folder.
        file: Path in a file of this format: relative to the folder, or absolute; with slashes or backslashes.
    """
    if "\\" in file and not os.path.lexists(root / file):
        file = file.replace("\\", "/")
    absolute_root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would follow links
    path = Path(os.path.normpath(absolute_root / file))
    return path if path.is_relative_to(absolute_root) and path != absolute_root else None


def folder_of(paths: Sequence[str]) -> Path | None:
    """The folder that paths in a file are relative to: the one that is given, if it is one folder."""
    return Path(paths[0]) if len(paths) == 1 and Path(paths[0]).is_dir() else None
