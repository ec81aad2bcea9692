"""Classify the boxes that MegaDetector found. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from animals_pl.data.problems import decode_checked
from animals_pl.deploy.image_file import read_file
from animals_pl.deploy.megadetector import Classifications, path_below
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.runtime import Identifier

SCALE = 1.15
"""Side of a crop relative to the longer side of its box. A center crop of 0.875 then keeps the whole box."""

MOST_REDUCED = 0.01
"""Lower bound on the longer side of a box, as a fraction of the image, when a JPEG's decoding size is chosen."""

LEADS_OUT = "path outside the image folder"


class Box(NamedTuple):
    """Left edge, top edge, width and height, relative to the image (0…1)."""

    x: float
    y: float
    width: float
    height: float

    def clipped(self) -> Box | None:
        """The part inside the image; None if there is none."""
        left, top = max(0.0, self.x), max(0.0, self.y)
        right, bottom = min(1.0, self.x + self.width), min(1.0, self.y + self.height)
        return Box(left, top, right - left, bottom - top) if left < right and top < bottom else None


class ClassifiedImage(NamedTuple):
    """An image with classifications, what is wrong with it, and the numbers of its boxes by their outcome."""

    image: dict[str, Any]
    problem: str
    classified: int
    left_out: int


@dataclass(frozen=True)
class BoxWorker:
    """Classifies the animal boxes of images. Several threads may call it.

    Attributes:
        identifier: The model; it should use one thread per call.
        rules: How predictions become rows.
        classifications: How rows become classifications.
        root: Folder of the images.
        animal_ids: Detection categories that are classified.
        min_confidence: Boxes with a lower confidence are left as they are.
    """

    identifier: Identifier
    rules: RowRules
    classifications: Classifications
    root: Path
    animal_ids: frozenset[str]
    min_confidence: float

    def __call__(self, images: Sequence[dict[str, Any]]) -> list[ClassifiedImage]:
        """The images, in their order."""
        return [self._classify(image) for image in images]

    def _classify(self, image: dict[str, Any]) -> ClassifiedImage:
        detections = [dict(one) for one in image.get("detections") or []]
        for detection in detections:
            detection.pop("classifications", None)  # of another classifier, whose categories are replaced
        result = image if image.get("detections") is None else image | {"detections": detections}
        animals = [one for one in detections if one["category"] in self.animal_ids]
        chosen = [one for one in animals if one["conf"] >= self.min_confidence]
        found = [(one, box) for one in chosen if (box := Box(*one["bbox"]).clipped())]
        if not found:
            return ClassifiedImage(result, "", 0, len(chosen))
        pixels, problem = self._pixels(image["file"], [box for _, box in found])
        if pixels is None:
            return ClassifiedImage(result, problem, 0, len(chosen))
        crops = [square_crop(pixels, box) for _, box in found]
        predictions = self.identifier.predict(crops, top_k=self.rules.top_k)
        for (detection, _), prediction in zip(found, predictions, strict=True):
            if named := self.classifications.of(self.rules.row(prediction)):
                detection["classifications"] = named
        return ClassifiedImage(result, problem, len(found), len(chosen) - len(found))

    def _pixels(self, file: str, boxes: Sequence[Box]) -> tuple[np.ndarray | None, str]:
        path = path_below(self.root, file)
        if path is None:
            return None, LEADS_OUT
        content, _, problem = read_file(str(path))
        if problem:
            return None, problem
        # A large JPEG is decoded at a reduced size if the smallest crop stays large enough.
        smallest = max(MOST_REDUCED, min(max(box.width, box.height) for box in boxes))
        return decode_checked(content, math.ceil(self.identifier.metadata.input_size / smallest))


def square_crop(image: np.ndarray, box: Box) -> np.ndarray:
    """The square around a box with a margin, see :data:`SCALE`.

    It is moved into the image where it would overhang, and is narrower than a square if the image is too small.

    Args:
        image: RGB (H, W, 3).
        box: A box inside the image.
    """
    height, width = image.shape[:2]
    side = max(1, round(SCALE * max(box.width * width, box.height * height)))
    left, right = _interval((box.x + box.width / 2) * width, side, width)
    top, bottom = _interval((box.y + box.height / 2) * height, side, height)
    return image[top:bottom, left:right]


def _interval(center: float, length: int, limit: int) -> tuple[int, int]:
    """Start and end of an interval inside 0…limit."""
    start = min(max(0, round(center - length / 2)), max(0, limit - length))
    return start, min(limit, start + length)
