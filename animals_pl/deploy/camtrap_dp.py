"""Write a Camtrap DP 1.0.2 package: https://camtrap-dp.tdwg.org. Standard library only."""

from __future__ import annotations

import csv
import hashlib
import json
import mimetypes
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from functools import cached_property
from pathlib import Path
from typing import Any

import animals_pl
from animals_pl.data.catalog import ANIMALS10
from animals_pl.deploy import deployments as deployment_table
from animals_pl.deploy.deployments import PLACEHOLDER, Deployments
from animals_pl.deploy.metadata import Metadata
from animals_pl.deploy.prediction_rows import REVIEW
from animals_pl.deploy.prediction_table import Row
from animals_pl.deploy.sequences import SEQUENCE_ID
from animals_pl.deploy.taxa import taxon_of
from animals_pl.deploy.timestamps import iso_8601, parse_date
from animals_pl.errors import counted
from animals_pl.evaluation.top_k import UNKNOWN

SOURCE = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0.2/"
"""Profile and table schemas."""

MEDIA_COLUMNS = (
    *("mediaID", "deploymentID", "captureMethod", "timestamp", "filePath", "filePublic", "fileName"),
    *("fileMediatype", "exifData", "favorite", "mediaComments"),
)

OBSERVATION_COLUMNS = (
    *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
    *("observationType", "cameraSetupType", "scientificName", "count", "lifeStage", "sex", "behavior"),
    *("individualID", "individualPositionRadius", "individualPositionAngle", "individualSpeed"),
    *("bboxX", "bboxY", "bboxWidth", "bboxHeight", "classificationMethod", "classifiedBy"),
    *("classificationTimestamp", "classificationProbability", "observationTags", "observationComments"),
)

_FILE_PATH = re.compile(r"(?=^[^./~])(^((?!\.{2}).)*$)")
"""The constraint of ``media.filePath``."""

Rows = Callable[[], Iterable[Row]]
"""Returns the rows of all images; it can be called several times."""


@dataclass
class _Span:
    """First and last of several timestamps, and whether one of them is not from EXIF."""

    first: datetime = field(default_factory=lambda: datetime.max.replace(tzinfo=UTC))
    last: datetime = field(default_factory=lambda: datetime.min.replace(tzinfo=UTC))
    issues: bool = False

    def add(self, time: datetime, is_exif: bool) -> None:
        self.first, self.last = min(self.first, time), max(self.last, time)
        self.issues |= not is_exif


@dataclass(frozen=True)
class Package:
    """Writes rows of images as a package.

    Attributes:
        metadata: The model's metadata.
        model: File of the model.
        zone: Time zone of dates without an offset.
        deployments: Finds the deployment of an image.
        base: Folder that the file paths in the package are relative to, if there is one.
    """

    metadata: Metadata
    model: Path
    zone: tzinfo
    deployments: Deployments
    base: Path | None

    def write(self, folder: Path, rows: Rows) -> None:
        """Write the four files of the package into a folder that is new or empty."""
        spans: dict[str, _Span] = {}
        events: dict[str, _Span] = {}
        found: dict[str, dict[str, str]] = {}
        labels: set[str] = set()
        for row in rows():
            deployment = self.deployments.of(row["path"])
            found[deployment["deploymentID"]] = deployment
            for group, key in ((spans, deployment["deploymentID"]), (events, _event_id(row))):
                group.setdefault(key, _Span()).add(*self._time(row))
            labels.add(row["class"])
        lines = [self._deployment(values, spans[key]) for key, values in sorted(found.items())]
        with _new_folder(folder) as partial:
            _write_csv(partial / "deployments.csv", deployment_table.COLUMNS, lines)
            _write_csv(partial / "media.csv", MEDIA_COLUMNS, map(self._medium, rows()))
            observations = (self._observation(row, events[_event_id(row)]) for row in rows())
            _write_csv(partial / "observations.csv", OBSERVATION_COLUMNS, observations)
            descriptor = json.dumps(self._descriptor(lines, labels), indent=2, ensure_ascii=False)
            (partial / "datapackage.json").write_text(descriptor + "\n", encoding="utf-8")
        if placeholders := sum(PLACEHOLDER in values["deploymentID"] for values in lines):
            text = f"coordinates are placeholders in {placeholders:,} of {counted(len(lines), 'deployment')}"
            print(f"warning: {text}. Pass --deployments.", file=sys.stderr)

    def _time(self, row: Row) -> tuple[datetime, bool]:
        """When an image was taken, and True; without a date in EXIF, the modification time of the file, and False."""
        date = parse_date(row["date"])
        if date is None:
            try:
                return datetime.fromtimestamp((row["modified"] or 0) / 1e9, self.zone), False
            except (ValueError, OverflowError, OSError):  # a file from the year 10,000
                return datetime.fromtimestamp(0, self.zone), False
        return (date if date.tzinfo else date.replace(tzinfo=self.zone)), True

    def _deployment(self, values: Mapping[str, str], span: _Span) -> dict[str, str]:
        dates = {"deploymentStart": span.first, "deploymentEnd": span.last}
        line = {name: iso_8601(date, self.zone) for name, date in dates.items()}
        if span.issues:
            line["timestampIssues"] = "true"
        return line | dict(values)

    def _medium(self, row: Row) -> dict[str, Any]:
        time, is_exif = self._time(row)
        comments = [row["problem"], "" if is_exif else f"{PLACEHOLDER}: no date in EXIF; modification time of the file"]
        kind = mimetypes.guess_type(row["path"])[0] or ""
        return {
            "mediaID": _media_id(row),
            "deploymentID": self.deployments.of(row["path"])["deploymentID"],
            "timestamp": iso_8601(time, self.zone),
            "filePath": self._file_path(row["path"]),
            "filePublic": "false",
            "fileName": os.path.basename(row["path"]),  # noqa: PTH119 - called for each image
            "fileMediatype": kind if kind.startswith("image/") else "image/x-unknown",
            "mediaComments": "; ".join(filter(None, comments)),
        }

    def _file_path(self, path: str) -> str:
        relative = os.path.relpath(path, self.base) if self.base else path
        name = relative.replace(os.sep, "/")
        if _FILE_PATH.fullmatch(name) and not re.search(r"[\ud800-\udfff]", name):
            return name
        return Path(os.path.abspath(path)).as_uri().replace("..", "%2E%2E")  # noqa: PTH100 - keeps links

    def _observation(self, row: Row, event: _Span) -> dict[str, Any]:
        name, probability = row["class"], row["probability"]
        taxon = taxon_of(row["english"])
        is_animal = name not in ("", UNKNOWN, REVIEW)
        comments = "" if taxon or not name else name if name == row["english"] else f"{name} ({row['english']})"
        if name == REVIEW:
            comments = f"{REVIEW}: {row['class_1']}"
        return {
            "observationID": f"{_media_id(row)}-1",
            "deploymentID": self.deployments.of(row["path"])["deploymentID"],
            "mediaID": _media_id(row),
            "eventID": _event_id(row),
            "eventStart": iso_8601(event.first, self.zone),
            "eventEnd": iso_8601(event.last, self.zone),
            "observationLevel": "media",
            "observationType": "animal" if is_animal else "unknown" if name else "unclassified",
            "scientificName": taxon.scientific_name if taxon else "",
            "classificationMethod": "machine" if name else "",
            "classifiedBy": self._classifier if name else "",
            "classificationTimestamp": self._now if name else "",
            "classificationProbability": "" if name in ("", UNKNOWN) else probability,
            "observationComments": comments,
        }

    def _descriptor(self, deployments: Sequence[Mapping[str, str]], labels: Iterable[str]) -> dict[str, Any]:
        coordinates = [[float(one["longitude"]), float(one["latitude"])] for one in deployments]
        starts, ends = ([one[name] for one in deployments] for name in ("deploymentStart", "deploymentEnd"))
        return {
            "resources": [
                {
                    "name": name,
                    "path": f"{name}.csv",
                    "profile": "tabular-data-resource",
                    "format": "csv",
                    "mediatype": "text/csv",
                    "encoding": "utf-8",
                    "schema": f"{SOURCE}{name}-table-schema.json",
                }
                for name in ("deployments", "media", "observations")
            ],
            "profile": f"{SOURCE}camtrap-dp-profile.json",
            "created": self._now,
            "contributors": [{"title": f"{PLACEHOLDER}: name of the contact", "role": "contact"}],
            "project": {
                "title": f"{PLACEHOLDER}: title of the project; check the other values, too",
                "samplingDesign": "opportunistic",
                "captureMethod": ["activityDetection"],
                "individualAnimals": False,
                "observationLevel": ["media"],
            },
            "spatial": {"type": "MultiPoint", "coordinates": coordinates},
            "temporal": {"start": min(starts)[:10], "end": max(ends)[:10]},
            "taxonomic": self._taxonomic(labels),
        }

    def _taxonomic(self, labels: Iterable[str]) -> list[dict[str, Any]]:
        """The taxa of the classes, with their names in the languages of the model."""
        english = dict(zip(self.metadata.class_names, self.metadata.english_names, strict=True))
        taxa: dict[str, dict[str, Any]] = {}
        for label in sorted(set(labels) & english.keys()):
            if taxon := taxon_of(english[label]):
                names = {"eng": english[label]} | ({"ita": label} if label in ANIMALS10 else {})
                taxa[taxon.scientific_name] = {
                    "scientificName": taxon.scientific_name,
                    "taxonRank": taxon.rank,
                    "vernacularNames": names,
                }
        return list(taxa.values())

    @cached_property
    def _classifier(self) -> str:
        return f"animals_pl {animals_pl.__version__}, {self.model.name} ({self.metadata.sha256[:12]})"

    @cached_property
    def _now(self) -> str:
        return datetime.now(UTC).isoformat(timespec="seconds")


def _media_id(row: Row) -> str:
    """Identifier of an image; the same in every package in which the image has this path."""
    return hashlib.sha256(os.fsencode(row["path"])).hexdigest()[:20]


def _event_id(row: Row) -> str:
    """The sequence of an image, or the image itself."""
    return str(row.get(SEQUENCE_ID) or _media_id(row))


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of a new or empty one, if all goes well."""
    partial = folder.with_name(f"{folder.name[:50]}.{os.getpid()}.partial")
    try:
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rmdir()
        partial.replace(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_csv(file: Path, columns: Sequence[str], lines: Iterable[Mapping[str, Any]]) -> None:
    with file.open("w", encoding="utf-8", errors="backslashreplace", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(lines)
