"""Checkpoints of a run: the best epoch, the latest, and optionally the k best."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from animals_pl.training.callbacks.run_length import epoch_is_complete, is_exactly_resumable
from animals_pl.training.save_interval import SaveInterval


class TopKCheckpoint(ModelCheckpoint):
    """Keeps the k best epochs as ``epoch=07.ckpt``, numbered from 1 as in the console output."""

    def __init__(self, folder: Path, monitor: str, mode: str, save_top_k: int) -> None:
        super().__init__(
            folder,
            filename="{epoch:02d}",
            monitor=monitor,
            mode=mode,
            save_top_k=save_top_k,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def format_checkpoint_name(self, metrics: dict[str, Tensor], *args: Any, **kwargs: Any) -> str:
        """File name of an epoch."""
        return super().format_checkpoint_name({**metrics, "epoch": metrics["epoch"] + 1}, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epochs whose files still exist. Handles a moved run folder and a smaller ``save_top_k``."""
        state = _moved_to(Path(str(self.dirpath)), state_dict)
        scores = state["best_k_models"]
        files = sorted(filter(os.path.isfile, scores), key=scores.__getitem__, reverse=self.mode == "max")
        best = {path: scores[path] for path in files[: self.save_top_k]}
        if best:
            state["kth_best_model_path"], state["kth_value"] = list(best.items())[-1]
        super().load_state_dict({**state, "best_k_models": best})
        self.current_score = state["current_score"]


class RunCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint under a fixed name in the run's folder.

    Lightning's ``save_last`` only writes its file when the best one changes, so a run resumed from it would lose every
    epoch since. A run has two of these callbacks instead: best and last.

    Args:
        folder: The run's folder.
        name: File name without ``.ckpt``.
        monitor: Metric whose best epoch is kept. ``None`` keeps the latest epoch.
        mode: ``min`` or ``max``, as in ModelCheckpoint.
        save_top_k: With 2 or more, the k best epochs are also kept in separate files.
        save_every: Without ``monitor``: also save within epochs.
    """

    def __init__(
        self,
        folder: Path,
        name: str,
        monitor: str | None = None,
        mode: str = "min",
        *,
        save_top_k: int = 1,
        save_every: SaveInterval | None = None,
    ) -> None:
        super().__init__(
            folder,
            filename=name,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=monitor is None,
            enable_version_counter=False,
        )
        # Nested, so that every checkpoint holds the state of both callbacks.
        self.save_every = save_every
        self.top_k = TopKCheckpoint(folder, monitor, mode, save_top_k) if monitor and save_top_k > 1 else None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Resolve the folder."""
        super().setup(trainer, pl_module, stage)
        if self.top_k is not None:
            self.top_k.setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start the interval between checkpoints."""
        super().on_train_start(trainer, pl_module)
        if self.save_every:
            self.save_every.restart(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save the epoch if it is one of the best."""
        if self.top_k is not None:
            self.top_k.on_validation_end(trainer, pl_module)
        super().on_validation_end(trainer, pl_module)
        self._save_mid_epoch(trainer)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save the latest state if training stops within an epoch, or if the interval ``save_every`` has passed."""
        self._save_mid_epoch(trainer)
        if self.save_every and self.save_every.is_over(trainer) and is_exactly_resumable(trainer):
            trainer.save_checkpoint(self.format_checkpoint_name({}))
            self.save_every.restart(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Save after a complete epoch; an interrupted one is saved by :meth:`_save_mid_epoch`."""
        if epoch_is_complete(trainer):
            super().on_train_epoch_end(trainer, pl_module)
            if self.save_every:
                self.save_every.restart(trainer)

    def save(self, trainer: L.Trainer) -> None:
        """Save the current state."""
        trainer.save_checkpoint(self.format_checkpoint_name({}))

    def _save_mid_epoch(self, trainer: L.Trainer) -> None:
        if self.monitor is None and trainer.should_stop and not epoch_is_complete(trainer):
            self.save(trainer)

    def state_dict(self) -> dict[str, Any]:
        """State for resuming: best epochs and their scores."""
        more = {} if self.top_k is None else {"top_k": self.top_k.state_dict()}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best score. Handles a moved run folder."""
        super().load_state_dict(_moved_to(Path(str(self.dirpath)), state_dict))
        self.current_score = state_dict["current_score"]  # Lightning leaves it out
        if self.top_k is None or "top_k" not in state_dict:
            return
        self.top_k.load_state_dict(state_dict["top_k"])
        score = state_dict["top_k"]["best_model_score"]
        if score is not None:  # the top-k file is saved before this callback updates its own best score
            self.best_model_path = self.kth_best_model_path = self.format_checkpoint_name({})
            self.best_k_models = {self.best_model_path: score}
            self.best_model_score = self.kth_value = score


def best_checkpoint(trainer: L.Trainer) -> RunCheckpoint | None:
    """The callback that writes best.ckpt, or ``None``. ``trainer.checkpoint_callback`` may be a user's callback."""
    callbacks = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, RunCheckpoint)]
    return next((callback for callback in callbacks if callback.monitor is not None), None)


def _moved_to(folder: Path, state_dict: dict[str, Any]) -> dict[str, Any]:
    """State of a checkpoint callback with every file in ``folder``."""

    def moved(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    paths = {key: moved(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {moved(path): score for path, score in state_dict["best_k_models"].items()}
    return {**state_dict, **paths, "best_k_models": best, "dirpath": str(folder)}
