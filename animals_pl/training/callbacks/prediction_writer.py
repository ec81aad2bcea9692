"""Predictions as a CSV file."""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import BasePredictionWriter

from animals_pl.data.catalog import english_name
from animals_pl.data.decode import is_image
from animals_pl.errors import UsageError
from animals_pl.evaluation.top_k import UNKNOWN, is_unknown
from animals_pl.files import atomic_write, require_writable
from animals_pl.training.calibration import Output


class PredictionWriter(BasePredictionWriter):
    """Writes one row per image: path, class, English name, probability, the top k, and what is wrong with the file.

    A broken image has a problem instead of a class; a truncated one may have both. Bytes of a name that are not UTF-8
    are escaped. An interrupted prediction leaves no file.

    Args:
        file: The CSV file.
        top_k: Number of classes per image.
        unknown: Label images ``unknown``, without a probability, if their score is above the model's threshold, and
            write all scores.
    """

    def __init__(self, file: Path, top_k: int, unknown: bool = False) -> None:
        super().__init__(write_interval="batch")
        if is_image(file) or (file.exists() and file.suffix.lower() == ".ckpt"):
            raise UsageError(f"output={str(file)!r} exists and is not a CSV file. Choose another --output.")
        require_writable(file)
        self.file = file
        self.top_k = top_k
        self.unknown = unknown
        self._opened = ExitStack()

    def on_predict_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the header and the rows of images that cannot be decoded."""
        self.top_k = min(self.top_k, len(pl_module.hparams["class_names"]))
        partial = self._opened.enter_context(atomic_write(self.file))
        stream = partial.open("w", newline="", encoding="utf-8", errors="backslashreplace")
        self._rows = csv.writer(self._opened.enter_context(stream))
        ranks = range(1, self.top_k + 1)
        header = [column for k in ranks for column in (f"class_{k}", f"probability_{k}")]
        header += ["unknown_score"] * self.unknown
        self._rows.writerow(["path", "class", "english", "probability", *header, "problem"])
        data = trainer.datamodule  # type: ignore[attr-defined]
        predicted = set(data.catalogs["predict"].paths)
        blank = [""] * (3 + len(header))
        undecodable = [path for path in data.broken if path not in predicted]
        self._rows.writerows([_utf8(path), *blank, data.broken[path]] for path in undecodable)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Output,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Append the rows of a batch."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        paths, problems = data.catalogs["predict"].paths, data.broken
        names = [_utf8(name) for name in pl_module.hparams["class_names"]]
        threshold: float = pl_module.calibration.unknown_threshold  # type: ignore[assignment, union-attr]
        top, scores = prediction.probabilities.topk(self.top_k, dim=1), prediction.unknown_scores.tolist()
        columns = (top.values.tolist(), top.indices.tolist(), scores)
        for index, values, labels, score in zip(batch_indices or [], *columns, strict=True):
            best = [(names[label], f"{value:.6f}") for label, value in zip(labels, values, strict=True)]
            cells = [cell for pair in best for cell in pair]
            name, probability = best[0]
            if self.unknown:
                cells.append(f"{score:.6f}")
                if is_unknown(score, threshold):
                    name, probability = UNKNOWN, ""
            path = paths[index]
            self._rows.writerow([_utf8(path), name, english_name(name), probability, *cells, problems.get(path, "")])

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Move the complete file to its destination."""
        self._opened.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove the incomplete file."""
        self._opened.__exit__(type(exception), exception, exception.__traceback__)


def _utf8(name: str) -> str:
    r"""A name as UTF-8 text in any locale; other bytes are escaped, such as ``\xfc``."""
    return os.fsencode(name).decode(errors="backslashreplace")
