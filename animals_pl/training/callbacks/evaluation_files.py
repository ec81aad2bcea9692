"""Predictions and metrics of an evaluation, in the folder of its checkpoint."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch

from animals_pl.data.catalog import Catalog
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.dataset import AnimalsDataset
from animals_pl.data.grouping import single_groups
from animals_pl.data.tables import read_rows, write_table
from animals_pl.errors import UsageError, listed
from animals_pl.evaluation.predictions import Predictions, evaluation_metrics
from animals_pl.evaluation.robustness import ROBUSTNESS_FILE
from animals_pl.files import StagedFolder, printable
from animals_pl.training.callbacks.split_logits import LogitCollector, SplitLogits
from animals_pl.training.checkpoint import load_checkpoint
from animals_pl.training.classifier import AnimalClassifier

DIGITS = 7
"""Decimal places of probabilities in predictions.csv."""


@dataclass(frozen=True)
class Evaluation:
    """An evaluation: its images, predictions and metrics.

    Attributes:
        folder: Folder of its files: ``evaluation/val``, ``evaluation/test`` or ``evaluation/test-NAME`` of the run.
        files: Where the files are now: beside ``folder`` until the evaluation is published.
        split: ``val`` or ``test``.
        catalog: The images (N).
        class_names: Name of each class (C,).
        predictions: Outputs of the model for the images.
        metrics: Contents of metrics.json.
        net: The net, on the CPU after the evaluation.
        dataset: The images (N) as the net sees them.
        device: Device of the evaluation.
    """

    folder: Path
    files: Path
    split: str
    catalog: Catalog
    class_names: list[str]
    predictions: Predictions
    metrics: dict[str, Any]
    net: Any
    dataset: AnimalsDataset
    device: torch.device


class EvaluationFiles(L.Callback):
    """Writes ``predictions.csv`` and ``metrics.json`` of ``validate`` and ``test`` into the checkpoint's folder.

    Args:
        data: The datamodule. Nothing is written unless it is an AnimalsDataModule, because other images have no paths.
    """

    def __init__(self, data: L.LightningDataModule) -> None:
        self.data = data
        self.evaluation: Evaluation | None = None
        """The latest evaluation; ``None`` if the files could not be written."""
        self._collected = LogitCollector()
        self._staged: StagedFolder | None = None
        self._adds_files = False

    @contextmanager
    def more_files(self) -> Iterator[None]:
        """Context in which files are added to an evaluation, such as its page.

        The evaluation is published at the end, as a whole. If an error occurs, an earlier evaluation stays as it is.
        """
        self._adds_files = True
        try:
            yield
            self._publish()
        finally:
            self._adds_files = False
            self._discard()

    def _publish(self) -> None:
        if self._staged is None or self.evaluation is None:
            return
        self._staged.publish()
        self._staged = None
        self.evaluation = replace(self.evaluation, files=self.evaluation.folder)
        print(printable(f"predictions and metrics with 95 % intervals: {self.evaluation.folder}"))

    def _discard(self) -> None:
        if self._staged is not None:
            self._staged.discard()
            self._staged = None

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise UsageError for a checkpoint that was trained on the validation images."""
        ckpt_path = _ckpt_path(trainer, pl_module)
        if ckpt_path is not None and "refit" in load_checkpoint(ckpt_path, mmap=True, verify=False):
            raise UsageError(
                f"ckpt_path={str(ckpt_path)!r} was trained on the validation images (refit=true), so it cannot be "
                "validated. Test it on other images, or validate best.ckpt."
            )

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the logits."""
        self._collected.add(outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the logits."""
        self._collected.add(outputs, batch)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files of ``validate``."""
        self._evaluate(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files of ``test``."""
        self._evaluate(trainer, pl_module, "test")

    def _evaluate(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        collected = self._collected.gather()
        if collected is None or not trainer.is_global_zero or not isinstance(self.data, AnimalsDataModule):
            return
        ckpt_path = _ckpt_path(trainer, module)
        if ckpt_path is None or not isinstance(module, AnimalClassifier):
            return
        evaluation = evaluate_split(self.data, split, collected, module, ckpt_path)
        self.evaluation = None
        try:
            self._staged = StagedFolder(evaluation.folder)
            self.evaluation = replace(evaluation, files=self._staged.path)
            _write(self.evaluation)
            if not self._adds_files:
                self._publish()
        except OSError as error:
            self.evaluation = None
            warnings.warn(
                f"the evaluation cannot be written to {str(evaluation.folder)!r} ({error.strerror}). "
                "Copy the run to a writable folder",
                stacklevel=2,
            )
        finally:
            if self.evaluation is None or not self._adds_files:
                self._discard()


def _ckpt_path(trainer: L.Trainer, module: L.LightningModule) -> Path | None:
    """Checkpoint of the evaluated model."""
    ckpt_path = trainer.ckpt_path or getattr(module, "ckpt_path", None)
    return None if ckpt_path is None else Path(ckpt_path)


def evaluation_folder(run: Path, split: str, test_root: str | None = None) -> Path:
    """Folder of an evaluation's files in a run; ``test_root`` is another dataset that was tested on."""
    name = split if split != "test" or not test_root else f"test-{Path(test_root).resolve().name}"
    return run / "evaluation" / name


def evaluate_split(
    data: AnimalsDataModule, split: str, collected: SplitLogits, module: AnimalClassifier, ckpt_path: Path
) -> Evaluation:
    """Metrics with intervals of a split's logits."""
    catalog = data.catalogs[split]
    test_root = data.hparams["test_root"] if split == "test" else None
    everything = catalog if test_root else data.catalog
    run, checkpoint = ckpt_path.parent, load_checkpoint(ckpt_path, mmap=True, verify=False)
    trained = ("train", "val") if "refit" in checkpoint else ("train",)
    seen = seen_in_training(catalog, everything, run / "split.csv", trained)
    if len(collected.indices) < len(catalog.paths):  # trainer.limit_test_batches
        catalog = catalog.select([catalog.paths[index] for index in collected.indices])
        seen = None if seen is None else seen[collected.indices]
    groups = single_groups(catalog.groups)
    predictions = Predictions(collected.logits, collected.labels, groups, seen, module.calibration)
    class_names = list(module.class_names or [])
    _require_possible_labels(predictions, class_names, module.prior)
    facts = {
        "split": split,
        "data": str(catalog.root.absolute()),
        "checkpoint": ckpt_path.name,
        "epoch": checkpoint["epoch"] + 1,
        "tta": module.hparams["tta"],
        "temperature": module.calibration.temperature,
        "prior": module.prior,
    }
    metrics = {**facts, **evaluation_metrics(predictions, class_names)}
    folder = evaluation_folder(run, split, test_root)
    return Evaluation(
        folder,
        folder,
        split,
        catalog,
        class_names,
        predictions,
        metrics,
        module.net,
        AnimalsDataset(catalog, data.resize, data.size),
        module.device,
    )


def _require_possible_labels(predictions: Predictions, class_names: list[str], prior: str | None) -> None:
    """Raise UsageError if the prior excludes a class that has images: their log-loss would be infinite."""
    impossible = np.flatnonzero(np.isneginf(np.broadcast_to(predictions.calibration.log_shift, len(class_names))))
    if found := [class_names[label] for label in np.intersect1d(impossible, predictions.labels)]:
        raise UsageError(
            f"prior={prior!r} has the frequency 0 for classes with images: {listed(found)}. "
            "Give each a frequency above 0, or exclude its images."
        )


def seen_in_training(
    catalog: Catalog, everything: Catalog, split_file: Path, splits: Collection[str] = ("train",)
) -> np.ndarray | None:
    """Whether the model was trained on each image (N,) or on a duplicate of it; ``None`` if unknown.

    Args:
        catalog: The images that are evaluated.
        everything: All images of the dataset, with the same group numbers.
        split_file: The split.csv of the run, with the sha256 of the images of each split.
        splits: The splits that the model was trained on.
    """
    if not split_file.is_file():
        return None
    rows = read_rows(split_file, "data.split")
    trained = {row.get("sha256", "") for row in rows if row.get("split") in splits} - {""}
    if not trained:
        return None
    learned = np.array([sha256 in trained for sha256 in everything.sha256])
    groups = np.setdiff1d(everything.groups[learned], [-1])
    return np.isin(catalog.groups, groups) | np.array([sha256 in trained for sha256 in catalog.sha256])


def _write(evaluation: Evaluation) -> None:
    names = evaluation.class_names
    metrics = json.dumps(evaluation.metrics, indent=1, allow_nan=False)  # first, since it may fail
    probabilities = evaluation.predictions.probabilities
    columns = {
        "path": evaluation.catalog.paths,
        "group": evaluation.predictions.groups,
        "label": [names[label] for label in evaluation.predictions.labels],
        "prediction": [names[label] for label in probabilities.argmax(1)],
    }
    rounded = probabilities.round(DIGITS)
    table = pd.DataFrame(columns | {f"probability_{name}": rounded[:, label] for label, name in enumerate(names)})
    with suppress(FileNotFoundError):  # its readers check that it is of the same model
        shutil.copy(evaluation.folder / ROBUSTNESS_FILE, evaluation.files)
    write_table(table, evaluation.files / "predictions.csv")
    (evaluation.files / "metrics.json").write_text(metrics + "\n", encoding="utf-8")
