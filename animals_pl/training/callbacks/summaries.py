"""Console summaries of a run and of an evaluation."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from rich.table import Table
from scipy.sparse import csr_array

from animals_pl.data.catalog import MAX_CLASSES, display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import counted
from animals_pl.evaluation.metrics import recall_per_class
from animals_pl.files import printable, show
from animals_pl.training.callbacks.epoch_table import best_row
from animals_pl.training.callbacks.run_checkpoint import best_checkpoint
from animals_pl.training.callbacks.run_length import length, why_stopped
from animals_pl.training.classifier import AnimalClassifier

MAX_LISTED = 10
"""Maximum number of broken images listed."""


class RunSummary(L.Callback):
    """Prints data, split, net and device before training, the best epoch after it.

    Only an AnimalsDataModule is summarised.
    """

    def __init__(self, data: L.LightningDataModule) -> None:
        self.data = data

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the summary."""
        if not trainer.is_global_zero or not isinstance(pl_module, AnimalClassifier):
            return
        rows = _run_rows(trainer, pl_module)
        if isinstance(self.data, AnimalsDataModule):
            rows = _data_rows(self.data, trainer) | rows
        grid = Table.grid(padding=(0, 2))
        grid.add_column()
        grid.add_column(overflow="fold")
        for name, value in rows.items():
            grid.add_row(name, printable(value))
        show(grid)
        if isinstance(self.data, AnimalsDataModule):
            show(_weights_table(self.data, pl_module))
            print_left_out(self.data)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print why training stopped early, the best epoch and its checkpoint."""
        if not trainer.is_global_zero:
            return
        if reason := why_stopped(trainer):
            print(f"\n{reason}")
        best, checkpoint = best_row(trainer), best_checkpoint(trainer)
        if checkpoint is None:
            return
        if not best:
            print("\nno epoch was validated, so there is no best.ckpt; last.ckpt is the latest epoch")
            return
        metrics = {key.removesuffix("/val"): value for key, value in best.items() if key.endswith("/val")}
        metrics.pop("ece", None)  # uncalibrated, so it does not describe the saved model
        print(
            f"\nbest epoch {int(best['epoch']) + 1} by {checkpoint.monitor}: "
            + "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())
            + f"\nbest checkpoint: {printable(_short_path(checkpoint.best_model_path))}",
        )


class EvaluationSummary(L.Callback):
    """Prints recall and the most frequent confusion of each class, broken images and the metrics."""

    def __init__(self, data: L.LightningDataModule) -> None:
        self.data = data

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the result of ``validate``."""
        self._print(trainer, pl_module, "val")

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the result of ``test``."""
        self._print(trainer, pl_module, "test")

    def _print(self, trainer: L.Trainer, module: L.LightningModule, split: str) -> None:
        if not isinstance(module, AnimalClassifier):
            return
        matrix = (module.val_metrics if split == "val" else module.test_metrics).matrix()  # gathered from all processes
        if not trainer.is_global_zero:
            return
        show(_recall_table(matrix, module.class_names or []))
        if isinstance(self.data, AnimalsDataModule):
            print_left_out(self.data)
        for key, value in trainer.callback_metrics.items():
            print(f"{key:<18} {float(value):.4f}")


def print_left_out(data: AnimalsDataModule) -> None:
    """List broken images with their problems, and count excluded ones."""
    if data.broken:
        print(f"{counted(len(data.broken), 'broken image')}:")
        _print_problems(data.broken, "'python -m animals_pl analyze DIR' lists all")
    if data.excluded:
        print(printable(f"{counted(len(data.excluded), 'image')} excluded by {data.hparams['exclude']}"))


def print_predicted(data: AnimalsDataModule, output: str) -> None:
    """List broken images with their problems, and count the rows of the predictions' file."""
    predicted = data.catalogs["predict"].paths
    missing = len(data.broken.keys() - set(predicted))
    if data.broken:
        in_part = len(data.broken) - missing
        print(f"{counted(len(data.broken), 'broken image')}, {missing} not predicted, {in_part} decoded in part:")
        _print_problems(data.broken, f"the column 'problem' of {output} lists all")
    blank = f" and {counted(missing, 'row')} without a prediction" if missing else ""
    print(f"{counted(len(predicted), 'prediction')}{blank} written to {printable(output)}")


def _print_problems(broken: dict[str, str], remedy: str) -> None:
    for path, problem in list(broken.items())[:MAX_LISTED]:
        print(printable(f"  {path}: {problem}"))
    if len(broken) > MAX_LISTED:
        print(printable(f"  and {len(broken) - MAX_LISTED} more; {remedy}"))


def _short_path(path: str) -> str:
    """Path relative to the working directory if it is inside."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _data_rows(data: AnimalsDataModule, trainer: L.Trainer) -> dict[str, str]:
    counts = {split: len(catalog.paths) for split, catalog in data.catalogs.items()}
    sizes = dict.fromkeys(map(data.size_schedule, range(max(1, trainer.max_epochs or 1))))
    shared = data.catalog.groups[data.catalog.groups >= 0]
    groups = f"{counted(len(np.unique(shared)), 'group')} of {len(shared):,} images"
    if not data.catalog.split_folders:
        groups += ", each in one split"
    return {
        "data": f"{data.root}: {sum(counts.values()):,} images, {len(data.class_names)} classes",
        "split": "  ".join(f"{split} {count:,}" for split, count in counts.items() if count)
        + f"  ({data.split_origin})",
        "groups": groups if len(shared) else "none",
        "images": f"{' → '.join(map(str, sizes))} px ({data.resize.rule}), batches of {data.hparams['batch_size']}, "
        f"sampling {data.hparams['sampling']}, augmentation {data.hparams['augment']}",
    }


def _run_rows(trainer: L.Trainer, module: AnimalClassifier) -> dict[str, str]:
    hparams = module.hparams
    total = sum(parameter.numel() for parameter in module.net.parameters())
    trainable = sum(parameter.numel() for parameter in module.net.parameters() if parameter.requires_grad)
    kind = "" if total == trainable else f", {hparams['head']} head on a frozen backbone"
    return {
        "net": f"{hparams['net']}{kind}, from {hparams['weights'] or 'random weights'}",
        "parameters": f"{trainable:,} trainable of {total:,}",
        "training": f"{length(trainer)}, {hparams['optimizer']} {hparams['lr']:g} ({hparams['schedule']}), "
        f"loss {hparams['loss']}, class weights {hparams['class_weights']}",
        "device": f"{trainer.strategy.root_device} × {trainer.world_size}, precision {trainer.precision}",
        "run": trainer.default_root_dir,
    }


def _weights_table(data: AnimalsDataModule, module: AnimalClassifier) -> Table:
    counts = {split: catalog.counts() for split, catalog in data.catalogs.items() if catalog.paths}
    table = _class_table(*counts, "class weight")
    names, weights = data.class_names, module.training_loss.weights.tolist()
    images = np.array([counts["train"][name] for name in names])
    for label in _shown(table, images, "fewest training images"):
        numbers = (str(count[names[label]]) for count in counts.values())
        table.add_row(display_name(names[label]), *numbers, f"{weights[label]:.3f}")
    return table


def _recall_table(matrix: csr_array, class_names: list[str]) -> Table:
    table = _class_table("images", "recall")
    table.add_column("most often predicted instead")
    recalls = recall_per_class(matrix)
    for label in _shown(table, recalls, "lowest recall"):
        others = matrix[label].toarray()
        images, others[label] = others.sum(), 0
        confused = f"{display_name(class_names[others.argmax()])} ({others.max()})" if others.any() else ""
        table.add_row(display_name(class_names[label]), str(images), f"{recalls[label]:.4f}", confused)
    return table


def _class_table(*numbers: str) -> Table:
    """Table with one row per class and columns of numbers."""
    table = Table("class", box=None, padding=(0, 2), header_style="bold")
    for column in numbers:
        table.add_column(column, justify="right")
    return table


def _shown(table: Table, values: np.ndarray, what: str) -> list[int]:
    """Class indices to show: all whose value is not NaN, or the MAX_CLASSES lowest (noted in the table title)."""
    labels = np.flatnonzero(~np.isnan(values))
    if len(labels) > MAX_CLASSES:
        table.title, table.title_justify = f"the {MAX_CLASSES} of {len(labels):,} classes with the {what}", "left"
        labels = labels[np.argsort(values[labels], kind="stable")[:MAX_CLASSES]]
    return labels.tolist()
