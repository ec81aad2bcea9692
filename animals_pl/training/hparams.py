"""Check the hyper-parameters of the classifier: ranges, and values that have no effect."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from timm.optim import list_optimizers

from animals_pl.errors import UsageError, did_you_mean

RANGES = {
    "dropout": ("[0, 1)", lambda value: 0 <= value < 1),
    "focal_gamma": (">= 0", lambda value: value >= 0),
    "logit_tau": (">= 0", lambda value: value >= 0),
    "effective_beta": ("[0, 1)", lambda value: 0 <= value < 1),
    "label_smoothing": ("[0, 1)", lambda value: 0 <= value < 1),
    "mixup": (">= 0", lambda value: value >= 0),
    "cutmix": (">= 0", lambda value: value >= 0),
    "lr": (">= 0", lambda value: value >= 0),
    "backbone_lr_mult": ("> 0", lambda value: value > 0),
    "layer_decay": ("(0, 1]", lambda value: 0 < value <= 1),
    "weight_decay": (">= 0", lambda value: value >= 0),
    "warmup_epochs": (">= 0", lambda value: value >= 0),
}
"""Key → its range in words and as a test."""

APPLIES_WITH = {
    "focal_gamma": ("loss", "focal"),
    "logit_tau": ("loss", "logit_adjusted"),
    "effective_beta": ("class_weights", "effective"),
}
"""Key → the other key and the value of it without which it has no effect."""


def check_hparams(hparams: Mapping[str, Any]) -> None:
    """Check ranges, the optimizer's name and values that have no effect.

    Raises:
        UsageError: A value is unknown, out of its range, or has no effect with the other values.
    """
    known = [str(optimizer) for optimizer in list_optimizers()]
    optimizer = hparams["optimizer"]
    if optimizer.lower() not in known:
        hint = did_you_mean(optimizer.lower(), known)
        raise UsageError(f"model.optimizer={optimizer!r} is unknown; {hint}timm.optim.list_optimizers() lists them.")
    for key, (words, fits) in RANGES.items():
        value = hparams[key]
        if value is not None and not fits(value):
            raise UsageError(f"model.{key}={value} is out of range; choose a value {words}")
    for key, (other, needed) in APPLIES_WITH.items():
        if hparams[key] is not None and hparams[other] != needed:
            raise UsageError(
                f"model.{key}={hparams[key]} has no effect with model.{other}={hparams[other]}. "
                f"Remove it, or set model.{other}={needed}."
            )
