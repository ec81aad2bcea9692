"""Check that the checkpoints of a run fit on its disk."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, WeightAveraging

from animals_pl.errors import MachineError, counted
from animals_pl.training.callbacks.initial_weights import InitialWeights

MOMENTS = 2
"""Tensors that an optimizer keeps for each trained parameter: 2 in Adam and its relatives, fewer in most others."""


def checkpoint_bytes(trainer: L.Trainer, module: L.LightningModule) -> int:
    """Approximate size of a checkpoint: weights, their averages, initial weights, and the state of the optimizer."""
    weights = sum(tensor.nbytes for tensor in module.state_dict().values())
    trained = sum(parameter.nbytes for parameter in module.parameters() if parameter.requires_grad)
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    averages = sum(isinstance(callback, WeightAveraging) for callback in callbacks)
    initial = sum(isinstance(callback, InitialWeights) for callback in callbacks)
    return weights * (1 + averages) + (MOMENTS + initial) * trained


def require_space(folder: Path, trainer: L.Trainer, module: L.LightningModule) -> None:
    """Check that the run's checkpoints fit into the free space, with one more while a file is replaced.

    Raises:
        MachineError: There is not enough space.
    """
    callbacks: list[Any] = [each for each in trainer.checkpoint_callbacks if isinstance(each, ModelCheckpoint)]
    callbacks += [callback.top_k for callback in callbacks if getattr(callback, "top_k", None)]
    files = sum(max(1, getattr(callback, "save_top_k", 1)) for callback in callbacks)
    missing = max(0, files - len(list(folder.glob("*.ckpt"))))
    size, free = checkpoint_bytes(trainer, module), shutil.disk_usage(folder).free
    if callbacks and size * (missing + 1) > free:
        raise MachineError(
            f"{str(folder)!r} has {free / 1e6:,.1f} MB of free space, but {counted(missing + 1, 'checkpoint')} of "
            f"{size / 1e6:,.1f} MB will be saved there. Free disk space, or pass --trainer.default_root_dir DIR."
        )
