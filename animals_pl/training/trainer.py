"""Create trainers; re-raise configuration errors of Lightning and torch as one-line UsageErrors."""

from __future__ import annotations

import errno
import inspect
import logging
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning_utilities.core.rank_zero import rank_zero_only
from rich import get_console

from animals_pl.errors import UsageError, did_you_mean, one_line
from animals_pl.training.callbacks.progress_bar import EpochBar
from animals_pl.training.malloc import set_malloc_thresholds

TRAINER_DEFAULTS: dict[str, Any] = {
    "default_root_dir": "checkpoints",
    "use_distributed_sampler": False,  # our samplers already shard by rank
    "enable_model_summary": False,
    "num_sanity_val_steps": 0,
    "log_every_n_steps": 10,
}
"""Arguments of ``lightning.Trainer`` that differ from its own defaults."""

IRRELEVANT_WARNINGS = (
    ".*does not have many workers.*",
    ".*The number of training batches.*is smaller than the logging interval.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*module.s. in eval mode at the start of training.*",  # intended for frozen backbones
    ".*isinstance.treespec, LeafSpec.*",
    ".*WeightAveraging callback with a model that overrides the configure_model.*",  # nothing here is sharded
    ".*your dataloader is not resumable.*",  # its sampler reads the position from Lightning's counters
    ".*The ``compute`` method of metric .* was called before the ``update`` method.*",  # resumed after the last batch
    ".*Encountered .nan. values in tensor.*",  # AnimalClassifier raises a TrainingError
)
"""Patterns of warnings that do not concern the user."""

SHARED_MEMORY = (
    "A DataLoader worker ran out of shared memory. Set data.num_workers=0, or enlarge /dev/shm (docker: --shm-size=2g)."
)
REMEDIES = {
    r"`val_check_interval` \(\d+\) must be less": "Lower trainer.val_check_interval, or give a fraction such as 0.5.",
    r"Error\(s\) in loading state_dict": "The checkpoint is damaged; use another one.",
    r"Early stopping conditioned on metric": "Set monitor of EarlyStopping.",
    r"Expected more than 1 value per channel when training": "BatchNorm needs at least 2 images per batch. Raise "
    "data.batch_size, or choose a net without BatchNorm.",
    r"unable to (allocate|open|mmap|write|resize).*shared memory|shared memory \(shm\)|Bus error": SHARED_MEMORY,
}
"""Pattern of a ValueError or RuntimeError caused by the user's settings or machine → remedy."""

MUST_BE_POSITIVE = (
    "max_epochs",
    "max_steps",
    "min_epochs",
    "min_steps",
    "limit_train_batches",
    "accumulate_grad_batches",
    "check_val_every_n_epoch",
    "val_check_interval",
)
"""Trainer arguments that must be positive; Lightning accepts 0 and trains nothing."""


def make_trainer(callbacks: Sequence[L.Callback], **kwargs: Any) -> L.Trainer:
    """Create a trainer, with a progress bar on terminals.

    Raises:
        UsageError: Lightning does not know the argument, accelerator, strategy or precision, or the device, a package
            or the launcher for multi-node training is missing.
    """
    set_malloc_thresholds()
    callbacks = list(callbacks)
    if not any(isinstance(callback, ProgressBar) for callback in callbacks):
        if kwargs.get("enable_progress_bar") is not False and get_console().is_terminal:
            callbacks.append(EpochBar())
        else:
            kwargs["enable_progress_bar"] = False
    known = inspect.signature(L.Trainer).parameters
    for key in kwargs:
        if key not in known:
            raise UsageError(f"unknown argument {key!r}. {did_you_mean(key, known)}See the arguments of Trainer.")
    try:
        with quiet():
            trainer = L.Trainer(**kwargs, callbacks=callbacks)
    except (TypeError, ValueError, ImportError) as error:  # TypeError: invalid devices
        raise UsageError(one_line(error)) from error
    _require_launcher(trainer)
    return trainer


def _require_launcher(trainer: L.Trainer) -> None:
    """Raise UsageError if a trainer for several nodes would wait forever for processes that nothing starts."""
    environment = getattr(trainer.strategy, "cluster_environment", None)
    if trainer.num_nodes > 1 and isinstance(environment, LightningEnvironment) and "MASTER_ADDR" not in os.environ:
        raise UsageError(
            f"trainer.num_nodes={trainer.num_nodes} needs a launcher. On every node, start the command with 'torchrun "
            f"--nnodes={trainer.num_nodes} --nproc_per_node=DEVICES --rdzv_backend=c10d --rdzv_endpoint=HOST:29500 -m "
            "animals_pl', or pass trainer.num_nodes=1."
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's info messages and irrelevant warnings, and re-raise configuration errors as UsageError.

    All processes of a distributed run but the first give no warnings at all.

    Raises:
        UsageError: Lightning or torch rejects the settings, or shared memory is full; see :data:`REMEDIES`.
        KeyboardInterrupt: Ctrl-C was pressed.
    """
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in ("",) if getattr(rank_zero_only, "rank", 0) else IRRELEVANT_WARNINGS:  # "" matches all
                warnings.filterwarnings("ignore", message)
            yield
    except UsageError:
        raise
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning turns Ctrl-C into exit(1)
            raise KeyboardInterrupt(*error.__context__.args) from error
        raise
    except MisconfigurationException as error:
        raise UsageError(one_line(error)) from error
    except (ValueError, RuntimeError) as error:
        remedy = next((text for pattern, text in REMEDIES.items() if re.search(pattern, str(error))), None)
        if remedy is None:
            raise
        raise UsageError(f"{one_line(error).rstrip('.')}. {remedy}") from error
    except OSError as error:
        if error.errno != errno.ENOSPC or not _shared_memory_is_full():
            raise
        raise UsageError(f"{error.strerror}. {SHARED_MEMORY}") from error
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _shared_memory_is_full() -> bool:
    folder = Path("/dev/shm")
    return folder.is_dir() and shutil.disk_usage(folder).free < 1 << 16


def check_training_arguments(kwargs: Mapping[str, Any]) -> None:
    """Check arguments that ``lightning.Trainer`` accepts but cannot train with.

    Raises:
        UsageError: An argument is out of its range.
    """
    _require_above_0(kwargs, MUST_BE_POSITIVE)
    if kwargs.get("max_time") is not None:
        with quiet():
            seconds = Timer(kwargs["max_time"]).time_remaining()
        if not seconds or seconds < 0:
            raise UsageError(f"trainer.max_time={kwargs['max_time']} is out of range. Choose a time above 0.")
    if kwargs.get("sync_batchnorm"):  # Lightning's conversion drops the activations of timm's BatchNorm layers
        raise UsageError("trainer.sync_batchnorm is not needed: it is automatic with several GPUs. Remove it.")
    strategy = kwargs.get("strategy")
    if isinstance(strategy, str) and re.match("ddp_(spawn|fork|notebook)", strategy):
        raise UsageError(
            f"trainer.strategy={strategy} loses the run's results when its processes end. Use trainer.strategy=ddp."
        )


def check_evaluation_arguments(verb: str, kwargs: Mapping[str, Any]) -> None:
    """Reject arguments of ``lightning.Trainer`` that evaluate nothing or leave images out of the predictions.

    Raises:
        UsageError: Such an argument is given.
    """
    if verb != "predict":
        _require_above_0(kwargs, ("limit_val_batches", "limit_test_batches"))
        return
    for key in ("limit_predict_batches", "fast_dev_run"):
        value = kwargs.get(key)
        everything = value is None or value is False or (isinstance(value, float) and value == 1)  # int 1: one batch
        if not everything:
            raise UsageError(f"trainer.{key}={value} leaves images out. Remove it, and pass fewer paths.")


def _require_above_0(kwargs: Mapping[str, Any], keys: Sequence[str]) -> None:
    for key in keys:
        value = kwargs.get(key)
        unlimited = value == -1 and key in ("max_epochs", "max_steps")
        if isinstance(value, int | float) and not value > 0 and not unlimited:
            raise UsageError(f"trainer.{key}={value} is out of range. Choose a value above 0.")
