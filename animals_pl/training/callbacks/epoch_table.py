"""One row per epoch: on the screen, in metrics.csv and as curves.png."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich.console import Console

from animals_pl.evaluation.figures import curves
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics, write_metrics


class EpochTable(Logger):
    """Gathers what Lightning logs during an epoch into one row.

    Lightning's own CSV logger spreads an epoch over several half-empty rows and deletes the earlier
    epochs when a run is resumed.

    Args:
        folder: The run's folder, where ``metrics.csv`` and ``curves.png`` are written.
        epochs: Number of epochs of the run, for the screen.
        console: Where the rows are printed.
    """

    def __init__(self, folder: Path, epochs: int | None, console: Console) -> None:
        super().__init__()
        self.folder = folder
        self.epochs = epochs
        self.console = console
        self.rows = read_metrics(self.file)
        self.pending: Row = {}
        self.began = 0.0

    @property
    def file(self) -> Path:
        """``metrics.csv`` in the run's folder."""
        return self.folder / "metrics.csv"

    @property
    def name(self) -> None:
        """No name: it writes straight into the run's folder."""

    @property
    def version(self) -> None:
        """No version: it writes straight into the run's folder."""

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Leave the hyper-parameters to config.yaml."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep values until the training's own, which come last, complete the row of their epoch."""
        now = time.perf_counter()
        if not self.pending:  # the learning rate, at the start of the epoch
            self.began = now
        self.pending |= metrics
        if "loss/train" not in metrics:
            return
        epoch = int(metrics["epoch"])
        row = self.pending | {"epoch": epoch, "seconds": round(now - self.began, 2)}
        # A resumed run goes through this epoch again: what came after it is no longer true.
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < epoch] + [row]
        self.pending = {}
        self._print(row)
        write_metrics(self.file, self.rows)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Draw the curves of the epochs that were completed."""
        if self.rows:
            curves(self.rows).savefig(self.folder / "curves.png", dpi=120)

    def _print(self, row: Row) -> None:
        def value(key: str) -> str:
            return f"{row.get(key, math.nan):.4f}"

        total = f"/{self.epochs}" if self.epochs and self.epochs > 0 else ""
        self.console.print(
            f"epoch {int(row['epoch']) + 1:>3}{total}  {int(row.get('image_size', 0))} px  "
            f"loss {value('loss/train')} train {value('loss/val')} val  "
            f"accuracy {value('acc/train')} train {value('acc/val')} val  "
            f"macro recall {value('macro_recall/val')}  {row['seconds']:.1f} s",
            highlight=False,
            soft_wrap=True,
        )


def best_row(trainer: Any) -> Row:
    """Return the row of the epoch that the best checkpoint was saved in; empty before any epoch is complete."""
    table = next((logger for logger in trainer.loggers if isinstance(logger, EpochTable)), None)
    checkpoint = trainer.checkpoint_callback
    if table is None or checkpoint is None or checkpoint.monitor is None:
        return {}
    return best_epoch(table.rows, checkpoint.monitor, checkpoint.mode)
