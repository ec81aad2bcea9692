"""Check a model before a run starts or resumes."""

from __future__ import annotations

import warnings
from contextlib import suppress
from pathlib import Path

import lightning as L

from animals_pl.data.resize import PREPROCESSING
from animals_pl.errors import UsageError, one_line
from animals_pl.files import remove_partial_files, require_writable
from animals_pl.training.checkpoint import (
    LAST_CHECKPOINT,
    SET_BY_DATA,
    data_settings,
    load_checkpoint,
    model_settings,
    require_same,
)
from animals_pl.training.classifier import AnimalClassifier


def valid_checkpoint(ckpt_path: str | Path) -> Path:
    """Checkpoint to resume from: the given one, verified.

    For a ``last.ckpt`` that is missing or damaged: the valid checkpoint of its folder with the most training steps, and
    a warning.

    Raises:
        UsageError: There is none.
    """
    try:
        load_checkpoint(ckpt_path, mmap=True)
    except UsageError as error:
        steps = _steps_of_others(Path(str(ckpt_path)))
        if not steps:
            raise
        newest = max(steps, key=steps.__getitem__)
        fault = one_line(error).partition(". Use ")[0]
        warnings.warn(f"{fault}; resuming from {newest.name}, after {steps[newest]:,} steps", stacklevel=3)
        return newest
    return Path(ckpt_path)


def _steps_of_others(last: Path) -> dict[Path, int]:
    """Checkpoints beside a last.ckpt from which training can continue → training steps."""
    found = {}
    for file in last.parent.glob("*.ckpt") if last.name == LAST_CHECKPOINT else ():
        with suppress(UsageError):
            checkpoint = load_checkpoint(file, mmap=True)
            if "optimizer_states" in checkpoint:
                found[file] = checkpoint["global_step"]
    return found


def prepare_resume(model: AnimalClassifier, data: L.LightningDataModule, monitor: str, ckpt_path: str | Path) -> Path:
    """Check a checkpoint and its run's folder, adopt its settings (see :func:`adopt_checkpoint`), and return its path.

    Raises:
        UsageError: There is no valid checkpoint, the folder cannot be written, or a setting differs from the run's.
    """
    valid = valid_checkpoint(ckpt_path)
    folder = valid.resolve().parent
    require_writable(folder, "run folder", folder=True)
    remove_partial_files(folder)
    adopt_checkpoint(model, data, monitor, valid)
    return valid


def adopt_checkpoint(model: AnimalClassifier, data: L.LightningDataModule, monitor: str, ckpt_path: Path) -> None:
    """Check that the settings match the checkpoint, and take classes, image size and split from the run.

    Raises:
        UsageError: The model, the preprocessing or ``monitor`` differs from the run's.
    """
    checkpoint = load_checkpoint(ckpt_path, mmap=True, verify=False)
    if "optimizer_states" not in checkpoint:  # portable_checkpoint
        raise UsageError(
            f"ckpt_path={str(ckpt_path)!r} is for predictions only: it has no optimizer state. Pass the "
            "last.ckpt of a run."
        )
    monitors = {
        state.get("monitor") for key, state in checkpoint["callbacks"].items() if key.startswith("RunCheckpoint")
    }
    if monitors and monitor not in monitors:
        (own,) = monitors - {None}
        raise UsageError(
            f"monitor={monitor!r} contradicts the run, whose best.ckpt was selected by {own!r}. Set monitor={own}."
        )
    for key, trained in data_settings(checkpoint).items():
        if key in (*PREPROCESSING, "batch_size"):
            require_same(f"data.{key}", data.hparams.get(key, trained), trained)
    for key, trained in model_settings(checkpoint).items():
        given = model.hparams[key]
        if not (given is None and key in SET_BY_DATA):
            require_same(f"model.{key}", given, trained)
        model.hparams[key] = trained
    split = ckpt_path.parent / "split.csv"
    if split.is_file() and "split" in data.hparams and data.hparams["split"] is None:
        data.hparams["split"] = str(split)


def check_new_model(model: AnimalClassifier) -> None:
    """Check that ``class_names`` and ``input_size`` of a new model are ``None``, because the data sets them.

    Raises:
        UsageError: One of them is set.
    """
    if model.net is not None or model.data_info is not None:
        return
    for key in SET_BY_DATA:
        if model.hparams[key] is not None:
            raise UsageError(f"model.{key}={model.hparams[key]} is set by the data in a new run. Remove the option.")
