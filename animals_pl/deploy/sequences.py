"""Join the images of a burst into one decision. Needs numpy only.

A camera trap takes several images of one animal. Images of the same folder and camera whose times are close form a
sequence, and all get its joint class.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC

import numpy as np

from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import Row
from animals_pl.deploy.timestamps import parse_date

SEQUENCE_ID = "sequence_id"

SEQUENCE_COLUMNS = (SEQUENCE_ID, "sequence_class", "sequence_probability")

LEAST = 5e-7
"""Lower bound on probabilities before taking logarithms: tables have six digits."""


def joint_probabilities(probabilities: np.ndarray) -> np.ndarray:
    """Class probabilities (C,) of one animal on N images, from those of the images (N, C).

    Their geometric mean, normalised: the logarithmic opinion pool with equal weights (Genest and Zidek, "Combining
    probability distributions", Statistical Science 1(1), 1986). The images of a burst show the same animal at the same
    place, and their errors are similar: N identical images give the probabilities of one. The product of the
    probabilities would be right for independent images, but is overconfident for a burst.
    """
    logarithms = np.log(np.maximum(probabilities, LEAST)).mean(axis=0)
    joint = np.exp(logarithms - logarithms.max())
    return joint / joint.sum()


def all_probabilities(labels: np.ndarray, top: np.ndarray, num_classes: int) -> np.ndarray:
    """Probabilities (N, C) from the most probable classes.

    Args:
        labels: Most probable classes (N, K).
        top: Their probabilities (N, K). The other classes share the rest equally.
        num_classes: C.
    """
    rest = np.clip(1 - top.sum(axis=1, keepdims=True), 0, 1) / max(1, num_classes - top.shape[1])
    probabilities = np.repeat(rest, num_classes, axis=1)
    np.put_along_axis(probabilities, labels, top, axis=1)
    return probabilities


def split_sequences(groups: Sequence[int], times: Sequence[float], gap: float) -> np.ndarray:
    """Number of the sequence of each image (N,), from 0, in the order of their first images.

    Args:
        groups: Images of different groups are in different sequences.
        times: In seconds; an image with an unknown time (NaN) is a sequence of its own.
        gap: Longest time between neighbours, in seconds.
    """
    group, time = np.asarray(groups), np.asarray(times, dtype=float)
    order = np.lexsort((time, group))
    starts = np.ones(len(order), dtype=bool)
    with np.errstate(invalid="ignore"):
        starts[1:] = (np.diff(group[order]) != 0) | ~(np.diff(time[order]) <= gap)  # also true for NaN
    numbers = np.empty(len(order), dtype=np.int64)
    numbers[order] = np.cumsum(starts) - 1
    _, first = np.unique(numbers, return_index=True)
    return np.argsort(np.argsort(first))[numbers]


class Sequences:
    """The sequences of the rows of a table. Only a few numbers per row are kept in memory.

    Args:
        rows: All rows, as :class:`~animals_pl.deploy.prediction_rows.RowRules` makes them.
        rules: Their rules.
        gap: Longest time between neighbours of a sequence, in seconds.
    """

    def __init__(self, rows: Iterable[Row], rules: RowRules, gap: float) -> None:
        self._rules = rules
        self._label_of = {name: label for label, name in enumerate(rules.metadata.class_names)}
        self._groups: array[int] = array("q")
        self._times = array("d")
        self._scores = array("d")
        self._labels: array[int] = array("q")
        self._top = array("d")
        known: dict[tuple[str, str], int] = {}
        for row in rows:
            key = os.path.dirname(row["path"]), row["camera"]  # noqa: PTH120 - called for each image
            self._groups.append(known.setdefault(key, len(known)))
            self._add(row)
        self._numbers = split_sequences(self._groups, self._times, gap)
        self._results = self._joint()

    def add_to(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Yield the same rows in the same order with :data:`SEQUENCE_COLUMNS`."""
        for row, number in zip(rows, self._numbers.tolist(), strict=True):
            values = (number + 1, *self._results[number])
            yield row | dict(zip(SEQUENCE_COLUMNS, values, strict=True))

    def _add(self, row: Row) -> None:
        """Keep the numbers of a row. Without a class, its score is NaN."""
        date = parse_date(row["date"])
        # The clock of the camera: the offset may be missing in some images.
        self._times.append(float("nan") if date is None else date.replace(tzinfo=UTC).timestamp())
        self._scores.append(float(row["unknown_score"]) if row["class_1"] else float("nan"))
        for rank in range(1, self._rules.top_k + 1):
            name = row[f"class_{rank}"]
            self._labels.append(self._label_of[name] if name else 0)
            self._top.append(float(row[f"probability_{rank}"]) if name else 0.0)

    def _joint(self) -> Mapping[int, tuple[str, float | None]]:
        """Class and probability of each sequence; empty if none of its images has a class."""
        names = self._rules.metadata.class_names
        scores = np.asarray(self._scores)
        shape = len(scores), self._rules.top_k
        labels, top = np.asarray(self._labels).reshape(shape), np.asarray(self._top).reshape(shape)
        results: dict[int, tuple[str, float | None]] = {}
        order = np.argsort(self._numbers, kind="stable")
        for images in np.split(order, np.flatnonzero(np.diff(self._numbers[order])) + 1):
            usable = images[~np.isnan(scores[images])]
            result: tuple[str, float | None] = ("", None)
            if len(usable):
                joint = joint_probabilities(all_probabilities(labels[usable], top[usable], len(names)))
                best = int(joint.argmax())
                label = self._rules.label(names[best], round(float(joint[best]), 6), float(scores[usable].mean()))
                result = label["class"], label["probability"]
            results[int(self._numbers[images[0]])] = result
        return results
