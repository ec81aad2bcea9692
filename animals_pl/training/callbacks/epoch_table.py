"""One row per epoch: printed, written to metrics.csv and drawn as curves.png."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L

from animals_pl.evaluation.figures import curves
from animals_pl.training.board import board_of
from animals_pl.training.callbacks.run_checkpoint import best_checkpoint
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics, write_metrics


class EpochTable(L.Callback):
    """Collects the metrics of each epoch from ``trainer.callback_metrics``, for the run's folder and the console.

    Lightning's own CSV logger spreads an epoch over several half-empty rows and deletes the earlier epochs when a run
    is resumed.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / "metrics.csv"
        self.rows = read_metrics(self.file)
        self._began = 0.0
        self._validation: Row = {}  # the best validation of the epoch, by the metric that selects best.ckpt
        self._ended: tuple[int, float] | None = None  # epoch and seconds of an epoch without a row yet
        self._row_of_checkpoint: Row = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the row that a killed run did not write. Lightning skips on_train_start if no epochs are left."""
        row = self._row_of_checkpoint
        if row and trainer.is_global_zero and all(earlier["epoch"] != row["epoch"] for earlier in self.rows):
            if board := board_of(trainer):
                board.start(int(row["epoch"]) + 1)
            self._add_row(row, trainer)
            self._draw_curves()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the clock of an epoch that is resumed mid-epoch."""
        self._began = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the previous epoch's row; its metrics are complete only after all of its end-of-epoch hooks."""
        self._write_row(trainer)
        self._began = time.perf_counter()

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Keep the metrics of the epoch's best validation: ``val_check_interval`` may ask for several."""
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key.endswith("/val")}
        latest = {"epoch": trainer.current_epoch, **metrics}
        checkpoint = best_checkpoint(trainer)
        if self._validation.get("epoch") == latest["epoch"] and checkpoint is not None and checkpoint.monitor:
            latest = best_epoch([self._validation, latest], checkpoint.monitor, checkpoint.mode)
        self._validation = latest

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the epoch's clock."""
        self._ended = (trainer.current_epoch, round(time.perf_counter() - self._began, 2))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the last row and draw the curves."""
        self._write_row(trainer)
        if self.rows and trainer.is_global_zero:
            self._draw_curves()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write the last finished epoch, unless the disk is what failed."""
        with suppress(OSError):
            self.on_train_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Metrics of the epoch's best validation, for a run that is resumed between two validations."""
        return {"validation": self._validation}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the metrics of the epoch's best validation."""
        self._validation = state_dict["validation"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the row of a complete epoch, which is written after the checkpoint, and flush the loggers."""
        if self._ended is not None:
            checkpoint["epoch_row"] = self._row(trainer, *self._ended)
        for logger in trainer.loggers:
            logger.save()

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the row of the checkpoint's epoch."""
        self._row_of_checkpoint = checkpoint.get("epoch_row", {})

    def _row(self, trainer: L.Trainer, epoch: int, seconds: float) -> Row:
        metrics = {key: float(value) for key, value in trainer.callback_metrics.items() if key != "loss"}
        row = {key: value for key, value in metrics.items() if not key.endswith("/val")}
        if self._validation.get("epoch") == epoch:
            row |= self._validation
        return row | {"epoch": epoch, "seconds": seconds}

    def _write_row(self, trainer: L.Trainer) -> None:
        if self._ended is None:
            return
        (epoch, seconds), self._ended = self._ended, None
        row = self._row(trainer, epoch, seconds)
        has_row = any(earlier["epoch"] == epoch for earlier in self.rows)
        if not trainer.is_global_zero or ("loss/train" not in row and has_row):  # resumed after its last batch
            return
        self._add_row(row, trainer)

    def _add_row(self, row: Row, trainer: L.Trainer) -> None:
        # On resume, drop rows from this epoch on.
        self.rows = [earlier for earlier in self.rows if earlier["epoch"] < row["epoch"]] + [row]
        if board := board_of(trainer):
            board.log_epoch(row)  # before metrics.csv: a run killed in between logs the row again
        write_metrics(self.file, self.rows)
        self._print(row, trainer.max_epochs)

    def _draw_curves(self) -> None:
        curves(self.rows).savefig(self.folder / "curves.png", dpi=120)

    def _print(self, row: Row, epochs: int | None) -> None:
        def value(key: str) -> str:
            return f"{row[key]:.4f}" if key in row else "-"

        total = f"/{epochs}" if epochs and epochs > 0 else ""
        print(
            f"epoch {int(row['epoch']) + 1:>3}{total}  {int(row.get('image_size', 0))} px  "
            f"loss {value('loss/train')} train {value('loss/val')} val  "
            f"accuracy {value('acc/train')} train {value('acc/val')} val  "
            f"macro recall {value('macro_recall/val')}  {row['seconds']:.1f} s",
        )


def best_row(trainer: L.Trainer) -> Row:
    """Row of the epoch that best.ckpt was saved in; empty before the first epoch is complete."""
    checkpoint = best_checkpoint(trainer)
    if checkpoint is None or checkpoint.monitor is None:
        return {}
    return best_epoch(rows_of(trainer), checkpoint.monitor, checkpoint.mode)


def rows_of(trainer: L.Trainer) -> list[Row]:
    """Rows of the run's table; none without a table.

    A resumed run has those of the earlier session until it replaces them.
    """
    tables = [callback for callback in trainer.callbacks if isinstance(callback, EpochTable)]  # type: ignore[attr-defined]
    return tables[0].rows if tables else []
