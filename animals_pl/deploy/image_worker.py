"""Read, decode and classify images in several threads. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from animals_pl.data.problems import load_checked
from animals_pl.deploy.image_file import date_and_camera, is_unchanged, read_file
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable, Row
from animals_pl.deploy.runtime import Identifier, Prepared


class Outcome(NamedTuple):
    """The row of an image, and whether it was computed, copied from one with the same content, or already there."""

    row: Row
    kind: Literal["classified", "reused", "unchanged"]


@dataclass(frozen=True)
class ImageWorker:
    """Classifies images. Several threads may call it.

    Attributes:
        identifier: The model; it should use one thread per call.
        rules: How predictions become rows.
        table: The table with the rows of earlier runs.
    """

    identifier: Identifier
    rules: RowRules
    table: PredictionTable

    def __call__(self, paths: Sequence[str]) -> list[Outcome]:
        """The rows of images, in their order."""
        return [self._outcome(path) for path in paths]

    def _outcome(self, path: str) -> Outcome:
        known = self.table.find_path(path)
        if known and is_unchanged(path, known["bytes"], known["modified"]):
            return Outcome(known, "unchanged")
        content, facts, problem = read_file(path)
        if known and facts["sha256"] in ("", known["sha256"]):  # "": unreadable now, so the earlier result is kept
            return Outcome(known, "unchanged")
        if same := self.table.find_content(facts["sha256"]):
            return Outcome(same | facts | {"path": path}, "reused")
        facts |= {"date": "", "camera": ""}
        picture = None
        if not problem:
            size = self.identifier.metadata.input_size
            picture, problem = load_checked(content, size, lambda opened: facts.update(date_and_camera(opened)))
        pixels = None if picture is None else self.identifier.prepare(picture)
        # One image per call: larger batches are slower, since less of what a layer computes stays in the core's cache.
        (prediction,) = self.identifier.rank([Prepared(path, pixels, problem)], self.rules.top_k)
        return Outcome(self.rules.row(prediction) | facts, "classified")
