"""The weights of several good epochs averaged into one net."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from animals_pl.errors import UsageError
from animals_pl.training.callbacks.run_summary import short_path
from animals_pl.training.checkpoint import load_checkpoint


def average_best(trainer: Any, module: Any, console: Console) -> None:
    """Average the kept epochs of a finished fit, judge the result and write it as ``average.ckpt``.

    A uniform "model soup" (Wortsman et al. 2022) of epochs of one run. ``best.ckpt`` stays as it is; what is printed
    tells which of the two is better.

    Args:
        trainer: The fit's trainer, whose first checkpoint callback is a ``RunCheckpoint`` that keeps several epochs.
        module: Its module; its weights are the average afterwards.
        console: Where the comparison is printed.

    Raises:
        UsageError: The file cannot be written.
    """
    best = trainer.checkpoint_callback
    kept = best.kept.best_k_models
    if len(kept) < 2:
        console.print("average_best: a single epoch has been kept, there is nothing to average", highlight=False)
        return
    files = sorted(kept, key=kept.__getitem__, reverse=best.mode == "max")  # as Lightning, the first of equals
    checkpoint = average_checkpoints(files)
    module.load_state_dict(checkpoint["state_dict"])
    found, before = _judge(trainer, module)[best.monitor.removesuffix("/val")], float(best.best_model_score)
    if not trainer.is_global_zero:
        return
    file = Path(best.best_model_path).with_name("average.ckpt")
    _write(checkpoint, file)
    better = found < before if best.mode == "min" else found > before
    where = short_path(str(file))
    verdict = f"better; it is {where}" if better else f"not better; it is {where}, best.ckpt stays the one to use"
    epochs = sorted(int(Path(name).stem.removeprefix("epoch=")) for name in files)
    console.print(
        f"average of epochs {', '.join(map(str, epochs))}: {best.monitor} {found:.4f}, "
        f"best epoch alone {before:.4f}: {verdict}",
        highlight=False,
        soft_wrap=True,
    )


def average_checkpoints(files: Sequence[str | Path]) -> dict[str, Any]:
    """Return the first checkpoint with the mean of all their weights in place of its own.

    Args:
        files: Checkpoints of one net, the best one first. Floating-point parameters and buffers are averaged, what
            counts in integers stays as in the first.
    """
    first = load_checkpoint(files[0])
    state: dict[str, Tensor] = first["state_dict"]
    sums = {name: value.double() for name, value in state.items() if value.is_floating_point()}
    for file in files[1:]:  # one at a time: a large net is in memory twice, however many are averaged
        other = load_checkpoint(file)["state_dict"]
        for name in sums:
            sums[name] += other[name]
    mean = {name: (total / len(files)).to(state[name].dtype) for name, total in sums.items()}
    return {**first, "state_dict": {**state, **mean}}


@torch.no_grad()
def _judge(trainer: Any, module: Any) -> dict[str, float]:
    """Return the metrics of the validation photographs, or of their features where the fit has cached them.

    Not by ``trainer.validate``, which would swap weights (Lightning's weight averaging), write to the loggers and pass
    every photograph through a frozen backbone again.
    """
    device = trainer.strategy.root_device
    module.to(device).eval()
    module.val_metrics.reset()
    for index, (images, labels) in enumerate(trainer.datamodule.val_dataloader()):
        with trainer.precision_plugin.forward_context():
            module.validation_step((images.to(device), labels.to(device)), index)
    return dict(module.val_metrics.compute())


def _write(checkpoint: dict[str, Any], file: Path) -> None:
    """Write a checkpoint, whole or not at all."""
    partial = file.with_name(f".{file.name}.partial")
    try:
        torch.save(checkpoint, partial)
        partial.replace(file)
    except (OSError, RuntimeError) as error:  # torch's own writer raises the latter where a disk is full
        with suppress(OSError):
            partial.unlink()
        raise UsageError(
            f"{str(file)!r} cannot be written ({error}); free some space, or leave out average_best=true"
        ) from error
