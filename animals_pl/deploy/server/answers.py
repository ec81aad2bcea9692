"""Predictions and facts about a model as JSON values. Needs numpy, Pillow and onnxruntime."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

from animals_pl.data.decode import FORMATS, open_image
from animals_pl.deploy.metadata import Metadata
from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.server.limits import LARGE, MOST_IMAGES, MOST_SCANS, Limits
from animals_pl.deploy.server.uploads import Upload
from animals_pl.evaluation.top_k import UNKNOWN, Prediction

Answer = dict[str, Any]

LARGE_IMAGE = threading.Lock()
"""Held while an image of more than :data:`LARGE` pixels is decoded: only one is in memory."""


def finds_unknown(metadata: Metadata) -> bool:
    """Whether images can be called unknown: there is a threshold, and no class has this name."""
    return metadata.unknown_threshold is not None and UNKNOWN not in map(str.casefold, metadata.class_names)


def identify(identifier: Identifier, upload: Upload, most_pixels: int, top_k: int) -> Answer:
    """The prediction of an uploaded image; ``label`` is None if it cannot be decoded or is too expensive to decode."""
    problem, is_large = examine(upload.content, most_pixels)
    unknown = finds_unknown(identifier.metadata)
    if problem:
        prediction = Prediction("", None, 0.0, [], problem)
    else:
        with LARGE_IMAGE if is_large else nullcontext():
            prediction = identifier.predict(upload.content, top_k=top_k, unknown=unknown)[0]
    english = dict(zip(identifier.class_names, identifier.metadata.english_names, strict=True))
    return {
        "name": upload.name,
        "label": prediction.label,
        "english": english.get(prediction.label or "", prediction.label),
        "probability": prediction.probability,
        "unknown": unknown and prediction.label == UNKNOWN,
        "unknown_score": prediction.unknown_score,
        "top": [{"label": label, "english": english[label], "probability": value} for label, value in prediction.top],
        "problem": prediction.problem,
    }


def status_of(answers: list[Answer]) -> tuple[int, str]:
    """HTTP status and error message: 200 if any file has a label, 415 if no file is an image, otherwise 422."""
    if any(answer["label"] is not None for answer in answers):
        return 200, ""
    problems = [answer["problem"] for answer in answers]
    of_images = [problem for problem in problems if not problem.startswith("not an image")]  # damaged or too large
    return (422, of_images[0]) if of_images else (415, problems[0])


def examine(content: bytes, most_pixels: int) -> tuple[str, bool]:
    """What an image would cost, from its header.

    Returns:
        Why it is too expensive to decode, empty if it is not or cannot be opened; and whether it must be decoded while
        :data:`LARGE_IMAGE` is held.
    """
    try:
        with open_image(content) as picture:
            pixels, is_jpeg = picture.width * picture.height, picture.format in ("JPEG", "MPO")
    except Exception:  # decoders may raise any exception; Identifier.predict says what is wrong
        return "", False
    if pixels > most_pixels:
        return f"too many pixels: {pixels / 1e6:,.1f} megapixels (allowed: {most_pixels / 1e6:g})", False
    scans = content.count(b"\xff\xda") if is_jpeg else 0  # in image data, ff is followed by 00 or d0 to d7
    if scans > MOST_SCANS:
        return f"too many scans: {scans} (allowed: {MOST_SCANS})", False
    return "", not is_jpeg and pixels > LARGE  # a JPEG is decoded at a reduced size


def model_facts(metadata: Metadata, limits: Limits) -> dict[str, Any]:
    """What ``GET /model`` answers. Golden images are left out: they may be private photographs."""
    names = zip(metadata.class_names, metadata.english_names, strict=True)
    return {
        "model": metadata.sha256[:12],
        "version": metadata.animals_pl_version,
        "classes": [{"label": label, "english": english} for label, english in names],
        "unknown": finds_unknown(metadata),
        "metrics": metadata.metrics,
        "input_size": metadata.input_size,
        "weights": metadata.weights,
        "limits": {
            "bytes": limits.most_bytes,
            "pixels": limits.most_pixels,
            "images": MOST_IMAGES,
            "formats": list(FORMATS),
        },
    }
