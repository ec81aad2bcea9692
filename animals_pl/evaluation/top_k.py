"""The most probable classes of an image. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

UNKNOWN = "unknown"
"""Label of images of no known class."""


@dataclass(frozen=True)
class Prediction:
    """Prediction for one image.

    Attributes:
        path: The image file as it was given.
        label: The most probable class, ``"unknown"`` if requested, or ``None`` if the file cannot be decoded.
        probability: Probability of the label, in 0…1; 0 if the label is ``None`` or ``"unknown"``.
        top: The most probable classes with their probabilities, best first.
        problem: What is wrong with the file; empty if nothing. A truncated image has a label and a problem.
        unknown_score: Energy; higher for images that resemble no class. ``None`` if the file cannot be decoded.

    Example:
        >>> from animals_pl import load_model
        >>> model = load_model("checkpoints/my_animals/version_0/best.ckpt")
        >>> prediction, broken = model.predict(["a.jpg", "broken.jpg"])
        >>> prediction.path, prediction.problem, len(prediction.top)
        ('a.jpg', '', 3)
        >>> broken.label is None, broken.problem
        (True, '...')
    """

    path: str
    label: str | None
    probability: float
    top: list[tuple[str, float]]
    problem: str = ""
    unknown_score: float | None = None

    def with_unknown(self, threshold: float) -> Prediction:
        """The prediction with the label ``"unknown"`` if its score is above the threshold."""
        return replace(self, label=UNKNOWN, probability=0.0) if is_unknown(self.unknown_score, threshold) else self


def is_unknown(score: float | None, threshold: float) -> bool:
    """Whether an image with this score is of no known class; ``None``: the image has no score."""
    return score is not None and score > threshold


def top_k_prediction(
    path: str, output: tuple[np.ndarray, float | None] | None, class_names: Sequence[str], top_k: int, problem: str = ""
) -> Prediction:
    """Prediction of an image.

    Args:
        path: Its file.
        output: Probabilities (C,) and the unknown score, or ``None`` if the file cannot be decoded.
        class_names: C names.
        top_k: Number of classes to keep.
        problem: What is wrong with the file.
    """
    if output is None:
        return Prediction(path, None, 0.0, [], problem)
    probabilities, unknown_score = output
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    top = [(class_names[label], float(probabilities[label])) for label in best]
    return Prediction(path, *top[0], top, problem, unknown_score)
