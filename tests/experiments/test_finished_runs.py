"""What is read of a run: its trainable parameters, and its architecture in words."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from animals_pl.experiments.finished_runs import OWN_NETS, count_trainable, describe
from animals_pl.experiments.reference import REFERENCE
from animals_pl.models import registry

PROJECT = Path(__file__).parents[2]
RECIPE = {"net": "tf_mobilenetv3_small_100.in1k", "head": "linear", "features": "pooled", "freeze": True}


def saved(net: nn.Module, freeze: bool) -> dict[str, Any]:
    """Return what matters of the checkpoint of a net."""
    state = {f"net.{key}": tensor for key, tensor in net.state_dict().items()}
    return {"state_dict": {**state, "elsewhere": torch.zeros(7)}, "hyper_parameters": {"net": "", "freeze": freeze}}


@pytest.mark.parametrize("name", REFERENCE)
def test_trainable_parameters_are_those_of_the_reference(name):
    model = yaml.safe_load((PROJECT / "configs" / f"{name}.yaml").read_text())["model"]
    options = {key: model[key] for key in ("head", "features", "freeze", "dropout") if key in model}
    with torch.device("meta") if name in OWN_NETS else contextlib.nullcontext():
        net = registry.build_net(model["net"], 10, 224, **options)
    assert count_trainable(saved(net, bool(model.get("freeze")))) == REFERENCE[name].trainable


@pytest.mark.parametrize("freeze", [False, True], ids=["fine-tuned", "frozen"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_trainable_parameters_are_those_that_learn(name, freeze):
    net = registry.build_net(name, 3, 160, freeze=freeze)
    learning = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert count_trainable(saved(net, freeze)) == learning


def test_own_nets_are_known():
    assert set(OWN_NETS) == set(registry.FROM_SCRATCH)


@pytest.mark.parametrize(
    ("model", "augment", "words"),
    [
        ({}, "none", "tf_mobilenetv3_small_100.in1k, linear head, pooled features, frozen, no augmentation"),
        (
            {"net": "swin", "head": "dense", "features": "pre_logits", "freeze": False},
            "strong",
            "swin, dense head, pre_logits features, fine-tuned, augmentation strong",
        ),
        (
            {"net": "resnet10t", "freeze": False, "weights": None},
            "folder/mine.yaml",
            "resnet10t, linear head, pooled features, from scratch, augmentation mine.yaml",
        ),
        (
            {"net": "lenet", "freeze": False, "weights": None},
            "reference",
            "lenet, from scratch, augmentation reference",
        ),
    ],
    ids=["frozen", "fine-tuned", "a timm net from scratch", "an own net"],
)
def test_the_architecture_in_words(model, augment, words):
    assert describe({**RECIPE, "weights": "imagenet", **model}, augment) == words
