"""Deployments of camera traps: read the user's table, and find the deployment of an image. Standard library only."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, tzinfo
from pathlib import Path, PurePath

from animals_pl.deploy.timestamps import iso_8601, parse_date
from animals_pl.errors import UsageError, did_you_mean

COLUMNS = (
    *("deploymentID", "locationID", "locationName", "latitude", "longitude", "coordinateUncertainty"),
    *("deploymentStart", "deploymentEnd", "setupBy", "cameraID", "cameraModel", "cameraDelay", "cameraHeight"),
    *("cameraDepth", "cameraTilt", "cameraHeading", "detectionDistance", "timestampIssues", "baitUse", "featureType"),
    *("habitat", "deploymentGroups", "deploymentTags", "deploymentComments"),
)
"""Columns of ``deployments.csv`` in Camtrap DP 1.0.2."""

FOLDER = "folder"
"""Column of the user's table: folder with the images of the deployment."""

REQUIRED = (FOLDER, "deploymentID", "latitude", "longitude")

ANYWHERE = 20_037_508
"""Half of the circumference of the Earth in metres: the uncertainty of coordinates that are not known."""

PLACEHOLDER = "PLACEHOLDER"
"""Prefix of every value that the user has to replace."""

_LIMITS = {"latitude": 90.0, "longitude": 180.0}


class Deployments:
    """The deployments that images belong to.

    Args:
        table: Folder → the columns of its deployment, as :func:`read_deployments` returns them.
        base: Folder that image paths are relative to, if there is one.
    """

    def __init__(self, table: Mapping[PurePath, dict[str, str]], base: Path | None) -> None:
        self._table = table
        self._base = base
        self._found: dict[str, dict[str, str]] = {}

    def of(self, path: str) -> dict[str, str]:
        """Columns of the deployment of an image. Images in a folder that is not in the table get a placeholder."""
        folder = os.path.dirname(path)  # noqa: PTH120 - called for each image
        if folder not in self._found:
            self._found[folder] = self._of_folder(PurePath(os.path.normpath(folder or ".")))
        return self._found[folder]

    def _of_folder(self, folder: PurePath) -> dict[str, str]:
        below = PurePath(os.path.relpath(folder, self._base)) if self._base else folder
        for place in (folder, below):
            for parent in (place, *place.parents):
                if parent in self._table:
                    return self._table[parent]
        name = below.as_posix() if below != PurePath() else PurePath(os.path.abspath(folder)).name  # noqa: PTH100
        return {
            "deploymentID": f"{PLACEHOLDER} {name}",
            "latitude": "0",
            "longitude": "0",
            "coordinateUncertainty": str(ANYWHERE),
            "deploymentComments": f"{PLACEHOLDER}: coordinates, start and end are not known",
        }


def read_deployments(file: Path, zone: tzinfo) -> dict[PurePath, dict[str, str]]:
    """Read a table with the columns folder, deploymentID, latitude, longitude, and any others of Camtrap DP.

    Returns:
        Folder → the columns of :data:`COLUMNS` that are in the table. Dates have an offset from UTC.

    Raises:
        UsageError: The table cannot be read, lacks a column, or has an unknown column or an invalid value.
    """
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream, restkey="", restval="")
            _require_columns(reader.fieldnames or [])
            return _by_folder(reader, zone)
    except (OSError, ValueError, csv.Error) as error:
        reason = (error.strerror if isinstance(error, OSError) else str(error)) or type(error).__name__
        raise UsageError(
            f"deployments={str(file)!r} cannot be used: {reason.rstrip('.')}. Correct the table."
        ) from error


def _require_columns(columns: Iterable[str]) -> None:
    columns = list(columns)
    if missing := [name for name in REQUIRED if name not in columns]:
        raise ValueError(f"it lacks the column {missing[0]!r}")
    if unknown := [name for name in columns if name not in (FOLDER, *COLUMNS)]:
        raise ValueError(f"unknown column {unknown[0]!r}. {did_you_mean(unknown[0], COLUMNS)}".rstrip())


def _by_folder(rows: Iterable[dict[str, str]], zone: tzinfo) -> dict[PurePath, dict[str, str]]:
    table: dict[PurePath, dict[str, str]] = {}
    ids: dict[str, dict[str, str]] = {}
    for number, row in enumerate(rows, start=2):
        if "" in row:
            raise ValueError(f"line {number} has more cells than columns")
        values = {name: text.strip() for name, text in row.items() if text.strip()}
        if missing := [name for name in REQUIRED if name not in values]:
            raise ValueError(f"line {number} lacks {missing[0]}")
        folder = PurePath(os.path.normpath(values.pop(FOLDER)))
        _check_values(values, number, zone)
        if folder in table or ids.setdefault(values["deploymentID"], values) != values:
            raise ValueError(f"line {number} repeats a folder, or a deploymentID with different values")
        table[folder] = ids[values["deploymentID"]]
    return table


def _check_values(values: dict[str, str], number: int, zone: tzinfo) -> None:
    """Check coordinates, and check and complete dates."""
    for name, limit in _LIMITS.items():
        try:
            valid = -limit <= float(values[name]) <= limit
        except ValueError:
            valid = False
        if not valid:
            raise ValueError(f"line {number} has {name}={values[name]!r}, not a number from -{limit:g} to {limit:g}")
    for name in ("deploymentStart", "deploymentEnd"):
        if name in values:
            date: datetime | None = parse_date(values[name])
            if date is None:
                raise ValueError(f"line {number} has {name}={values[name]!r}, not a date such as 2024-05-31T06:12:59")
            values[name] = iso_8601(date, zone)
