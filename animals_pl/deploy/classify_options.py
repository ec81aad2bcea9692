"""Options of the command ``classify`` and their validation. Needs numpy only."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import tzinfo
from functools import cached_property
from pathlib import Path
from typing import Literal

from animals_pl.deploy.deployments import read_deployments
from animals_pl.deploy.engines import EngineName
from animals_pl.deploy.image_paths import require_existing
from animals_pl.deploy.prediction_table import JSON_LINES, require_suffix
from animals_pl.deploy.timestamps import parse_timezone
from animals_pl.durations import duration
from animals_pl.errors import UsageError, require_range
from animals_pl.files import is_stream, require_empty, require_writable

Format = Literal["megadetector", "camtrap-dp"]
"""Formats that are written when all images are classified. None: a table, which is written row by row."""

ROWS = ".rows.jsonl"
"""Suffix of the file that holds the rows until an output is written at the end."""

MIN_CONFIDENCE = 0.2
"""Default of ``min_confidence``: the ``typical_detection_threshold`` of MegaDetector 5."""


@dataclass(frozen=True)
class Options:
    """Options of :func:`animals_pl.deploy.classify.classify`."""

    model: Path
    paths: list[str]
    output: Path
    resume: bool
    top_k: int
    threshold: float
    unknown: bool
    copy: Path | None
    format: Format | None
    detections: Path | None
    min_confidence: float | None
    timezone: str | None
    deployments: Path | None
    sequence: str | None
    engine: EngineName

    @cached_property
    def zone(self) -> tzinfo | None:
        """Time zone of dates without an offset."""
        return None if self.timezone is None else parse_timezone(self.timezone)

    @cached_property
    def gap(self) -> float | None:
        """Longest time between images of a sequence, in seconds. None: there are no sequences."""
        return None if self.sequence is None else duration("sequence", self.sequence, most_days=1)

    def check(self) -> None:
        """Raise a :class:`UsageError` if a value is out of range, options conflict, or the output cannot be used."""
        require_range("top_k", self.top_k, 1, 2**20)
        require_range("threshold", self.threshold, 0, 1)
        if self.gap is not None and self.detections is None and self.format == "megadetector":
            raise UsageError("sequence cannot be stored in MegaDetector's format. Remove sequence, or write a table.")
        if self.detections is None:
            self._check_images()
        else:
            self._check_detections()
        if self.format == "camtrap-dp":
            self._check_package()
        else:
            self._check_file()

    def _check_images(self) -> None:
        require_existing(self.paths)
        if self.min_confidence is not None:
            raise UsageError("min_confidence only applies to detections. Pass detections, or remove it.")

    def _check_detections(self) -> None:
        if len(self.paths) > 1 or not all(Path(path).is_dir() for path in self.paths):
            raise UsageError("paths: with detections, pass at most one folder, the one that contains the images.")
        require_range("min_confidence", MIN_CONFIDENCE if self.min_confidence is None else self.min_confidence, 0, 1)
        given = {"resume": self.resume, "copy": self.copy, "sequence": self.sequence}
        given["format"] = self.format not in (None, "megadetector")
        if wrong := [name for name, value in given.items() if value]:
            raise UsageError(f"{wrong[0]} does not apply to detections. Remove {wrong[0]}.")

    def _check_package(self) -> None:
        require_empty(self.output)
        if self.zone is None:
            raise UsageError("timezone is missing: EXIF has none. Pass a name such as Europe/Rome, or +02:00.")
        if self.deployments is not None:
            read_deployments(self.deployments, self.zone)

    def _check_file(self) -> None:
        require_writable(self.output)
        for name, value in {"timezone": self.timezone, "deployments": self.deployments}.items():
            if value is not None:
                raise UsageError(f"{name} only applies to format=camtrap-dp. Remove {name}.")
        stream, format = is_stream(self.output), self.format or ("megadetector" if self.detections else None)
        if format is None:
            require_suffix(self.output)
        elif self.output.suffix.lower() != ".json" and not stream:
            raise UsageError(f"output={str(self.output)!r} does not end in .json. Rename it.")
        if stream and self.resume:
            raise UsageError(f"output={str(self.output)!r} is a stream, which cannot be continued. Remove resume.")
        if stream or not self.output.exists() or not self.output.stat().st_size:
            return
        if format:
            raise UsageError(f"output={str(self.output)!r} exists. Choose another output.")
        if not self.resume:
            raise UsageError(
                f"output={str(self.output)!r} exists. Pass --resume to continue it, or choose another output."
            )

    @contextmanager
    def row_file(self) -> Iterator[Path]:
        """File for the rows: the output, or a file beside it that is removed on success.

        Raises:
            UsageError: The file is left over from an interrupted command, and ``resume`` is false.
        """
        if is_stream(self.output) and (self.format or self.sequence):
            with tempfile.TemporaryDirectory() as folder:
                yield Path(folder) / f"rows{JSON_LINES if self.format else self.output.suffix}"
        elif self.format:
            file = self.output.with_name(self.output.name + ROWS)
            if file.exists() and not self.resume:
                raise UsageError(
                    f"{str(file)!r} is left over from an interrupted command. Pass --resume, or remove it."
                )
            yield file
            file.unlink()
        else:
            yield self.output
