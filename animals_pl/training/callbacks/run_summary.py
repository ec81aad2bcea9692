"""What a person reads before and after a training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from lightning.pytorch.callbacks import RichProgressBar
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import display_name
from animals_pl.training.callbacks.epoch_table import best_row


class RunSummary(L.Callback):
    """Prints data, split, net and device before the training.

    Args:
        console: Where to print.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Print the summary."""
        if trainer.is_global_zero:
            self.console.print(_summary(trainer, pl_module))
            self.console.print(_class_table(trainer, pl_module))
            print_left_out(trainer.datamodule, self.console)


class EpochBar(RichProgressBar):
    """Lightning's progress bar without the version number, which the summary has told already."""

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """Return what stands beside the bar: the loss of the batch."""
        return {key: value for key, value in super().get_metrics(*args).items() if key != "v_num"}


MOST_NAMES = 10
"""How many broken images are named before the rest is only counted."""


def print_left_out(data: Any, console: Console) -> None:
    """Name the images that are broken, with the reason, and count those that were excluded."""
    if data.broken:
        console.print(f"{len(data.broken)} broken images are left out:", highlight=False)
        for path, problem in list(data.broken.items())[:MOST_NAMES]:
            console.print(f"  {path}: {problem}", highlight=False, markup=False, soft_wrap=True)
        if len(data.broken) > MOST_NAMES:
            more = len(data.broken) - MOST_NAMES
            console.print(f"  and {more} more; 'python -m animals_pl analyze DIR' lists them all", highlight=False)
    if data.excluded:
        console.print(f"{len(data.excluded)} images are excluded by {data.hparams.exclude}", highlight=False)


def print_best(trainer: Any, console: Console) -> None:
    """Say where the best checkpoint is, and its metrics."""
    best = best_row(trainer)
    if not best:
        return
    checkpoint = trainer.checkpoint_callback
    metrics = {key.removesuffix("/val"): value for key, value in best.items() if key.endswith("/val")}
    console.print(
        f"\nbest epoch {int(best['epoch']) + 1} by {checkpoint.monitor}: "
        + "  ".join(f"{key.replace('_', ' ')} {value:.4f}" for key, value in metrics.items())
        + f"\nbest checkpoint: {short_path(checkpoint.best_model_path)}",
        highlight=False,
        soft_wrap=True,
    )


def short_path(path: str) -> str:
    """Return a path as short as it can be typed from here."""
    here = Path.cwd()
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def _summary(trainer: Any, module: Any) -> Table:
    data, hparams = trainer.datamodule, module.hparams
    total = sum(parameter.numel() for parameter in module.net.parameters())
    trainable = sum(parameter.numel() for parameter in module.net.parameters() if parameter.requires_grad)
    splits = {split: len(catalog.paths) for split, catalog in data.catalogs.items()}
    size = " → ".join(str(size) for size in dict.fromkeys(map(data.size_schedule, range(max(1, trainer.max_epochs)))))
    kind = "" if total == trainable else f", {hparams['head']} head on a frozen backbone"
    start = hparams["weights"] or "random weights"
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(overflow="fold")
    for key, value in {
        "data": f"{data.root}: {sum(splits.values()):,} images, {len(data.class_names)} classes",
        "split": "  ".join(f"{split} {count:,}" for split, count in splits.items() if count)
        + (f"  (from {data.hparams.split})" if data.hparams.split else f"  (seed {data.hparams.seed})"),
        "groups": _groups(data.catalog.groups),
        "images": f"{size} px ({data.resize.rule}), batches of {data.hparams.batch_size}, "
        f"sampling {data.hparams.sampling}, augmentation {data.hparams.augment}",
        "net": f"{hparams['net']}{kind}, from {start}",
        "parameters": f"{trainable:,} trainable of {total:,}",
        "training": f"{trainer.max_epochs} epochs, {hparams['optimizer']} {hparams['lr']:g} ({hparams['schedule']}), "
        f"loss {hparams['loss']}, class weights {hparams['class_weights']}",
        "device": f"{trainer.strategy.root_device} × {trainer.world_size}, precision {trainer.precision}",
        "run": trainer.default_root_dir,
    }.items():
        table.add_row(key, str(value), style=None)
    return table


def _groups(groups: np.ndarray) -> str:
    shared = groups[groups >= 0]
    if not len(shared):
        return "none"
    return f"{len(np.unique(shared)):,} of images that belong together ({len(shared):,} in all), none divided"


def _class_table(trainer: Any, module: Any) -> Table:
    data = trainer.datamodule
    table = Table(box=None, padding=(0, 2), header_style="bold")
    splits = [split for split, catalog in data.catalogs.items() if catalog.paths]
    for column in ("class", *splits, "class weight"):
        table.add_column(column, justify="left" if column == "class" else "right")
    counts = {split: data.catalogs[split].counts() for split in splits}
    factors = module.training_loss.weights.tolist()
    for name, factor in zip(data.class_names, factors, strict=True):
        table.add_row(display_name(name), *(str(counts[split][name]) for split in splits), f"{factor:.3f}")
    return table
