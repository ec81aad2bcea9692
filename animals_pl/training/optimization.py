"""Optimizer, parameter groups and learning rate schedule, built by timm's factories."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.optim import create_optimizer_v2, param_groups_layer_decay, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from torch import nn

from animals_pl.errors import UsageError
from animals_pl.models.transfer import TransferNet

Schedule = Literal["constant", "cosine", "step", "poly", "tanh"]


def build_optimizer(net: nn.Module, hparams: Mapping[str, Any], epochs: int) -> OptimizerLRScheduler:
    """Optimizer and schedule of a net from the classifier's hyperparameters.

    Raises:
        UsageError: A schedule is set but ``epochs`` is -1, or a multiplier does not apply to the net.
    """
    eps = {} if hparams["optimizer_eps"] is None else {"eps": hparams["optimizer_eps"]}
    rates = {key: hparams[key] for key in ("lr", "weight_decay", "backbone_lr_mult", "layer_decay")}
    optimizer = create_optimizer_v2(parameter_groups(net, **rates), hparams["optimizer"], lr=hparams["lr"], **eps)
    schedule, warmup_epochs = hparams["schedule"], hparams["warmup_epochs"]
    if schedule == "constant" and not warmup_epochs:
        return optimizer
    if epochs < 1:
        raise UsageError(
            f"model.schedule={schedule} needs a fixed number of epochs. Set trainer.max_epochs or trainer.max_steps."
        )
    # timm has no constant schedule with warm-up; a step schedule with decay_rate=1 is equivalent.
    options: dict[str, Any] = {"sched": "step", "decay_rate": 1.0} if schedule == "constant" else {"sched": schedule}
    options |= {"num_epochs": epochs, "warmup_epochs": warmup_epochs}
    if options["sched"] == "step":  # the steps are counted from the end of the warm-up
        options |= {"decay_epochs": max(1, (epochs - warmup_epochs) // 3), "warmup_prefix": True}
    scheduler, _ = create_scheduler_v2(optimizer, **options)
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}


def parameter_groups(
    net: nn.Module, lr: float, weight_decay: float, backbone_lr_mult: float = 1.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Optimizer groups of a net, each with its learning rate. Biases and norms have no weight decay.

    The head of a timm model learns at ``lr``, the last block of its backbone at ``lr * backbone_lr_mult``, and each
    earlier block at ``layer_decay`` times the rate of the next one (Bao et al. 2021, "BEiT"). From-scratch nets learn
    at ``lr``. Parameters without gradients are left out.

    Raises:
        UsageError: A multiplier is given for a net without a backbone.
    """
    if not isinstance(net, TransferNet):
        for key, value in (("backbone_lr_mult", backbone_lr_mult), ("layer_decay", layer_decay)):
            if value != 1:
                raise UsageError(
                    f"model.{key}={value} only applies to timm models. Remove it, or set model.net to a timm model."
                )
        return [{**group, "lr": lr} for group in param_groups_weight_decay(net, weight_decay)]
    backbone = param_groups_layer_decay(net.backbone, weight_decay, layer_decay=layer_decay)
    for group in backbone:  # timm's schedules multiply initial_lr by lr_scale, also during warm-up
        group["lr_scale"] *= backbone_lr_mult
    groups = [{**group, "lr": lr * group["lr_scale"], "initial_lr": lr} for group in backbone]
    return groups + [{**group, "lr": lr} for group in param_groups_weight_decay(net.head, weight_decay)]
