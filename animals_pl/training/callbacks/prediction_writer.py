"""Predictions as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from animals_pl.data.catalog import english_name


class PredictionCSV(BasePredictionWriter):
    """Writes one row per image: path, class, English name, probability, the top k, and what is wrong with it.

    A broken image has a problem in place of a class; one that was cut short may have both. Rows appear as
    batches are done, in a file beside the target, which takes its place at the end.

    Args:
        file: The CSV file to write.
        top_k: How many of the most probable classes each row names.
    """

    def __init__(self, file: Path, top_k: int) -> None:
        super().__init__(write_interval="batch")
        self.file = file
        self.partial = file.with_name(file.name + ".partial")
        self.top_k = top_k

    def on_predict_start(self, trainer: Any, pl_module: Any) -> None:
        """Begin the file with its header."""
        self.top_k = min(self.top_k, len(pl_module.class_names))
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        ranks = range(1, self.top_k + 1)
        header = [column for k in ranks for column in (f"class_{k}", f"probability_{k}")]
        self._append([["path", "class", "english", "probability", *header, "problem"]], mode="w")
        predicted = set(trainer.datamodule.catalogs["predict"].paths)
        broken = trainer.datamodule.broken.items()
        blank = [""] * (3 + len(header))
        self._append([[path, *blank, problem] for path, problem in broken if path not in predicted])

    def write_on_batch_end(
        self,
        trainer: Any,
        pl_module: Any,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append a batch of probabilities (B, C)."""
        paths = trainer.datamodule.catalogs["predict"].paths
        names = pl_module.class_names
        problems = trainer.datamodule.broken
        top = prediction.topk(self.top_k, dim=1)
        rows = []
        for index, values, labels in zip(batch_indices or [], top.values.tolist(), top.indices.tolist(), strict=True):
            best = [(names[label], f"{value:.6f}") for label, value in zip(labels, values, strict=True)]
            name, probability = best[0]
            cells = [cell for pair in best for cell in pair]
            path = paths[index]
            rows.append([path, name, english_name(name), probability, *cells, problems.get(path, "")])
        self._append(rows)

    def on_predict_end(self, trainer: Any, pl_module: Any) -> None:
        """Put the finished file in its place."""
        self.partial.replace(self.file)

    def _append(self, rows: list[list[str]], mode: str = "a") -> None:
        with self.partial.open(mode, newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
