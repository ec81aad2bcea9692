"""Test of a model on corrupted images."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from rich.table import Table
from torch import Tensor
from torch.utils.data import DataLoader

from animals_pl.data.catalog import Catalog
from animals_pl.data.corrupted_dataset import CorruptedDataset
from animals_pl.data.corruptions import CORRUPTIONS, SEVERITIES
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.dataset import start_worker
from animals_pl.errors import UsageError, counted
from animals_pl.evaluation.robustness import (
    FACTS,
    ROBUSTNESS_FILE,
    corruption_errors,
    mean_corruption_error,
    read_robustness,
    robustness_values,
)
from animals_pl.files import atomic_write, printable, show
from animals_pl.training.callbacks.evaluation_files import Evaluation, EvaluationFiles, evaluation_folder
from animals_pl.training.callbacks.summaries import EvaluationSummary
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.run_options import check_types
from animals_pl.training.trainer import TRAINER_DEFAULTS, check_evaluation_arguments, make_trainer, quiet


def evaluate_robustness(
    model: AnimalClassifier, data: AnimalsDataModule, *, baseline: str | Path | None = None, **trainer_kwargs: Any
) -> dict[str, Any]:
    """Evaluate a model on the test images and on corruptions of them, on one device, and print the result.

    Predictions, metrics and ``robustness.json`` are written into the checkpoint's folder.

    Args:
        model: A model from :func:`load_classifier`.
        data: The data. Its test images are used; with ``test_root``, those of that dataset.
        baseline: Folder of a run that was evaluated in the same way on the same images, to compare with.
        **trainer_kwargs: Arguments of ``lightning.Trainer``.

    Returns:
        Contents of robustness.json: ``clean``, ``corruptions``, ``mean`` (see :func:`robustness_values`) and, with a
        baseline, ``mean_corruption_error``.

    Raises:
        UsageError: The baseline was evaluated on other images or not at all, or files cannot be written.

    Example:
        >>> from animals_pl import AnimalsDataModule, load_classifier
        >>> data = AnimalsDataModule(test_root="OTHER_IMAGES", size=32)
        >>> model = load_classifier("checkpoints/my_animals/version_0/best.ckpt")
        >>> found = evaluate_robustness(model, data)
        class ...
        >>> sorted(found["corruptions"])
        ['blur', 'jpeg', 'night', 'noise', 'occlusion', 'rotation', 'small_subject']
    """
    check_types(model, data)
    check_evaluation_arguments("test", trainer_kwargs)
    values = None if baseline is None else read_baseline(baseline, data)
    kwargs = {**TRAINER_DEFAULTS, "logger": False, "enable_checkpointing": False, **trainer_kwargs, "devices": 1}
    files = EvaluationFiles(data)
    checks = [] if values is None else [BaselineCheck(data, values)]
    trainer = make_trainer([EvaluationSummary(data), files, *checks], **kwargs)
    with quiet(), files.more_files():
        trainer.test(model, datamodule=data, verbose=False)
        return score_corruptions(trainer, model, data, files.evaluation, values)


def read_baseline(baseline: str | Path, data: AnimalsDataModule) -> dict[str, Any]:
    """Contents of the robustness.json of a run for the test images of ``data``.

    Raises:
        UsageError: The file is missing or damaged.
    """
    folder = evaluation_folder(Path(baseline), "test", data.hparams["test_root"])
    return {"run": str(baseline), **read_robustness(folder / ROBUSTNESS_FILE)}


def score_corruptions(
    trainer: L.Trainer,
    model: AnimalClassifier,
    data: AnimalsDataModule,
    evaluation: Evaluation | None,
    baseline: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Classify corrupted versions of the images of a finished test, write ``robustness.json`` and print a table.

    Args:
        trainer: The trainer of the test, with one device.
        model: The model that was tested.
        data: Gives the size, the resize rule and the number of workers.
        evaluation: The test; ``None`` if its files could not be written, which is an error.
        baseline: Result of :func:`read_baseline`.

    Returns:
        Contents of the file.

    Raises:
        UsageError: The baseline was tested on other images, or the evaluation's folder cannot be written.
    """
    if evaluation is None:
        raise UsageError(
            "robustness needs a folder for its files. Copy the run to a writable folder; in Python, test a model from "
            "load_classifier with an AnimalsDataModule."
        )
    if baseline is not None:  # again: trainer.limit_test_batches may have left images out
        require_same_images(evaluation.catalog, baseline)
    names, images = list(CORRUPTIONS), counted(len(evaluation.catalog.paths), "image")
    print(f"robustness: {len(names)} corruptions × {len(SEVERITIES)} severities of {images}")
    start = time.monotonic()
    corrupted = _predict(trainer, model, CorruptedDataset(evaluation.catalog, data.resize, data.size), data.num_workers)
    seconds = time.monotonic() - start
    labels, clean = evaluation.predictions.labels, evaluation.predictions.probabilities.argmax(1)
    values = robustness_values(labels, clean, corrupted, names, len(evaluation.class_names))
    if baseline is not None:
        errors = corruption_errors(values, baseline)
        for name, error in errors.items():
            values["corruptions"][name]["corruption_error"] = error
        values |= {"baseline": baseline["run"], "mean_corruption_error": mean_corruption_error(errors)}
    facts = {key: evaluation.metrics[key] for key in FACTS}
    values = {**facts, "images_sha256": images_digest(evaluation.catalog), **values}
    with atomic_write(evaluation.files / ROBUSTNESS_FILE) as partial:
        partial.write_text(json.dumps(values, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    _print(values)
    file = evaluation.folder / ROBUSTNESS_FILE
    print(printable(f"{seconds:,.0f} s for {len(names) * len(SEVERITIES)} passes over {images}; values: {file}"))
    return values


class BaselineCheck(L.Callback):
    """Raises UsageError at the start of a test on other images than those of the baseline.

    Args:
        data: The datamodule of the test.
        baseline: Result of :func:`read_baseline`.
    """

    def __init__(self, data: AnimalsDataModule, baseline: dict[str, Any]) -> None:
        self.data = data
        self.baseline = baseline

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Compare the images."""
        require_same_images(self.data.catalogs["test"], self.baseline)


def require_same_images(catalog: Catalog, baseline: dict[str, Any]) -> None:
    """Raise UsageError if a baseline was tested on other images than those of a catalog."""
    if baseline.get("images_sha256") != images_digest(catalog):
        raise UsageError(
            f"baseline={baseline['run']!r} was tested on other images. Run test --robustness on one dataset and split "
            "for both, with --data.root and --data.split, or with --data.test_root."
        )


def images_digest(catalog: Catalog) -> str:
    """SHA-256 of the contents and classes of a catalog's images, independent of their paths and order."""
    lines = sorted(
        f"{sha256} {catalog.class_names[label]}\n" for sha256, label in zip(catalog.sha256, catalog.labels, strict=True)
    )
    return hashlib.sha256(os.fsencode("".join(lines))).hexdigest()


class _VersionClassifier(L.LightningModule):
    """Predicts the classes (B, K) of K versions of each image, (B, K, 3, S, S) uint8."""

    def __init__(self, classifier: AnimalClassifier) -> None:
        super().__init__()
        self.classifier = classifier

    def predict_step(self, versions: Tensor, batch_idx: int) -> Tensor:
        output = self.classifier.predict_step((versions.flatten(0, 1), torch.empty(0)), batch_idx)
        return output.probabilities.argmax(1).unflatten(0, versions.shape[:2])


class _VersionData(L.LightningDataModule):
    """Loads the versions of the images one image at a time."""

    def __init__(self, dataset: CorruptedDataset, num_workers: int) -> None:
        super().__init__()
        self.dataset = dataset
        self.num_workers = min(num_workers, len(dataset))

    def predict_dataloader(self) -> DataLoader[Tensor]:
        return DataLoader(self.dataset, batch_size=1, num_workers=self.num_workers, worker_init_fn=start_worker)


def _predict(trainer: L.Trainer, model: AnimalClassifier, dataset: CorruptedDataset, num_workers: int) -> np.ndarray:
    """Predicted classes (N, corruptions, severities)."""
    # A datamodule: with a plain loader, the trainer would set up the datamodule of the test again.
    batches: Any = trainer.predict(_VersionClassifier(model), datamodule=_VersionData(dataset, num_workers))
    classes = torch.cat(batches).cpu().numpy()
    if len(classes) < len(dataset):
        raise UsageError("robustness needs all images. Remove trainer.fast_dev_run and trainer.limit_predict_batches.")
    return classes.reshape(len(classes), len(CORRUPTIONS), len(SEVERITIES))


def _print(values: dict[str, Any]) -> None:
    table = Table("accuracy at severity", box=None, padding=(0, 2), header_style="bold")
    compared = "mean_corruption_error" in values
    columns = [*map(str, SEVERITIES), "mean", "mean macro recall", *(["corruption error"] if compared else [])]
    for column in columns:
        table.add_column(column, justify="right")
    for name, found in values["corruptions"].items():
        numbers = [f"{value:.4f}" for value in (*found["acc"], found["mean_acc"], found["mean_macro_recall"])]
        table.add_row(name.replace("_", " "), *numbers, *([_percent(found["corruption_error"])] if compared else []))
    show(table)
    clean, mean = values["clean"], values["mean"]
    print(f"{'clean':<18} accuracy {clean['acc']:.4f}  macro recall {clean['macro_recall']:.4f}")
    print(f"{'mean over all':<18} accuracy {mean['acc']:.4f}  macro recall {mean['macro_recall']:.4f}")
    if compared:
        error = _percent(values["mean_corruption_error"])
        print(printable(f"{'mCE':<18} {error} of the errors of {values['baseline']}"))


def _percent(error: float | None) -> str:
    return "–" if error is None else f"{error:.1f} %"
