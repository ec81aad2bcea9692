"""Predictions as a CSV file."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from animals_pl.data.catalog import english_name
from animals_pl.data.decode import is_image
from animals_pl.errors import UsageError


class PredictionWriter(BasePredictionWriter):
    """Writes one row per image: path, class, English name, probability, the top k, and what is wrong with the file.

    A broken image has a problem instead of a class; a truncated one may have both. Rows are appended to a temporary
    file, which replaces the target at the end.
    """

    def __init__(self, file: Path, top_k: int) -> None:
        super().__init__(write_interval="batch")
        self.file = file
        self.partial = file.with_name(file.name + ".partial")
        self.top_k = top_k

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the header and the rows of images that cannot be decoded."""
        if is_image(self.file) or (self.file.exists() and self.file.suffix.lower() == ".ckpt"):
            raise UsageError(f"output={str(self.file)!r} exists and is not a CSV file. Choose another --output.")
        self.top_k = min(self.top_k, len(pl_module.hparams["class_names"]))
        self.partial.parent.mkdir(parents=True, exist_ok=True)
        ranks = range(1, self.top_k + 1)
        header = [column for k in ranks for column in (f"class_{k}", f"probability_{k}")]
        self._append([["path", "class", "english", "probability", *header, "problem"]], mode="w")
        data = trainer.datamodule  # type: ignore[attr-defined]
        predicted = set(data.catalogs["predict"].paths)
        blank = [""] * (3 + len(header))
        self._append([[path, *blank, problem] for path, problem in data.broken.items() if path not in predicted])

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Tensor,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the rows of a batch of probabilities (B, C)."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        paths, problems = data.catalogs["predict"].paths, data.broken
        names = pl_module.hparams["class_names"]
        top = prediction.topk(self.top_k, dim=1)
        rows = []
        for index, values, labels in zip(batch_indices or [], top.values.tolist(), top.indices.tolist(), strict=True):
            best = [(names[label], f"{value:.6f}") for label, value in zip(labels, values, strict=True)]
            name, probability = best[0]
            cells = [cell for pair in best for cell in pair]
            path = paths[index]
            rows.append([path, name, english_name(name), probability, *cells, problems.get(path, "")])
        self._append(rows)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the complete file in its place."""
        self.partial.replace(self.file)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the incomplete file."""
        self.partial.unlink(missing_ok=True)

    def _append(self, rows: list[list[str]], mode: str = "a") -> None:
        with self.partial.open(mode, newline="", encoding="utf-8") as stream:
            csv.writer(stream).writerows(rows)
