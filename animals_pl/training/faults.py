"""Faults during a training run, explained in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import lightning as L
import torch

from animals_pl.errors import TrainingError, UsageError, one_line
from animals_pl.training.checkpoint import how_to_resume

_OUT_OF_MEMORY = re.compile(
    r"DefaultCPUAllocator: (can't allocate|not enough) memory|MemoryError|Insufficient memory|CUDA out of memory|"
    r"std::bad_alloc|Unable to allocate .* for an array"
)
"""Messages of memory errors that are not a ``MemoryError``: of torch, of OpenCV, and of numpy in a worker."""

_WORKER_DIED = re.compile(r"DataLoader worker \(pid\D* ([\d, ]+)\) (is killed by signal: (.*?)\.|exited unexpectedly)")

_CRASHES = ("Segmentation fault", "Floating point exception", "Illegal instruction", "Aborted")
"""Signals of a fault in the program."""

_NO_IMAGE = "cannot decode the image"

_OVERFLOW = "cannot be converted to type float without overflow"
"""Part of torch's error message when an optimizer step overflows."""


@contextmanager
def explained_faults(data: L.LightningDataModule, trainer: L.Trainer) -> Iterator[None]:
    """Re-raise what ends a run as a one-line error with a remedy, and how to resume if the remedy allows it.

    Raises:
        TrainingError: Memory ran out, a loader process ended, an image cannot be decoded any more, or a step of the
            optimizer overflowed.
    """
    try:
        yield
    except (MemoryError, RuntimeError, UsageError) as error:
        fault = _explain(error, data, trainer)
        if not fault:
            raise
        keeps_settings = _OVERFLOW in one_line(error)  # a resumed run would have the same model.lr
        hint = "" if keeps_settings else how_to_resume(Path(trainer.default_root_dir))
        raise TrainingError(f"{fault}{hint and f' Then {hint}'}") from error


def _explain(error: Exception, data: L.LightningDataModule, trainer: L.Trainer) -> str:
    """One line about a fault and its remedy; empty for other errors."""
    message = one_line(error)
    smaller = _smaller(data.hparams.get("batch_size"), trainer)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or _OUT_OF_MEMORY.search(message):
        return f"out of memory with data.batch_size={data.hparams.get('batch_size')}. {smaller}"
    if died := _WORKER_DIED.search(message):
        by = f" by a signal ({died[3]})" if died[3] else ""
        memory = "" if died[3] in _CRASHES else f" If memory ran out, lower data.num_workers first. {smaller}"
        return f"a loader process (pid {died[1]}) was ended{by}.{memory}"
    if message.startswith(_NO_IMAGE):
        return f"{message.rstrip('.')}. It was changed or deleted after the scan, which found it intact."
    if _OVERFLOW in message:
        lr = trainer.lightning_module.hparams.get("lr")
        return f"a step of the optimizer overflowed. Lower model.lr{'' if lr is None else f' (now {lr:g})'}."
    return ""


def _smaller(batch_size: int | None, trainer: L.Trainer) -> str:
    """How to train with smaller batches and the same steps of the optimizer."""
    if batch_size is None or batch_size < 2:
        return "Choose a smaller data.size or model.net."
    options = (
        f"--data.batch_size {batch_size // 2} --trainer.accumulate_grad_batches {2 * trainer.accumulate_grad_batches}"
    )
    return f"Pass {options}: half as many images at a time, with the same optimizer steps."
