"""Predictions as rows of a table. Needs numpy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from animals_pl.deploy.metadata import Metadata
from animals_pl.deploy.prediction_table import Row
from animals_pl.evaluation.top_k import UNKNOWN, Prediction, is_unknown

REVIEW = "review"
"""Class of images whose probability is below the threshold."""


@dataclass(frozen=True)
class RowRules:
    """How the predictions of a model become rows.

    Attributes:
        metadata: The model's metadata.
        top_k: Classes per row.
        threshold: Images with a lower probability are :data:`REVIEW`.
        unknown_threshold: Images with a higher score are :data:`UNKNOWN`; infinity: no image is.
        later: Columns whose values are known when all images are classified. Until then they are empty.
    """

    metadata: Metadata
    top_k: int
    threshold: float
    unknown_threshold: float
    later: Sequence[str] = ()

    @cached_property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ranked = [f"{name}_{rank}" for rank in range(1, self.top_k + 1) for name in ("class", "probability")]
        facts = ["problem", "date", "camera", "bytes", "modified", "sha256", "model"]
        return ["path", "class", "english", "probability", *ranked, "unknown_score", *facts, *self.later]

    @cached_property
    def model(self) -> str:
        """First 12 characters of the model's SHA-256."""
        return self.metadata.sha256[:12]

    def row(self, prediction: Prediction) -> Row:
        """The columns of a prediction, from ``path`` to ``problem``, and ``model``."""
        top: Sequence[tuple[str, float | None]] = [(name, round(value, 6)) for name, value in prediction.top]
        top = [*top, *[("", None)] * (self.top_k - len(top))]
        row: Row = {"path": prediction.path} | self.label(*top[0], prediction.unknown_score)
        for rank, (name, probability) in enumerate(top, start=1):
            row |= {f"class_{rank}": name, f"probability_{rank}": probability}
        return row | {
            "unknown_score": prediction.unknown_score,
            "problem": prediction.problem,
            "model": self.model,
            **dict.fromkeys(self.later, ""),
        }

    def fault_of(self, row: Row) -> str:
        """Why an existing row cannot come from this model with these settings; empty if it can."""
        if row["model"] != self.model:
            return "it was written with another model"
        probability, score = (
            None if row[key] in ("", None) else float(row[key]) for key in ("probability_1", "unknown_score")
        )
        if row["class"] != self.label(row["class_1"], probability, score)["class"]:
            return "it was written with another threshold, or with another value of unknown"
        return ""

    def label(self, name: str, probability: float | None, score: float | None) -> Row:
        """``class``, ``english`` and ``probability`` of an image with this best class and unknown score."""
        if is_unknown(score, self.unknown_threshold):
            return {"class": UNKNOWN, "english": UNKNOWN, "probability": 0.0}
        if probability is not None and probability < self.threshold:
            return {"class": REVIEW, "english": REVIEW, "probability": probability}
        return {"class": name, "english": self._english.get(name, ""), "probability": probability}

    @cached_property
    def _english(self) -> dict[str, str]:
        return dict(zip(self.metadata.class_names, self.metadata.english_names, strict=True))
