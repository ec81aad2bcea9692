"""End a training run on SIGINT and SIGTERM."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint

from animals_pl.signals import STOPPING, end_process
from animals_pl.training.callbacks.run_checkpoint import RunCheckpoint
from animals_pl.training.callbacks.run_length import is_exactly_resumable


class StopOnSignal(L.Callback):
    """Ends a run after the step in which any of its processes has received SIGINT or SIGTERM.

    A validation is completed first. Before training, a single process ends at once. A second SIGINT ends the process at
    once. Lightning's handler of SIGTERM is replaced: it saves nothing, and blocks if only one of several processes
    receives the signal.
    """

    last: RunCheckpoint | None = None
    """Writes last.ckpt before the run ends."""

    def __init__(self) -> None:
        self._received = 0  # the signal's number
        self._wait_for_step = False

    @contextmanager
    def handling_signals(self, trainer: L.Trainer) -> Iterator[None]:
        """Handle the signals if in the main thread, also SIGINT in a background job, which ignores it by default."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.getsignal(number) for number in STOPPING}
        self._received, self._wait_for_step = 0, trainer.world_size > 1
        self._install_handlers()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Replace the handler that Lightning has installed by now, and complete steps from now on."""
        self._wait_for_step = True
        if threading.current_thread() is threading.main_thread():
            self._install_handlers()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Save and end the run, if a signal was received and the state can be resumed exactly."""
        number = self._received_by_any(trainer)
        if number and is_exactly_resumable(trainer):
            if self.last is not None:
                self.last.save(trainer)
            _end(trainer, number)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run, if a signal was received. The epoch has been saved."""
        if number := self._received_by_any(trainer):
            _end(trainer, number)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """End the run if a signal was received; later signals end it at once."""
        self._wait_for_step = False
        self.on_train_epoch_end(trainer, pl_module)

    def _install_handlers(self) -> None:
        for number in STOPPING:
            signal.signal(number, self._handle)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._wait_for_step or (self._received and number == signal.SIGINT):
            end_process(number)
        self._received = self._received or number

    def _received_by_any(self, trainer: L.Trainer) -> int:
        """Number of a signal that any process has received, the same in all of them; 0 if none."""
        if trainer.world_size == 1:
            return self._received
        number = torch.tensor(self._received, device=trainer.strategy.root_device)
        return int(trainer.strategy.reduce(number, reduce_op="max"))


class SaveOnSignal(StopOnSignal, Checkpoint):
    """As :class:`StopOnSignal`, with a checkpoint to resume from.

    It is a ``Checkpoint``, because Lightning calls checkpoint callbacks after all others.
    """

    def __init__(self, last: RunCheckpoint) -> None:
        super().__init__()
        self.last = last


def _end(trainer: L.Trainer, number: int) -> None:
    if trainer.local_rank:  # Lightning's launcher kills all processes once one that it started has failed
        raise SystemExit(0)
    end_process(number)
