"""Read, decode and classify images in several threads. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from animals_pl.data.problems import decode_checked
from animals_pl.deploy.image_file import date_and_camera, is_unchanged, read_file
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable, Row
from animals_pl.deploy.runtime import Identifier
from animals_pl.evaluation.top_k import Prediction

MOST_BYTES = 2**25
"""Size of the decoded images at which a thread classifies them, even if there are more to read."""


class Outcome(NamedTuple):
    """The row of an image, and whether it was computed, copied from one with the same content, or already there."""

    row: Row
    kind: Literal["classified", "reused", "unchanged"]


class _Decoded(NamedTuple):
    path: str
    facts: Row
    image: np.ndarray | None
    problem: str


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
        outcomes: dict[str, Outcome] = {}
        decoded: list[_Decoded] = []
        for path in paths:
            found = self._known_or_decoded(path)
            if isinstance(found, Outcome):
                outcomes[path] = found
                continue
            decoded.append(found)
            if sum(one.image.nbytes for one in decoded if one.image is not None) >= MOST_BYTES:
                outcomes |= self._classified(decoded)
                decoded = []
        outcomes |= self._classified(decoded)
        return [outcomes[path] for path in paths]

    def _known_or_decoded(self, path: str) -> Outcome | _Decoded:
        known = self.table.find_path(path)
        if known and is_unchanged(path, known["bytes"], known["modified"]):
            return Outcome(known, "unchanged")
        content, facts, problem = read_file(path)
        if known and facts["sha256"] in ("", known["sha256"]):  # "": a result is better than none
            return Outcome(known, "unchanged")
        if same := self.table.find_content(facts["sha256"]):
            return Outcome(same | facts | {"path": path}, "reused")
        image = None
        if not problem:
            image, problem = decode_checked(content, self.identifier.metadata.input_size)
        return _Decoded(path, facts | date_and_camera(content), image, problem)

    def _classified(self, decoded: Sequence[_Decoded]) -> Iterator[tuple[str, Outcome]]:
        """Yield the path and the outcome of each image."""
        images = [one.image for one in decoded if one.image is not None]
        predictions = iter(self.identifier.predict(images, top_k=self.rules.top_k, batch_size=len(images) or 1))
        for path, facts, image, problem in decoded:
            prediction = Prediction("", None, 0.0, []) if image is None else next(predictions)
            row = self.rules.row(replace(prediction, path=path, problem=problem))
            yield path, Outcome(row | facts, "classified")
