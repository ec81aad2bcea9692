"""Train the variants of a study on cross-validation folds and keep their predictions."""

from __future__ import annotations

import contextlib
import hashlib
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch

from animals_pl.data.catalog import Catalog
from animals_pl.data.loading import load_dataset
from animals_pl.data.tables import write_table
from animals_pl.errors import UsageError, one_line
from animals_pl.experiments.folds import Outcome, draw_folds
from animals_pl.experiments.study import Study, as_yaml, read_yaml
from animals_pl.files import atomic_write, require_writable
from animals_pl.lightning_cli import run


class SavePredictions(L.Callback):
    """Write the ``classes`` (N,) of the last validation epoch and the training time in ``seconds`` to a file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.batches: list[torch.Tensor] = []
        self.start = 0.0

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock."""
        self.start = time.perf_counter()

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Discard the previous epoch's predictions."""
        self.batches = []

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Collect the predictions of a batch."""
        self.batches.append(outputs.argmax(1).cpu())

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file."""
        seconds = time.perf_counter() - self.start
        with atomic_write(self.file) as partial, partial.open("wb") as stream:
            np.savez(stream, classes=torch.cat(self.batches).numpy(), seconds=seconds)


@dataclass(frozen=True)
class StudyData:
    """Images, fold assignment (N,) and results folder shared by all fits of a study."""

    root: Path
    catalog: Catalog
    fold_of: np.ndarray
    folder: Path

    def predictions(self, variant: str, fold: int) -> Path:
        """File with the predictions of a variant on a fold."""
        return self.folder / f"{variant}-fold{fold}.npz"


def prepare_folds(study: Study, root: Path, folds: int, seed: int, output: Path) -> StudyData:
    """Load the images, draw the folds and create the results folder.

    Raises:
        UsageError: The images cannot be loaded or split into folds.
    """
    require_writable(output, folder=True)
    if not 0 <= seed < 2**32:
        raise UsageError(f"seed={seed} is out of range. Choose a number from 0 to {2**32 - 1}.")
    root = root.resolve()
    catalog = load_dataset(root, argument="root").usable
    if catalog.split_folders:
        raise UsageError(
            f"root={str(root)!r} has the split folders {', '.join(catalog.split_folders)}, but "
            "cross-validation draws its own folds. Pass one of the folders."
        )
    fold_of = draw_folds(catalog, folds, seed)
    folder = output / f"{study.name}-{study.net}-{folds}-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return StudyData(root, catalog, fold_of, folder)


def fit_fold(study: Study, variant: str, data: StudyData, fold: int) -> None:
    """Train a variant on all folds but one and predict the held-out fold, unless the result exists.

    Raises:
        UsageError: The fit failed.
    """
    split = data.folder / f"fold{fold}.csv"
    splits = np.where(data.fold_of == fold, "val", "train")
    write_table(pd.DataFrame({"path": data.catalog.paths, "split": splits}), split)
    predictions = data.predictions(variant, fold)
    args = _arguments(study, variant, data, split)
    # A variant may keep its name when its settings change.
    facts = "\n".join(
        [*args, study.config.read_text(encoding="utf-8"), split.read_text(encoding="utf-8", errors="surrogateescape")]
    )
    digest = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()
    done = predictions.with_suffix(".sha256")
    if predictions.exists() and done.exists() and done.read_text() == digest:
        return
    log = predictions.with_suffix(".txt")
    with (
        log.open("w", encoding="utf-8", errors="backslashreplace") as stream,
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
    ):
        try:
            run(args, callbacks=[SavePredictions(predictions)])
        except UsageError as error:
            raise UsageError(f"variant {variant!r} failed: {one_line(error)}") from error
    with atomic_write(done) as partial:
        partial.write_text(digest)


def _arguments(study: Study, variant: str, data: StudyData, split: Path) -> list[str]:
    given = {**study.options, **study.variants[variant]}
    if given.get("refit"):
        raise UsageError(
            f"variant {variant!r}: refit=true has no effect in cross-validation, which predicts the validation images. "
            "Remove it, or add scarce to the study."
        )
    settings: dict[str, Any] = {
        **given,
        "data.root": data.root,
        "data.split": split,
        "trainer.default_root_dir": data.folder / "runs",
        "trainer.enable_checkpointing": False,
        "name": variant,
    }
    if "refit" in read_yaml(study.config, "config"):
        settings["refit"] = False
    args = ["fit", "--config", str(study.config)]
    for key, value in settings.items():
        args += [f"--{key}", str(value) if isinstance(value, str | Path) else as_yaml(value)]
    return args


def load_outcome(variant: str, data: StudyData, count: int) -> Outcome:
    """Pool the predictions of the first ``count`` folds."""
    predicted, seconds = np.full(len(data.fold_of), -1), []
    for fold in range(count):
        kept = np.load(data.predictions(variant, fold))
        # Older results are logits (N, C).
        predicted[data.fold_of == fold] = kept["classes"] if "classes" in kept else kept["logits"].argmax(1)
        seconds.append(float(kept["seconds"]))
    return Outcome(predicted, float(np.median(seconds)))
