"""Options of the net, and of a linear head on pretrained features: ``head_decay`` and ``imagenet_prior``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from animals_pl.data.catalog import english_name
from animals_pl.errors import UsageError
from animals_pl.models.registry import FROM_SCRATCH


def check_head_options(hparams: Mapping[str, Any]) -> None:
    """Check that the options apply to the net and its head.

    Raises:
        UsageError: One of them does not.
    """
    for key in ("head_decay", "imagenet_prior"):
        if hparams[key] and (hparams["net"] in FROM_SCRATCH or hparams["head"] != "linear"):
            raise UsageError(f"model.{key}={hparams[key]} needs a timm model and model.head=linear. Remove it.")
    if hparams["imagenet_prior"] and not (hparams["freeze"] and hparams["weights"]):
        raise UsageError(
            f"model.imagenet_prior={hparams['imagenet_prior']} needs a frozen, pretrained backbone. "
            "Set model.freeze=true and model.weights, or remove it."
        )


def prepare_head(net: Any, hparams: Mapping[str, Any]) -> None:
    """Add the parts that the options need to a new net: the ImageNet classifier, the initial weights of the head."""
    if hparams["imagenet_prior"]:
        net.add_prior(list(map(english_name, hparams["class_names"])), hparams["imagenet_prior"])
    if hparams["head_decay"]:
        net.keep_initial_head()


def head_penalty(net: Any, hparams: Mapping[str, Any]) -> Tensor | float:
    """Term of the training loss: ``head_decay`` times the squared distance of the head from its initial weights.

    Source: Li et al. 2018, "Explicit Inductive Bias for Transfer Learning with Convolutional Networks" (L2-SP).
    """
    return hparams["head_decay"] * net.head_distance() if hparams["head_decay"] else 0.0


def net_options(hparams: Mapping[str, Any]) -> dict[str, Any]:
    """Options of the net among the hyperparameters, with the default of ``freeze_norm`` filled in."""
    options = {key: hparams[key] for key in ("head", "features", "freeze", "freeze_norm", "dropout")}
    if options["freeze_norm"] is None:
        options["freeze_norm"] = hparams["weights"] is not None and hparams["net"] not in FROM_SCRATCH
    return options
