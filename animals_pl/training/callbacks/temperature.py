"""Calibrate the model at every validation during training."""

from __future__ import annotations

from typing import Any

import lightning as L
import numpy as np

from animals_pl.evaluation.calibration import calibrated_probabilities, expected_calibration_error
from animals_pl.training.calibration import fit_calibration
from animals_pl.training.callbacks.split_logits import LogitCollector
from animals_pl.training.classifier import AnimalClassifier


class Temperature(L.Callback):
    """Fits temperature and unknown threshold to the validation logits before a checkpoint is saved; logs ``ece/val``.

    Every checkpoint has the values of its own latest validation, see :func:`fit_calibration`. ``ece/val`` is that of
    softmax(logits), without calibration.
    """

    def __init__(self) -> None:
        self._collected = LogitCollector()

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Keep the logits."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._collected.add(outputs, batch)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Fit the temperature and the threshold."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        found = self._collected.gather()
        if found is None or not isinstance(pl_module, AnimalClassifier) or not np.isfinite(found.logits).all():
            return  # the model reports the divergence
        ece = expected_calibration_error(calibrated_probabilities(found.logits), found.labels)
        pl_module.log("ece/val", ece, sync_dist=True)  # the same in all processes
        pl_module.calibration = fit_calibration(pl_module.calibration, found.logits, found.labels)
