"""Train the head alone first, then the backbone, all at once or block by block."""

from __future__ import annotations

from typing import Any

import lightning as L

from animals_pl.errors import UsageError
from animals_pl.models.transfer import TransferNet


class GradualUnfreezing(L.Callback):
    """Freezes the backbone for the first epochs, so that a head that knows nothing yet does not spoil it.

    Howard & Ruder 2018 (ULMFiT, section 3.3: gradual unfreezing). The optimizer has all parameters from the start; only
    which of them get gradients changes, and that follows from the epoch: a resumed run goes on as it would have.

    Args:
        epochs: Epochs in which the head learns alone.
        stages: Over how many epochs the backbone joins in, from its last blocks to its first; 1: at once.

    Raises:
        UsageError: A number is too small, or the net has no backbone that learns.
    """

    def __init__(self, epochs: int = 1, stages: int = 1) -> None:
        self.epochs = epochs
        self.stages = stages
        if epochs < 0 or stages < 1:
            raise UsageError(
                f"GradualUnfreezing: epochs={epochs} and stages={stages} do not fit; choose 0 or more and 1 or more"
            )

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse nets for which this has no meaning, and several processes that would wait for missing gradients."""
        if not isinstance(pl_module.net, TransferNet) or pl_module.net.freeze:
            raise UsageError(
                f"GradualUnfreezing: model.net={pl_module.hparams['net']!r} has "
                "no backbone that is to learn; leave the callback out, or set model.freeze=false with a timm net"
            )
        unused_allowed = getattr(trainer.strategy, "_ddp_kwargs", {}).get("find_unused_parameters", False)
        if trainer.world_size > 1 and not unused_allowed:
            raise UsageError(
                "GradualUnfreezing: with several processes set trainer.strategy=ddp_find_unused_parameters_true"
            )

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze what is frozen where a checkpoint from the middle of an epoch goes on: such an epoch has no start."""
        pl_module.net.unfreeze(self.part(trainer.current_epoch))

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Freeze or free what this epoch is to train."""
        pl_module.net.unfreeze(self.part(trainer.current_epoch))

    def part(self, epoch: int) -> float:
        """Return which part of the backbone's blocks learns in an epoch, counted from the last one."""
        return min(1.0, max(0, epoch - self.epochs + 1) / self.stages)
