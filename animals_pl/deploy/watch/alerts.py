"""Frames → alerts: classify, apply the rules, write snapshots."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from PIL import Image

from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.watch.frame import Frame
from animals_pl.deploy.watch.rules import AlertRules
from animals_pl.deploy.watch.source import Source
from animals_pl.deploy.watch.state import Alert
from animals_pl.files import atomic_write

SNAPSHOT_SIDE, SNAPSHOT_QUALITY = 1280, 85
"""Longest side of a snapshot in pixels, and its JPEG quality."""


class AlertMaker:
    """Makes the alerts of frames.

    Args:
        identifier: The model.
        rules: When a class raises an alert.
        unknown_threshold: Frames with a higher unknown score are of no known class; infinity: no frame is.
        source: Where the frames come from.
        snapshots: Folder for JPEG files; None: none are written.
    """

    def __init__(
        self,
        identifier: Identifier,
        rules: AlertRules,
        unknown_threshold: float,
        source: Source,
        snapshots: Path | None,
    ) -> None:
        self._identifier = identifier
        self._rules = rules
        self._unknown_threshold = unknown_threshold
        self._source = source
        self._snapshots = snapshots

    @property
    def input_size(self) -> int:
        """Side in pixels of the images that the net sees."""
        return self._identifier.metadata.input_size

    def resume(self, last: Mapping[str, float]) -> None:
        """Continue the quiet times of an earlier run, given the class names and the times of the last alerts."""
        names = self._identifier.class_names
        self._rules.last |= {names.index(name): time for name, time in last.items() if name in names}

    def alerts(self, frame: Frame) -> list[Alert]:
        """Alerts of a frame. Their snapshots are written first."""
        if frame.pixels is None:
            return []
        rows, scores = self._identifier.outputs(frame.pixels)
        probabilities, score = rows[0], float(scores[0])
        labels = self._rules.alerts(probabilities, score > self._unknown_threshold, frame.time)
        return [self._alert(frame, frame.pixels, label, float(probabilities[label]), score) for label in labels]

    def _alert(self, frame: Frame, pixels: np.ndarray, label: int, probability: float, unknown_score: float) -> Alert:
        metadata = self._identifier.metadata
        name = metadata.class_names[label]
        key = "\0".join([self._source.address, frame.key, name])
        alert_id = hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:32]
        content = {
            "id": alert_id,
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "source": self._source.name,
            "class": name,
            "english": metadata.english_names[label],
            "probability": round(probability, 6),
            "threshold": self._rules.thresholds[label],
            "unknown_score": round(unknown_score, 6),
            "snapshot": None if self._snapshots is None else _snapshot(self._snapshots, alert_id, pixels),
            **frame.facts,
            "model": metadata.sha256[:12],
        }
        return Alert(alert_id, name, frame.time, json.dumps(content))


def _snapshot(folder: Path, name: str, pixels: np.ndarray) -> str:
    """Write a JPEG file, and return its path. The same alert has the same file."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((SNAPSHOT_SIDE, SNAPSHOT_SIDE))
    file = folder / f"{name}.jpg"
    with atomic_write(file) as partial, partial.open("wb") as stream:
        picture.save(stream, "JPEG", quality=SNAPSHOT_QUALITY)
    return str(file)
