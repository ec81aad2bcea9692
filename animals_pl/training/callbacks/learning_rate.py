"""The learning rate as one curve."""

from __future__ import annotations

from typing import Any

import lightning as L


class LearningRate(L.Callback):
    """Logs the head's learning rate, ``lr``, at the start of every epoch.

    Lightning's own monitor logs one rate per parameter group, two for every block of a backbone.
    """

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Log it."""
        metrics = {"lr": trainer.optimizers[0].param_groups[-1]["lr"], "epoch": trainer.current_epoch}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.fit_loop.epoch_loop._batches_that_stepped)
