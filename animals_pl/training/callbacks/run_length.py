"""Length of runs limited by steps or time, or given by a minimum."""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, Timer

from animals_pl.errors import UsageError, counted
from animals_pl.training.checkpoint import how_to_resume


class RunLength(L.Callback):
    """Derives max_epochs from max_steps or a minimum, and runs validation when steps or time end an epoch early.

    Schedules and image sizes depend on the number of epochs.

    Args:
        min_epochs: Epochs of a run without a maximum.
        min_steps: Optimizer steps of a run without a maximum, if these take longer.
    """

    def __init__(self, min_epochs: int | None = None, min_steps: int | None = None) -> None:
        self.min_epochs = min_epochs
        self.min_steps = min_steps

    @classmethod
    def of(cls, kwargs: dict[str, Any]) -> RunLength:
        """Create the callback from arguments of ``lightning.Trainer``, which are changed in place.

        A minimum without a maximum becomes the length of the run and is removed from ``kwargs``: otherwise, Lightning
        would train 1,000 epochs, and early stopping could not end the run before the minimum.
        """
        maxima = {key for key in ("max_epochs", "max_steps", "max_time") if kwargs.get(key) not in (None, -1)}
        minimum = {key: kwargs[key] for key in ("min_epochs", "min_steps") if kwargs.get(key)}
        if maxima & {"max_steps", "max_time"}:  # Lightning would train on until the minimum
            kwargs |= dict.fromkeys(minimum)
        if maxima or not minimum or kwargs.get("max_epochs") == -1:
            return cls()
        kwargs |= {"max_epochs": -1, **dict.fromkeys(minimum)}
        return cls(**minimum)

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Derive ``max_epochs``."""
        # With max_steps, Lightning resumes a run at the end of an epoch as if it were within the epoch.
        trainer.fit_loop._iteration_based_training = lambda: False  # type: ignore[method-assign]
        if stage != "fit" or trainer.max_epochs != -1:
            return
        if self.min_epochs or self.min_steps:
            epochs = math.ceil(self.min_steps / _steps_per_epoch(trainer)) if self.min_steps else 1
            trainer.fit_loop.max_epochs = max(epochs, self.min_epochs or 1)
        elif trainer.max_steps > 0:
            with suppress(TypeError):  # a loader without a length
                trainer.fit_loop.max_epochs = math.ceil(trainer.max_steps / _steps_per_epoch(trainer))

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Check that epochs are left, and keep the new ``patience`` of early stopping: Lightning restores the old one.

        Raises:
            UsageError: The run has already completed more than ``max_epochs`` epochs.
        """
        done = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
        if trainer.state.fn == "fit" and 0 <= (trainer.max_epochs or 0) < done:
            raise UsageError(
                f"trainer.max_epochs={trainer.max_epochs}, but the run has completed {counted(done, 'epoch')}. "
                f"Raise trainer.max_epochs above {done}."
            )
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, EarlyStopping) and callback.state_key in checkpoint["callbacks"]:
                checkpoint["callbacks"][callback.state_key]["patience"] = callback.patience

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Raise UsageError if a resumed run has no time left; ``max_time`` counts all sessions."""
        for timer in _timers(trainer):
            if timer.time_elapsed() and (timer.time_remaining() or 0) <= 0:
                raise UsageError(
                    f"trainer.max_time is used up: the run has taken {timer.time_elapsed():.0f} s so far, all sessions "
                    "together. Raise trainer.max_time."
                )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Train no further epoch if early stopping has ended the run that is resumed."""
        for callback in trainer.early_stopping_callbacks:
            if isinstance(callback, EarlyStopping) and 0 < callback.patience <= callback.wait_count:
                trainer.should_stop = True
                if trainer.is_global_zero:
                    print(f"early stopping has ended this run; raise its patience={callback.patience} to continue")

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Stop at ``max_steps`` with a final validation, as Lightning does at ``max_time``."""
        if 0 < trainer.max_steps <= trainer.global_step and not epoch_is_complete(trainer):
            trainer.should_stop = True


def epoch_is_complete(trainer: L.Trainer) -> bool:
    """Whether the current epoch has no batches left."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    return progress.is_last_batch or progress.current.ready >= trainer.num_training_batches


def is_exactly_resumable(trainer: L.Trainer) -> bool:
    """Whether a checkpoint that is saved after the current batch loses neither gradients nor a validation.

    Lightning skips a validation that was due when the checkpoint was saved.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    every_n_epochs, interval = trainer.check_val_every_n_epoch, trainer.val_check_batch
    if every_n_epochs is None:
        validates, done = True, trainer.fit_loop.total_batch_idx + 1
    else:
        validates, done = (trainer.current_epoch + 1) % every_n_epochs == 0, batches
    is_due = validates and trainer.enable_validation and interval is not None and done % interval == 0
    return batches % trainer.accumulate_grad_batches == 0 and not is_due and not epoch_is_complete(trainer)


def why_stopped(trainer: L.Trainer) -> str:
    """Why a run ended before ``max_epochs`` were complete; empty if it did not."""
    for callback in trainer.early_stopping_callbacks:
        if isinstance(callback, EarlyStopping) and callback.stopping_reason_message and callback.stopped_epoch:
            reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
            return f"stopped after epoch {callback.stopped_epoch + 1}: {reason}"
    if any((timer.time_remaining() or 0) <= 0 for timer in _timers(trainer)):
        limit = "max_time"
    elif 0 < trainer.max_steps <= trainer.global_step:
        limit = f"max_steps={trainer.max_steps}"
    else:
        return ""
    if epoch_is_complete(trainer):
        return f"stopped after epoch {trainer.current_epoch}: trainer.{limit} was reached.{_how_to_continue(trainer)}"
    done, total = trainer.fit_loop.epoch_loop.batch_progress.current.ready, trainer.num_training_batches
    return (
        f"stopped after {done} of {total} batches of epoch {trainer.current_epoch}: trainer.{limit} was reached."
        f"{_how_to_continue(trainer)}"
    )


def _how_to_continue(trainer: L.Trainer) -> str:
    hint = how_to_resume(Path(trainer.default_root_dir))
    return hint and f" Raise it and {hint}"


def length(trainer: L.Trainer) -> str:
    """Length of a run, in words."""
    if trainer.max_epochs == -1:
        return "unlimited epochs"
    steps = f" ({counted(trainer.max_steps, 'step')})" if trainer.max_steps > 0 else ""
    return f"{counted(trainer.max_epochs or 0, 'epoch')}{steps}"


def _timers(trainer: L.Trainer) -> list[Timer]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]


def _steps_per_epoch(trainer: L.Trainer) -> int:
    """Optimizer steps per epoch. Does not keep the loader, because the feature cache replaces its dataset later."""
    batches = len(trainer.datamodule.train_dataloader())  # type: ignore[attr-defined]
    limit = trainer.limit_train_batches
    batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
    return max(1, math.ceil(batches / trainer.accumulate_grad_batches))
