"""Console summary of a run, before and after training."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import EarlyStopping
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.training.callbacks.epoch_table import best_row
from animals_pl.training.callbacks.run_checkpoint import best_checkpoint
from animals_pl.training.classifier import AnimalClassifier

MAX_LISTED = 10
"""Broken images that are listed; further ones are only counted."""


class RunSummary(L.Callback):
    """Prints data, split, net and device before training, the best epoch after it.

    Args:
        data: The run's datamodule. Other datamodules than AnimalsDataModule are not summarised.
        console: Where to print.
    """

    def __init__(self, data: L.LightningDataModule, console: Console) -> None:
        self.data = data
        self.console = console

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print the summary."""
        if not trainer.is_global_zero or not isinstance(pl_module, AnimalClassifier):
            return
        rows = _run_rows(trainer, pl_module)
        if isinstance(self.data, AnimalsDataModule):
            rows = _data_rows(self.data, trainer) | rows
        self.console.print(_grid(rows))
        if isinstance(self.data, AnimalsDataModule):
            self.console.print(_class_table(self.data, pl_module))
            print_left_out(self.data, self.console)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Print why training stopped early, the best epoch and its checkpoint."""
        if not trainer.is_global_zero:
            return
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message and callback.stopped_epoch:
                reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
                self.console.print(f"\nstopped after epoch {callback.stopped_epoch + 1}: {reason}", highlight=False)
        best, checkpoint = best_row(trainer), best_checkpoint(trainer)
        if not best or checkpoint is None:
            return
        metrics = {key.removesuffix("/val"): value for key, value in best.items() if key.endswith("/val")}
        self.console.print(
            f"\nbest epoch {int(best['epoch']) + 1} by {checkpoint.monitor}: "
            + "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())
            + f"\nbest checkpoint: {_short_path(checkpoint.best_model_path)}",
            highlight=False,
            soft_wrap=True,
        )


def print_left_out(data: AnimalsDataModule, console: Console) -> None:
    """List broken images with the reason, and count excluded ones."""
    if data.broken:
        console.print(f"{len(data.broken)} broken images left out:", highlight=False)
        for path, problem in list(data.broken.items())[:MAX_LISTED]:
            console.print(f"  {path}: {problem}", highlight=False, markup=False, soft_wrap=True)
        if len(data.broken) > MAX_LISTED:
            more = len(data.broken) - MAX_LISTED
            console.print(f"  and {more} more; 'python -m animals_pl analyze DIR' lists all", highlight=False)
    if data.excluded:
        console.print(f"{len(data.excluded)} images are excluded by {data.hparams['exclude']}", highlight=False)


def _short_path(path: str) -> str:
    """Path relative to the working directory where it lies below it."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _grid(rows: dict[str, str]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def _data_rows(data: AnimalsDataModule, trainer: L.Trainer) -> dict[str, str]:
    counts = {split: len(catalog.paths) for split, catalog in data.catalogs.items()}
    sizes = dict.fromkeys(map(data.size_schedule, range(max(1, trainer.max_epochs or 1))))
    origin = f"from {data.hparams['split']}" if data.hparams["split"] else f"seed {data.hparams['seed']}"
    return {
        "data": f"{data.root}: {sum(counts.values()):,} images, {len(data.class_names)} classes",
        "split": "  ".join(f"{split} {count:,}" for split, count in counts.items() if count) + f"  ({origin})",
        "groups": _groups(data.catalog.groups),
        "images": f"{' → '.join(map(str, sizes))} px ({data.resize.rule}), batches of {data.hparams['batch_size']}, "
        f"sampling {data.hparams['sampling']}, augmentation {data.hparams['augment']}",
    }


def _groups(groups: np.ndarray) -> str:
    shared = groups[groups >= 0]
    if not len(shared):
        return "none"
    return f"{len(np.unique(shared)):,} groups of {len(shared):,} images, each in one split"


def _run_rows(trainer: L.Trainer, module: AnimalClassifier) -> dict[str, str]:
    hparams = module.hparams
    total = sum(parameter.numel() for parameter in module.net.parameters())
    trainable = sum(parameter.numel() for parameter in module.net.parameters() if parameter.requires_grad)
    kind = "" if total == trainable else f", {hparams['head']} head on a frozen backbone"
    return {
        "net": f"{hparams['net']}{kind}, from {hparams['weights'] or 'random weights'}",
        "parameters": f"{trainable:,} trainable of {total:,}",
        "training": f"{trainer.max_epochs} epochs, {hparams['optimizer']} {hparams['lr']:g} ({hparams['schedule']}), "
        f"loss {hparams['loss']}, class weights {hparams['class_weights']}",
        "device": f"{trainer.strategy.root_device} × {trainer.world_size}, precision {trainer.precision}",
        "run": trainer.default_root_dir,
    }


def _class_table(data: AnimalsDataModule, module: AnimalClassifier) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    splits = [split for split, catalog in data.catalogs.items() if catalog.paths]
    for column in ("class", *splits, "class weight"):
        table.add_column(column, justify="left" if column == "class" else "right")
    counts = {split: data.catalogs[split].counts() for split in splits}
    weights = module.training_loss.weights.tolist()
    for name, weight in zip(data.class_names, weights, strict=True):
        table.add_row(display_name(name), *(str(counts[split][name]) for split in splits), f"{weight:.3f}")
    return table
