"""Console summary of an evaluation."""

from __future__ import annotations

import lightning as L
import numpy as np
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.evaluation.metrics import recall_per_class
from animals_pl.training.callbacks.run_summary import print_left_out
from animals_pl.training.classifier import AnimalClassifier


class EvaluationSummary(L.Callback):
    """Prints recall and the most frequent confusion of each class, then the metrics.

    Args:
        data: The datamodule, whose broken images are listed.
        console: Where to print.
    """

    def __init__(self, data: L.LightningDataModule, console: Console) -> None:
        self.data = data
        self.console = console

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
        self.console.print(_class_table(matrix, module.class_names or []))
        if isinstance(self.data, AnimalsDataModule):
            print_left_out(self.data, self.console)
        for key, value in trainer.callback_metrics.items():
            self.console.print(f"{key:<18} {float(value):.4f}", highlight=False)


def _class_table(matrix: np.ndarray, class_names: list[str]) -> Table:
    table = Table(box=None, padding=(0, 2), header_style="bold")
    table.add_column("class")
    table.add_column("images", justify="right")
    table.add_column("recall", justify="right")
    table.add_column("most often predicted instead")
    for label, recall in enumerate(recall_per_class(matrix)):
        if not matrix[label].any():
            continue
        others = matrix[label].copy()
        others[label] = 0
        confused = f"{display_name(class_names[others.argmax()])} ({others.max()})" if others.any() else ""
        table.add_row(display_name(class_names[label]), str(matrix[label].sum()), f"{recall:.4f}", confused)
    return table
