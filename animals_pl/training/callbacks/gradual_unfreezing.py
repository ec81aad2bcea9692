"""Train the head first, then the backbone, at once or block by block."""

from __future__ import annotations

import lightning as L

from animals_pl.errors import UsageError
from animals_pl.models.transfer import TransferNet


class GradualUnfreezing(L.Callback):
    """Freezes the backbone for the first epochs, then unfreezes it from the last block to the first.

    Source: Howard & Ruder 2018 (ULMFiT, section 3.3). The optimizer holds all parameters from the start; only their
    ``requires_grad`` changes, as a function of the epoch, so a resumed run continues exactly.

    Args:
        epochs: Epochs in which only the head is trained, >= 0.
        stages: Number of epochs over which the backbone is unfrozen, >= 1. 1: all blocks at once.

    Raises:
        UsageError: A value is out of range, or the net has no trainable backbone.

    Example:
        >>> from animals_pl import fit
        >>> callbacks = [GradualUnfreezing(epochs=2, stages=3)]  # the head for 2 epochs, all layers from epoch 5 on
        >>> run = fit(model, data, callbacks=callbacks, max_epochs=20)  # doctest: +SKIP
    """

    def __init__(self, epochs: int = 1, stages: int = 1) -> None:
        self.epochs = epochs
        self.stages = stages
        if epochs < 0 or stages < 1:
            raise UsageError(
                f"GradualUnfreezing: epochs={epochs} must be 0 or more, and stages={stages} must be 1 or more."
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that the net has a trainable backbone."""
        if not isinstance(pl_module.net, TransferNet) or pl_module.net.freeze:
            raise UsageError(
                f"GradualUnfreezing: model.net={pl_module.hparams['net']!r} has no trainable backbone. "
                "Remove the callback, or use a timm model with model.freeze=false."
            )

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze according to the epoch, also for a run resumed mid-epoch.

        Raises:
            UsageError: The run is distributed, and the strategy does not find unused parameters.
        """
        if trainer.world_size > 1 and not getattr(trainer.strategy.model, "find_unused_parameters", False):
            raise UsageError(
                "GradualUnfreezing: with several processes, set trainer.strategy=ddp_find_unused_parameters_true."
            )
        pl_module.net.unfreeze(self.fraction(trainer.current_epoch))  # type: ignore[operator, union-attr]

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Freeze according to the epoch."""
        pl_module.net.unfreeze(self.fraction(trainer.current_epoch))  # type: ignore[operator, union-attr]

    def fraction(self, epoch: int) -> float:
        """Fraction of the backbone's blocks that is trained in an epoch, in [0, 1], counted from the last block."""
        return min(1.0, max(0, epoch - self.epochs + 1) / self.stages)
