"""TensorBoard: one curve per metric over the epochs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.loggers import TensorBoardLogger
from lightning_utilities.core.rank_zero import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.plugins.hparams import summary_v2 as hp

from animals_pl.evaluation.predictions import SUMMARY
from animals_pl.files import printable
from animals_pl.training.metrics_csv import Row

_METRICS = {"loss": "loss", "accuracy": "acc", "macro recall": "macro_recall", "macro F1": "macro_f1"}
CHARTS = {
    "training and validation": {
        title: ["Multiline", [f"{metric}/train", f"{metric}/val"]] for title, metric in _METRICS.items()
    }
}
"""Layout of the Custom Scalars tab."""

TEST_GROUP = "evaluation/test"
"""Folder in a run's folder with the events of its test."""


class RunTensorBoard(TensorBoardLogger):
    """TensorBoard logger with epochs (from 1) as steps, so that runs with different batch sizes are comparable.

    The hyperparameters are in config.yaml, so ``hparams.yaml`` is not written.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _date_back(Path(self.log_dir))

    def start(self, step: int) -> None:
        """Add the charts, and hide events that an earlier session logged from ``step`` on."""
        self.experiment.add_custom_scalars(CHARTS)
        restart = Event(session_log=SessionLog(status=SessionLog.START))
        self.experiment.file_writer.add_event(restart, step)

    def log_metrics(self, metrics: Mapping[str, Any], step: int | None = None) -> None:
        """Log metrics of user callbacks. Epoch metrics are logged by :meth:`log_epoch` instead."""
        own = {key: value for key, value in metrics.items() if not _is_epoch_metric(key)}
        if own:
            super().log_metrics(own, step)

    def log_epoch(self, row: Row) -> None:
        """Log a row of metrics.csv, and flush it, so that a run that is killed keeps it."""
        step = int(row["epoch"]) + 1
        super().log_metrics({key: value for key, value in row.items() if key != "epoch"}, step)
        self.save()

    def log_results(self, hparams: Mapping[str, bool | int | float | str], best: Row, epoch: int) -> None:
        """Log settings and metrics for the HPARAMS tab, with columns for the metrics that ``test`` logs later.

        Args:
            hparams: The settings.
            best: Metrics of the best epoch.
            epoch: Latest epoch, from 1.
        """
        best = {f"best/{key.removesuffix('/val')}": value for key, value in best.items() if key.endswith("/val")}
        tested = [hp.Metric(f"{metric}/test", TEST_GROUP) for metric in SUMMARY]
        columns = [hp.HParam(name) for name in sorted(hparams)], [*map(hp.Metric, best), *tested]
        # Without a trial of its own, a run with the same settings as another one would share its row.
        trial = "/".join(Path(self.log_dir).absolute().parts[-2:])
        for summary in (hp.hparams_config_pb(*columns), hp.hparams_pb(hparams, printable(trial))):
            self.experiment.file_writer.add_summary(summary)
        for tag, value in best.items():
            self.experiment.add_scalar(tag, value, epoch)

    def save(self) -> None:
        """Flush the events."""
        self.experiment.flush()


@rank_zero_only
def _date_back(folder: Path) -> None:
    """Rename event files dated in the future (the clock may have been set back), since TensorBoard sorts by name."""
    now = int(time.time())
    files = sorted(folder.glob("events.out.tfevents.*"))
    for number, file in enumerate(files, start=now - len(files)):
        prefix, _, rest = file.name.removeprefix("events.out.tfevents.").partition(".")
        if prefix.isdecimal() and int(prefix) >= now:
            file.rename(file.with_name(f"events.out.tfevents.{number:010d}.{rest}"))


def board_of(trainer: L.Trainer) -> RunTensorBoard | None:
    """TensorBoard logger of the run; ``None`` if it has none, and on ranks other than 0."""
    boards = [logger for logger in trainer.loggers if isinstance(logger, RunTensorBoard)]
    return boards[0] if boards and trainer.is_global_zero else None


def _is_epoch_metric(key: str) -> bool:
    return key.endswith(("/train", "/val")) or key in {"epoch", "lr", "image_size"}


def run_loggers(folder: Path, given: Any) -> Any:
    """TensorBoard and the loggers given; none with ``logger=False``."""
    if given is False:
        return False
    more = given if isinstance(given, list) else [given]
    loggers = [logger for logger in more if not isinstance(logger, bool | None)]
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        warnings.warn(
            f"TensorBoard cannot write to {str(folder)!r}, which is not UTF-8; metrics.csv has the metrics",
            stacklevel=3,
        )
        return loggers
    board = RunTensorBoard(folder.parent.parent, folder.parent.name, folder.name, default_hp_metric=False)
    return [board, *loggers]
