"""Read checkpoints. Does not import Lightning, which takes seconds."""

from __future__ import annotations

import shlex
import zipfile
from pathlib import Path
from typing import Any

import torch

from animals_pl import __version__
from animals_pl.data.resize import PREPROCESSING
from animals_pl.errors import UsageError

LAST_CHECKPOINT, BEST_CHECKPOINT, REFIT_CHECKPOINT = "last.ckpt", "best.ckpt", "refit.ckpt"
"""File names of the checkpoints to resume from, of the best epoch, and of the refit."""

SET_BY_DATA = ("class_names", "input_size")
"""Arguments of ``AnimalClassifier`` that a new run takes from the data."""

VERSIONS = ("animals_pl_version", "pytorch-lightning_version")
PORTABLE = ("epoch", "global_step", "state_dict", "calibration", "refit", *VERSIONS)
"""Entries of a checkpoint that are passed on as they are."""


def load_checkpoint(ckpt_path: str | Path, *, mmap: bool = False, verify: bool = True) -> dict[str, Any]:
    """Read a checkpoint of this project on the CPU.

    Args:
        ckpt_path: The file.
        mmap: Map the tensors instead of reading them, for settings only.
        verify: Compare every record of the file with its checksum, see :func:`damaged_record`.

    Raises:
        UsageError: The file is missing, damaged, not a checkpoint of this project, or written by an older version.
    """
    remedy = "Use the best.ckpt or last.ckpt of a run below checkpoints/."
    if not isinstance(ckpt_path, str | Path) or not Path(ckpt_path).is_file():
        raise UsageError(f"ckpt_path={str(ckpt_path)!r} is not a file. {remedy}")
    try:
        damaged = damaged_record(Path(ckpt_path)) if verify else None
        checkpoint = {} if damaged else torch.load(ckpt_path, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:  # torch.load may raise any exception
        raise UsageError(
            f"ckpt_path={str(ckpt_path)!r} is not a checkpoint ({type(error).__name__}). {remedy}"
        ) from error
    if damaged:
        raise UsageError(f"ckpt_path={str(ckpt_path)!r} is damaged (checksum of {damaged}). {remedy}")
    if not isinstance(checkpoint, dict) or "class_names" not in checkpoint.get("hyper_parameters", {}):
        raise UsageError(f"ckpt_path={str(ckpt_path)!r} is not a checkpoint of animals_pl. {remedy}")
    if "animals_pl_version" not in checkpoint:
        raise UsageError(
            f"ckpt_path={str(ckpt_path)!r} was written by animals_pl 0.1, which this version ({__version__}) cannot "
            "read. Train again, or install animals_pl 0.1."
        )
    return checkpoint


def damaged_record(file: Path) -> str | None:
    """Name of the first record that differs from its CRC-32, or ``None``.

    ``torch.save`` writes a zip archive with a CRC-32 of every record, which ``torch.load`` does not check. Files of
    torch's older format, and those written with ``torch.serialization.set_crc32_options(False)``, have no checksums.
    """
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return archive.testzip() if any(record.CRC for record in archive.infolist()) else None


def how_to_resume(folder: Path) -> str:
    """``"resume with --ckpt_path FOLDER/last.ckpt"``; empty if a run's folder has no last.ckpt."""
    last = folder / LAST_CHECKPOINT
    return f"resume with --ckpt_path {shlex.quote(str(last))}" if last.exists() else ""


def disk_full_remedy(folder: Path) -> str:
    """What to do if the disk with a run's folder is full."""
    return f"Free disk space and {how_to_resume(folder) or 'start again'}."


def model_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``AnimalClassifier`` in a checkpoint."""
    return _arguments(checkpoint["hyper_parameters"])


def data_settings(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Arguments of ``AnimalsDataModule`` in a checkpoint; empty if it was trained with plain dataloaders."""
    return _arguments(checkpoint.get("datamodule_hyper_parameters", {}))


def without_training_state(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """A checkpoint without optimizer, callbacks and counters: it can be evaluated, but not resumed."""
    settings = ("hyper_parameters", "datamodule_hyper_parameters")
    return {key: checkpoint[key] for key in (*PORTABLE, *settings) if key in checkpoint}


def portable_checkpoint(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The part of a checkpoint that predictions need, without optimizer, callbacks and paths of this machine."""
    model, data = model_settings(checkpoint), data_settings(checkpoint)
    if model["weights"] is not None:
        model["weights"] = Path(model["weights"]).name
    return {
        **without_training_state(checkpoint),
        "hyper_parameters": model,
        "datamodule_hyper_parameters": {key: data[key] for key in PREPROCESSING if key in data},
    }


def require_same(key: str, given: Any, trained: Any) -> None:
    """Raise a :class:`UsageError` if a setting such as ``data.size`` differs from the checkpoint's."""
    if given != trained:
        raise UsageError(
            f"{key}={given!r} contradicts the checkpoint, which was trained with {trained!r}. Remove the option."
        )


def _arguments(hparams: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in hparams.items() if not key.startswith("_")}  # Lightning adds private ones
