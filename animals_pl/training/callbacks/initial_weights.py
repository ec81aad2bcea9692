"""Keep a run's initial weights, from which it is refitted."""

from __future__ import annotations

from typing import Any

import lightning as L
from torch import Tensor, nn

from animals_pl.errors import UsageError


class InitialWeights(L.Callback):
    """Stores the weights that a run starts from in its checkpoints, without those of a frozen backbone."""

    def __init__(self) -> None:
        self.weights: dict[str, Tensor] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Copy the weights of a new run.

        Raises:
            UsageError: The checkpoint of a resumed run has none.
        """
        if trainer.ckpt_path is None:
            self.weights = {name: tensor.detach().cpu().clone() for name, tensor in trained(pl_module.net).items()}  # type: ignore[arg-type]
        elif not self.weights:
            raise UsageError(
                "refit=true: the checkpoint has no initial weights, because it was saved without refit. "
                "Remove refit, or start a new run."
            )

    def state_dict(self) -> dict[str, Any]:
        """The weights."""
        return self.weights

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the weights."""
        self.weights = state_dict


def trained(net: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a net, without those of a frozen backbone."""
    frozen = "backbone." if getattr(net, "freeze", False) else None
    return {name: tensor for name, tensor in net.state_dict().items() if not (frozen and name.startswith(frozen))}
