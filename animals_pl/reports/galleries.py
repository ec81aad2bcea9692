"""Galleries of the model report: images with truth, prediction and Grad-CAM overlay."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from animals_pl.reports.heat_maps import heat_maps, overlay
from animals_pl.reports.thumbnails import jpeg_uri, thumbnail
from animals_pl.training.callbacks.evaluation_files import Evaluation

MISTAKES, HITS, PER_CLASS, MOST_CLASSES = 48, 24, 4, 60
"""Maximum number of mistakes, least confident hits, hits per class, and classes for a gallery of hits per class."""


def chosen_images(probabilities: np.ndarray, labels: np.ndarray) -> list[tuple[str, list[int]]]:
    """Title and images of each gallery.

    Args:
        probabilities: Probabilities (N, C).
        labels: True classes (N,).
    """
    confidence, count = probabilities.max(1), probabilities.shape[1]
    correct = probabilities.argmax(1) == labels
    by_confidence = np.argsort(-confidence, kind="stable")
    mistakes = by_confidence[~correct[by_confidence]]
    hits = by_confidence[correct[by_confidence]]
    chosen = [
        ("The most confident mistakes", mistakes[:MISTAKES]),
        ("The least confident correct predictions", hits[::-1][:HITS]),
    ]
    if count <= MOST_CLASSES:
        best = [hits[labels[hits] == label][:PER_CLASS] for label in range(count)]
        chosen.append(("The most confident correct predictions of each class", np.concatenate(best)))
    return [(title, indices.tolist()) for title, indices in chosen]


def galleries(evaluation: Evaluation, names: Sequence[str]) -> list[dict[str, Any]]:
    """Title and tiles of each gallery; overlays explain the predicted class.

    Args:
        evaluation: The evaluation.
        names: Name of each class (C,).
    """
    probabilities, labels = evaluation.predictions.probabilities, evaluation.predictions.labels
    chosen = chosen_images(probabilities, labels)
    shown = sorted({index for _, indices in chosen for index in indices})
    heat = heat_maps(evaluation.net, evaluation.dataset, shown, probabilities.argmax(1), evaluation.device)
    tiles = {
        index: _tile(evaluation, index, heat[index], caption(names, labels[index], probabilities[index]))
        for index in shown
    }
    return [{"title": title, "tiles": [tiles[index] for index in indices]} for title, indices in chosen]


def caption(names: Sequence[str], truth: int, probabilities: np.ndarray) -> list[str]:
    """Caption lines: the predicted class and, if it differs, the true one, each with its probability."""
    predicted = int(probabilities.argmax())
    line = f"{names[predicted]} {probabilities[predicted]:.1%}"
    return [line] if truth == predicted else [f"true: {names[truth]} {probabilities[truth]:.1%}", f"predicted: {line}"]


def _tile(evaluation: Evaluation, index: int, heat: np.ndarray, lines: list[str]) -> dict[str, Any]:
    """Link, photograph, overlay and caption of an image."""
    catalog, dataset = evaluation.catalog, evaluation.dataset
    path = catalog.paths[index]
    relative = Path(os.path.relpath(catalog.root.absolute() / path, evaluation.folder.resolve())).as_posix()
    photo = thumbnail(catalog.root / path)
    explained = overlay(photo, heat, dataset.resize.box(photo.size, dataset.size))
    href = quote(os.fsencode(relative))
    return {"path": path, "href": href, "photo": jpeg_uri(photo), "overlay": jpeg_uri(explained), "lines": lines}
