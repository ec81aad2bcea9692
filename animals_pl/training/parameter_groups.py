"""Which parameters learn at which rate."""

from __future__ import annotations

from typing import Any

from timm.optim import param_groups_layer_decay, param_groups_weight_decay
from torch import nn

from animals_pl.errors import UsageError
from animals_pl.models.transfer import TransferNet


def parameter_groups(
    net: nn.Module, lr: float, weight_decay: float, backbone_lr_mult: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Return optimizer groups of a net, each with its learning rate; biases and norms get no weight decay.

    The head of a timm net learns at ``lr``, the last block of its backbone at ``lr * backbone_lr_mult``, and each block before
    at ``layer_decay`` times the rate of the one after it (Bao et al. 2021, "BEiT"). Nets without a backbone learn at
    ``lr``. Parameters that do not require gradients are left out.

    Args:
        net: The net.
        lr: Learning rate of the head.
        weight_decay: Weight decay.
        backbone_lr_mult: The last block's rate as a part of the head's.
        layer_decay: In (0, 1].

    Raises:
        UsageError: Rates of blocks for a net without a backbone.
    """
    if not isinstance(net, TransferNet):
        for key, value in (("backbone_lr_mult", backbone_lr_mult), ("layer_decay", layer_decay)):
            if value != 1:
                raise UsageError(
                    f"model.{key}={value} has no meaning for a net that is trained from scratch and has one rate; "
                    "leave it out or choose a timm net"
                )
        return [{**group, "lr": lr} for group in param_groups_weight_decay(net, weight_decay)]
    body = param_groups_layer_decay(net.backbone, weight_decay, layer_decay=layer_decay)
    for group in body:  # timm's schedules multiply what they make of initial_lr by lr_scale, their warm-up included
        group["lr_scale"] *= backbone_lr_mult
    groups = [{**group, "lr": lr * group["lr_scale"], "initial_lr": lr} for group in body]
    return groups + [{**group, "lr": lr} for group in param_groups_weight_decay(net.head, weight_decay)]
