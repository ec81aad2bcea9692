"""A training session that is killed at a chosen moment, for :mod:`~animals_pl.experiments.prove_resume`."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L

import animals_pl
from animals_pl.errors import UsageError, one_line
from animals_pl.lightning_cli import run

Phase = Literal["training", "validation", "save"]


@dataclass(frozen=True)
class Moment:
    """When a session is killed.

    Attributes:
        phase: A training batch, a validation batch, or the saving of a checkpoint.
        count: Its number in the session, from 1.
        delay: Seconds from its start to the kill, so that the kill can hit any operation.
    """

    phase: Phase
    count: int
    delay: float


@dataclass(frozen=True)
class Kill:
    """Where a session was killed.

    Attributes:
        phase: What it was doing.
        epoch: The epoch, from 1.
        batch: Training batches of the epoch that were started.
    """

    phase: Phase
    epoch: int
    batch: int


class Killer(L.Callback):
    """Kills its process and the process's children, such as loader workers, with SIGKILL.

    Args:
        moment: When to kill.
        report: File that receives the :class:`Kill` as JSON.
    """

    def __init__(self, moment: Moment, report: Path) -> None:
        self.moment = moment
        self.report = report
        self._seen = 0
        self._phase: Phase = "training"

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Count a training batch."""
        self._count("training", trainer)

    def on_validation_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Count a validation batch."""
        self._count("validation", trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Count a checkpoint."""
        self._count("save", trainer)

    def _count(self, phase: Phase, trainer: L.Trainer) -> None:
        self._phase = phase
        if phase != self.moment.phase:
            return
        self._seen += 1
        if self._seen == self.moment.count:
            threading.Timer(self.moment.delay, self._kill, [trainer]).start()

    def _kill(self, trainer: L.Trainer) -> None:
        batch = trainer.fit_loop.epoch_loop.batch_progress.current.ready
        self.report.write_text(json.dumps(asdict(Kill(self._phase, trainer.current_epoch + 1, batch))))
        os.killpg(0, signal.SIGKILL)


def fit_session(args: Sequence[str], folder: Path, moment: Moment | None = None) -> Kill | None:
    """Run ``fit`` in a separate process, which is killed at the given moment.

    Args:
        args: Options of ``fit``.
        folder: Folder for the session's output and its own cache.
        moment: When it is killed. ``None``: never.

    Returns:
        Where it was killed; ``None`` if it ended before.

    Raises:
        UsageError: The session failed.
    """
    report, output = folder / "kill.json", folder / "output.txt"
    report.unlink(missing_ok=True)
    context = multiprocessing.get_context("forkserver")  # the server imports torch once, and forks the sessions
    context.set_forkserver_preload([__name__])
    process = context.Process(target=_fit, args=(list(args), folder, report, output, moment))
    process.start()
    try:
        process.join()
    finally:
        if process.pid and process.is_alive():  # Ctrl-C
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    if process.exitcode == -signal.SIGKILL and report.exists():
        return Kill(**json.loads(report.read_text()))
    if process.exitcode != 0:
        lines = output.read_text(errors="replace").splitlines()
        raise UsageError(f"fit ended with exit code {process.exitcode}: {lines[-1] if lines else 'no output'}")
    return None


def _fit(args: list[str], folder: Path, report: Path, output: Path, moment: Moment | None) -> None:
    os.setsid()
    with output.open("ab", buffering=0) as stream:
        for descriptor in (1, 2):
            os.dup2(stream.fileno(), descriptor)
    os.environ["ANIMALS_PL_CACHE"] = str(folder / "cache")
    # With several devices, Lightning starts its other processes from sys.argv.
    sys.argv = [str(Path(animals_pl.__file__).with_name("__main__.py")), "fit", *args]
    try:
        run(["fit", *args], [] if moment is None else [Killer(moment, report)])
    except UsageError as error:
        print(one_line(error))
        raise SystemExit(2) from error
