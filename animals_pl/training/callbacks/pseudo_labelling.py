"""Label the images of ``data.unlabelled`` with a head trained on the labelled ones, and train on both."""

from __future__ import annotations

import copy
import hashlib
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from rich.table import Table
from torch import Tensor
from torch.nn import functional as F

from animals_pl.data.catalog import Catalog, display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.tables import read_rows, write_table
from animals_pl.data.unlabelled import find_unlabelled, require_unchanged
from animals_pl.errors import UsageError, counted
from animals_pl.files import show
from animals_pl.training.callbacks.feature_cache import FeatureCache, FeatureDataset, split_features
from animals_pl.training.callbacks.tuning import Tuner
from animals_pl.training.classifier import FEATURE_DIMS, AnimalClassifier
from animals_pl.training.extraction import Extractor
from animals_pl.training.head import head_logits, train_best_head
from animals_pl.training.pseudo_labels import PseudoLabels, label_images

PSEUDO_LABELS = "pseudo_labels.csv"
"""Columns: ``path`` below ``data.unlabelled``, ``sha256``, ``label`` (empty: not used), ``probability`` of the most
probable class, and ``left_out``, why an image is not used."""

UNKNOWN, UNSURE = "unknown", "below the threshold of its class"
"""Why an image gets no pseudo-label, besides the reasons of :mod:`animals_pl.data.unlabelled`."""


NEEDS_FEATURES = (
    "data.unlabelled needs the cached features of a frozen backbone. Set model.freeze=true, cache_features=true, "
    "data.augment=none, model.mixup=0 and model.cutmix=0, and use no progressive resizing; or remove data.unlabelled."
)


class PseudoLabelling(L.Callback):
    """Adds images of ``data.unlabelled`` to the training images, with pseudo-labels.

    The teacher is a head trained on the labelled images with the loss, optimizer and schedule of the run, for the
    number of epochs with the lowest validation loss. It labels the unlabelled images
    (:func:`~animals_pl.training.pseudo_labels.label_images`). The run then trains a head on the labelled and the
    pseudo-labelled images, from the same initial weights. A resumed run reads its pseudo-labels from its folder.

    Args:
        data: The run's datamodule.

    Raises:
        UsageError: The training images are not replaced by features, there is no number of epochs, or ``tune`` is set;
            or the pseudo-labels or images of a resumed run are missing or have changed.
    """

    def __init__(self, data: AnimalsDataModule) -> None:
        self.data = data
        self.digest = ""
        self.teacher_loss = self.best_loss = math.inf

    def setup(self, trainer: L.Trainer, pl_module: AnimalClassifier, stage: str) -> None:  # type: ignore[override]
        """Check the settings, before anything is computed."""
        module, data = pl_module.hparams, self.data.hparams
        caches = any(isinstance(callback, FeatureCache) for callback in trainer.callbacks)  # type: ignore[attr-defined]
        if not (caches and module["freeze"] and data["augment"] == "none" and not module["mixup"] + module["cutmix"]):
            raise UsageError(NEEDS_FEATURES)
        if any(isinstance(callback, Tuner) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise UsageError(
                "data.unlabelled cannot be combined with a search for model.lr or data.batch_size. Search without it, "
                "and pass the value."
            )
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        if trainer.max_steps > 0 or (trainer.max_epochs or 0) <= 0:
            raise UsageError(
                "data.unlabelled needs a fixed number of epochs. Set trainer.max_epochs (trainer.max_time may be given "
                "as well), and remove trainer.max_steps."
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: AnimalClassifier) -> None:  # type: ignore[override]
        """Train the teacher, label the images, and add them to the training images."""
        extractor = _extractor(trainer)
        if trainer.ckpt_path is None:
            table = self._label(trainer, pl_module, extractor)
            if not trainer.fast_dev_run:  # type: ignore[attr-defined]
                self._write(table, Path(trainer.default_root_dir) / PSEUDO_LABELS, trainer)
        else:
            table = self._read(Path(trainer.ckpt_path).parent / PSEUDO_LABELS)
        chosen = table[table["label"] != ""]
        label_of = {name: label for label, name in enumerate(self.data.class_names)}
        labels = np.array([label_of[name] for name in chosen["label"]], dtype=np.int64)
        if not len(chosen):
            warnings.warn("no unlabelled image gets a pseudo-label; only labelled images are used", stacklevel=2)
        images = Catalog(self.root, self.data.class_names, chosen["path"].tolist(), labels, chosen["sha256"].tolist())
        labelled: Any = self.data.datasets["train"]
        self.data.datasets["train"] = FeatureDataset(
            torch.cat([labelled.features, self._features("pseudo-labelled", images, extractor)[:, 0]]),
            torch.cat([labelled.labels, torch.from_numpy(labels)]),
        )
        self.data.add_pseudo_labelled(images)
        pl_module.set_data(self.data.info)
        pl_module.set_class_counts(self.data.info)
        if trainer.is_global_zero:
            _print(table, self.data.class_names, labelled.labels.numpy(), labels, pl_module.training_loss.weights)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the lowest validation loss."""
        self.best_loss = min(self.best_loss, float(trainer.callback_metrics.get("loss/val", math.inf)))

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Warn if the unlabelled images did harm."""
        if trainer.is_global_zero and self.teacher_loss < self.best_loss < math.inf:
            warnings.warn(
                f"unlabelled images did not help: the lowest validation loss is {self.best_loss:.4f}, that of the "
                f"teacher, without them, {self.teacher_loss:.4f}. Train without data.unlabelled",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """SHA-256 of :data:`PSEUDO_LABELS`, and the lowest validation losses of the teacher and of the run."""
        return {"sha256": self.digest, "teacher_loss": self.teacher_loss, "best_loss": self.best_loss}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the state."""
        self.digest, self.teacher_loss, self.best_loss = (
            state_dict[key] for key in ("sha256", "teacher_loss", "best_loss")
        )

    @property
    def root(self) -> Path:
        """The folder of unlabelled images."""
        return Path(self.data.hparams["unlabelled"])

    def _label(self, trainer: L.Trainer, module: AnimalClassifier, extractor: Extractor) -> pd.DataFrame:
        """Label the images. The table is that of :data:`PSEUDO_LABELS`."""
        rules = {key: self.data.hparams[key] for key in ("group_by", "test_root")}
        found = find_unlabelled(self.root, self.data.catalog, self.data.split, **rules)
        images = found.usable
        table = pd.DataFrame({"path": list(images.paths), "sha256": list(images.sha256)})
        features = self._features("unlabelled", images, extractor, hflip=module.hparams["tta"] == "hflip")
        labels, probabilities, is_unknown = self._teach(trainer, module, features)
        table["label"] = ["" if label < 0 else self.data.class_names[label] for label in labels]
        table["probability"] = ["" if np.isnan(each) else f"{each:.4f}" for each in probabilities]
        table["left_out"] = np.select([is_unknown, labels < 0], [UNKNOWN, UNSURE], "")
        left_out = pd.DataFrame({"path": list(found.left_out), "left_out": list(found.left_out.values())})
        table = pd.concat([table, left_out], ignore_index=True).fillna("")
        return trainer.strategy.broadcast(table)  # another machine may round differently

    def _write(self, table: pd.DataFrame, file: Path, trainer: L.Trainer) -> None:
        if trainer.is_global_zero:
            write_table(table, file)
            self.digest = hashlib.sha256(file.read_bytes()).hexdigest()
        self.digest = trainer.strategy.broadcast(self.digest)

    def _read(self, file: Path) -> pd.DataFrame:
        """Pseudo-labels of the run that is resumed."""
        if not file.is_file() or hashlib.sha256(file.read_bytes()).hexdigest() != self.digest:
            raise UsageError(
                f"{str(file)!r} is missing, or is not the file that the run was trained with. Restore it, or start a "
                "new run."
            )
        table = pd.DataFrame(read_rows(file, "pseudo-labels", "path", "sha256", "label", "left_out"))
        chosen = table[table["label"] != ""]
        require_unchanged(self.root, chosen["path"].tolist(), chosen["sha256"].tolist())
        return table

    def _teach(self, trainer: L.Trainer, module: AnimalClassifier, features: Tensor) -> PseudoLabels:
        """Train the teacher, and label images by their features (N, V, F)."""
        teacher = copy.deepcopy(module).cpu().float()
        val_features = self.data.datasets["val"].features  # type: ignore[attr-defined]
        if val_features.dim() == FEATURE_DIMS:
            val_features = val_features[:, None]
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # see feature_cache.SMALL_HEAD
        try:
            epochs = train_best_head(
                teacher,
                self.data.datasets["train"].features,  # type: ignore[attr-defined]
                self._targets("train"),
                val_features,
                self._targets("val"),
                epochs=trainer.max_epochs,
                batch_size=self.data.hparams["batch_size"] * trainer.world_size,
                seed=self.data.hparams["seed"],
            )
        finally:
            torch.set_num_threads(threads)
        targets, logits = torch.from_numpy(self._targets("val")), head_logits(teacher, val_features)
        self.teacher_loss = F.cross_entropy(logits, targets).item()
        if trainer.is_global_zero:
            accuracy = (logits.argmax(1) == targets).float().mean()
            print(f"teacher: epoch {epochs}, validation loss {self.teacher_loss:.4f}, accuracy {accuracy:.4f}")
        return label_images(teacher, features, val_features, self._targets("val"))

    def _features(self, split: str, images: Catalog, extractor: Extractor, hflip: bool = False) -> Tensor:
        """Features (N, V, F) of images outside the dataset, with those of the flipped images if asked."""
        data = self.data
        data.catalogs[split] = images
        data.datasets[split] = data.dataset(split)
        try:
            features = split_features(data, split, extractor, hflip)
        finally:
            del data.catalogs[split], data.datasets[split]
        return features if hflip else features[:, None]

    def _targets(self, split: str) -> np.ndarray:
        return self.data.datasets[split].labels.numpy()  # type: ignore[attr-defined]


def _extractor(trainer: L.Trainer) -> Extractor:
    """The extractor of the run's feature cache."""
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    for callback in callbacks:
        if isinstance(callback, FeatureCache) and callback.trains_on_features and callback.extractor is not None:
            return callback.extractor
    raise UsageError(NEEDS_FEATURES)


def _print(table: pd.DataFrame, names: Sequence[str], before: np.ndarray, added: np.ndarray, weights: Tensor) -> None:
    """Print how many images got a label, why the others did not, and the images of each class."""
    print(f"pseudo-labels: {len(added):,} of {counted(len(table), 'unlabelled image')}")
    for reason, count in table["left_out"][table["left_out"] != ""].value_counts().items():
        print(f"  {count:,} left out: {reason}")
    grid = Table("class", box=None, padding=(0, 2), header_style="bold")
    for column in ("labelled", "pseudo-labelled", "class weight"):
        grid.add_column(column, justify="right")
    counts = (np.bincount(labels, minlength=len(names)) for labels in (before, added))
    for name, *numbers, weight in zip(names, *counts, weights.tolist(), strict=True):
        grid.add_row(display_name(name), *(f"{number:,}" for number in numbers), f"{weight:.3f}")
    show(grid)
