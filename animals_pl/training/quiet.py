"""Suppress Lightning warnings that do not concern the user."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

MESSAGES = (
    ".*does not have many workers.*",
    ".*The number of training batches.*is smaller than the logging interval.*",
    ".*Checkpoint directory.*exists and is not empty.*",
    ".*callbacks used to create the checkpoint need to be provided.*",
    ".*module.s. in eval mode at the start of training.*",  # frozen backbones are meant to be
    ".*isinstance.treespec, LeafSpec.*",
    ".*WeightAveraging callback with a model that overrides the configure_model.*",  # nothing here is sharded
)
"""Patterns of the warnings."""


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress Lightning's own messages; warnings about the user's data and settings stay."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in MESSAGES:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
