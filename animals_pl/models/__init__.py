"""uint8 batch → logits: plain ``nn.Module`` nets; this file maps a name to its builder."""

from __future__ import annotations

from torch import nn

from animals_pl.errors import UsageError
from animals_pl.models.lenet import LeNet
from animals_pl.models.minivggnet import MiniVGGNet
from animals_pl.models.shallownet import ShallowNet
from animals_pl.models.transfer import Features, Head, TransferNet

__all__ = ["FROM_SCRATCH", "Features", "Head", "TransferNet", "build"]

FROM_SCRATCH: dict[str, type[ShallowNet | LeNet | MiniVGGNet]] = {
    "shallownet": ShallowNet,
    "lenet": LeNet,
    "minivggnet": MiniVGGNet,
}


def build(
    net: str,
    num_classes: int,
    input_size: int,
    head: Head = "linear",
    features: Features = "pooled",
    freeze: bool = False,
    freeze_norm: bool = False,
    dropout: float = 0.2,
) -> nn.Module:
    """Build a net with random weights.

    Args:
        net: ``shallownet``, ``lenet``, ``minivggnet`` or any timm model name.
        num_classes: Number of logits.
        input_size: Side of the images in pixels.
        head: See :class:`TransferNet`; from-scratch nets have a head of their own.
        features: See :class:`TransferNet`.
        freeze: See :class:`TransferNet`.
        freeze_norm: See :class:`TransferNet`.
        dropout: See :class:`TransferNet`.

    Raises:
        UsageError: The name is unknown, the size does not suit the net, or an option does not apply to it.
    """
    if net not in FROM_SCRATCH:
        return TransferNet(net, num_classes, input_size, head, features, freeze, freeze_norm, dropout)
    defaults = {"head": "linear", "features": "pooled", "freeze": False, "freeze_norm": False, "dropout": 0.2}
    given = {"head": head, "features": features, "freeze": freeze, "freeze_norm": freeze_norm, "dropout": dropout}
    for key, value in given.items():
        if value != defaults[key]:
            raise UsageError(
                f"model.{key}={value!r} has no meaning for model.net={net!r}, which comes whole; "
                "leave it out or choose a timm net"
            )
    network = FROM_SCRATCH[net]
    smallest = network.smallest_size
    if input_size < smallest:
        raise UsageError(f"data.size={input_size} is too small for model.net={net!r}; choose {smallest} or more")
    return network(num_classes, input_size)
