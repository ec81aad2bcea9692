"""Trainable parameters and architecture of a finished run."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from animals_pl.experiments.finished_runs import describe
from animals_pl.experiments.reference import REFERENCE
from animals_pl.models import registry
from animals_pl.training.speed_json import model_size

PROJECT = Path(__file__).parents[2]
RECIPE = {"net": "tf_mobilenetv3_small_100.in1k", "head": "linear", "features": "pooled", "freeze": True}


def saved(net: nn.Module) -> dict[str, Any]:
    """The net in the state of its checkpoint."""
    return {**{f"net.{key}": tensor for key, tensor in net.state_dict().items()}, "elsewhere": torch.zeros(7)}


@pytest.mark.parametrize("name", REFERENCE)
def test_trainable_parameters_are_those_of_the_reference(name):
    model = yaml.safe_load((PROJECT / "configs" / f"{name}.yaml").read_text())["model"]
    options = {key: model[key] for key in ("head", "features", "freeze", "dropout") if key in model}
    # Nets from scratch are large; timm nets cannot be built on the meta device.
    with torch.device("meta") if model["net"] in registry.FROM_SCRATCH else contextlib.nullcontext():
        net = registry.build_net(model["net"], 10, 224, **options)
    assert model_size(saved(net), frozen=bool(model.get("freeze"))).trainable == REFERENCE[name].trainable


@pytest.mark.parametrize("freeze", [False, True], ids=["fine-tuned", "frozen"])
@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_vit", "test_convnext", "test_nfnet"])
def test_trainable_parameters_are_those_with_gradients(name, freeze):
    net = registry.build_net(name, 3, 160, freeze=freeze)
    expected = sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)
    assert model_size(saved(net), frozen=freeze).trainable == expected


@pytest.mark.parametrize(
    ("model", "augment", "words"),
    [
        ({}, "none", "tf_mobilenetv3_small_100.in1k, linear head, pooled features, frozen, no augmentation"),
        (
            {"net": "swin", "head": "dense", "features": "pre_logits", "freeze": False},
            "light",
            "swin, dense head, pre_logits features, fine-tuned, augmentation light",
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
    ids=["frozen", "fine-tuned", "timm, from scratch", "project, from scratch"],
)
def test_the_architecture_is_described(model, augment, words):
    assert describe({**RECIPE, "weights": "imagenet", **model}, augment) == words
