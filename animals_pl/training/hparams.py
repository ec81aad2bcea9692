"""Check the hyperparameters of the classifier: ranges, values without effect, redundant imbalance corrections."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from timm.optim import list_optimizers

from animals_pl.data.info import DataInfo
from animals_pl.data.sampling import Sampling
from animals_pl.errors import TrainingError, UsageError, did_you_mean, listed
from animals_pl.training.head_options import check_head_options

_AT_LEAST_0 = (">= 0", lambda value: value >= 0)
_BELOW_1 = ("[0, 1)", lambda value: 0 <= value < 1)

RANGES = {
    **dict.fromkeys(("dropout", "effective_beta", "label_smoothing"), _BELOW_1),
    **dict.fromkeys(
        ("focal_gamma", "logit_tau", "mixup", "cutmix", "lr", "weight_decay", "optimizer_eps", "warmup_epochs"),
        _AT_LEAST_0,
    ),
    **dict.fromkeys(("head_decay", "imagenet_prior"), _AT_LEAST_0),
    "backbone_lr_mult": ("> 0", lambda value: value > 0),
    "layer_decay": ("(0, 1]", lambda value: 0 < value <= 1),
}
"""Key → description of its range, and a predicate."""

APPLIES_WITH = {
    "focal_gamma": ("loss", "focal"),
    "logit_tau": ("loss", "logit_adjusted"),
    "effective_beta": ("class_weights", "effective"),
}
"""Key → (other key, value that the other key must have; otherwise the first key has no effect)."""


def check_hparams(hparams: Mapping[str, Any]) -> None:
    """Check ranges, the optimizer's name and values that have no effect.

    Raises:
        UsageError: A value is unknown, out of its range, or has no effect with the other values.
    """
    known = [str(optimizer) for optimizer in list_optimizers()]
    optimizer = hparams["optimizer"]
    if optimizer.lower() not in known:
        hint = did_you_mean(optimizer.lower(), known)
        raise UsageError(f"model.optimizer={optimizer!r} is unknown. {hint}See timm.optim.list_optimizers().")
    for key, (words, fits) in RANGES.items():
        value = hparams[key]
        if value is not None and not (fits(value) and math.isfinite(value)):
            finite = "finite " if math.isinf(value) else ""
            raise UsageError(f"model.{key}={value} is out of range. Choose a {finite}value {words}.")
    for key, (other, needed) in APPLIES_WITH.items():
        if hparams[key] is not None and hparams[other] != needed:
            raise UsageError(
                f"model.{key}={hparams[key]} has no effect with model.{other}={hparams[other]}. "
                f"Remove it (null), or set model.{other}={needed}."
            )
    check_head_options(hparams)


def check_data(hparams: Mapping[str, Any], info: DataInfo) -> None:
    """Check classes and size of the data.

    Raises:
        UsageError: There are fewer than 2 classes, or classes or size differ from those of the model.
    """
    if len(info.class_names) < 2:
        raise UsageError(
            f"the data has a single class ({info.class_names[0]!r}); a classifier needs at least 2. "
            "Add class folders, or pass another data.root."
        )
    if hparams["class_names"] is None:
        return
    if list(info.class_names) != hparams["class_names"]:
        raise UsageError(
            f"the data has the classes {listed(info.class_names)}, but the model was trained on "
            f"{listed(hparams['class_names'])}. Use data with the model's classes, or a new model."
        )
    if info.size != hparams["input_size"]:
        raise UsageError(
            f"data.size={info.size}, but the model was made for {hparams['input_size']} px. "
            f"Set data.size={hparams['input_size']}, or use a new model."
        )


def check_convergence(loss: float, epoch: int, hparams: Mapping[str, Any], precision: str) -> None:
    """Check that the mean loss of an epoch is finite, before a diverged model is saved as best.

    Raises:
        TrainingError: It is not.
    """
    if not math.isfinite(loss):
        raise TrainingError(
            f"training diverged in epoch {epoch + 1}: the mean loss is {loss}. "
            f"{divergence_remedy(hparams, precision)} Checkpoints of earlier epochs are kept."
        )


def divergence_remedy(hparams: Mapping[str, Any], precision: str) -> str:
    """Remedy for diverged training, for the error message."""
    if hparams["optimizer_eps"] == 0:
        return "Set model.optimizer_eps above 0, or to null."
    remedy = f"Lower model.lr (now {hparams['lr']:g}), raise model.warmup_epochs, or set trainer.gradient_clip_val."
    if precision == "16-true":
        return f"Set trainer.precision=16-mixed: 16-true overflows. If that is not enough: {remedy}"
    return remedy


def warn_of_double_correction(hparams: Mapping[str, Any], sampling: Sampling) -> None:
    """Warn if sampling, class weights and loss together correct the imbalance more than once."""
    weights, loss, tau = hparams["class_weights"], hparams["loss"], hparams["logit_tau"]
    strengths = {
        f"data.sampling={sampling}": {"shuffle": 0, "weighted_sqrt": 0.5, "weighted": 1}[sampling],
        f"model.class_weights={weights}": int(weights != "none"),
        f"model.loss={loss}": 0 if loss != "logit_adjusted" else 1 if tau is None else tau,
    }
    corrections = [setting for setting, strength in strengths.items() if strength]
    if len(corrections) > 1 and sum(strengths.values()) > 1:
        rank_zero_warn(
            f"{' and '.join(corrections)} each correct the class imbalance, so rare classes are over-weighted. "
            "Keep only one."
        )
