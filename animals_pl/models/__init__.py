"""uint8 batch → logits: plain ``nn.Module`` nets; this file maps a name to its builder."""

from __future__ import annotations

import inspect
from typing import Any

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


def build(net: str, num_classes: int, input_size: int, **options: Any) -> nn.Module:
    """Build a net with random weights.

    Args:
        net: ``shallownet``, ``lenet``, ``minivggnet`` or any timm model name.
        num_classes: Number of logits.
        input_size: Side of the images in pixels.
        options: Those of :class:`TransferNet`; a from-scratch net comes whole and takes none but their defaults.

    Raises:
        UsageError: The name is unknown, the size does not suit the net, or an option does not apply to it.
    """
    if net not in FROM_SCRATCH:
        return TransferNet(net, num_classes, input_size, **options)
    known = inspect.signature(TransferNet).parameters
    for key, value in options.items():
        if value != known[key].default:
            raise UsageError(
                f"model.{key}={value!r} has no meaning for model.net={net!r}, which comes whole; "
                "leave it out or choose a timm net"
            )
    network = FROM_SCRATCH[net]
    smallest = network.smallest_size
    if input_size < smallest:
        raise UsageError(f"data.size={input_size} is too small for model.net={net!r}; choose {smallest} or more")
    return network(num_classes, input_size)
