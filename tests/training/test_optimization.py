"""Learning rates and weight decay of every parameter, against rules written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from torch import nn

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError
from animals_pl.models.registry import build_net
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.optimization import parameter_groups

BLOCKS = {
    "test_resnet": ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"],
    "test_vit": ["cls_token pos_embed patch_embed", *(f"blocks.{i}" for i in range(6)), "norm"],
    "test_efficientnet": ["conv_stem bn1", *(f"blocks.{i}" for i in range(5)), "conv_head bn2"],
}
"""The backbones' parts in the order in which an image passes them."""


def by_name(net: nn.Module, groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the group of every parameter of the groups, which hold each once."""
    names = {id(parameter): name for name, parameter in net.named_parameters()}
    found = [(names[id(parameter)], group) for group in groups for parameter in group["params"]]
    assert len(dict(found)) == len(found)
    return dict(found)


def blocks_of(net: nn.Module, name: str) -> dict[str, int]:
    """Return at which place of :data:`BLOCKS` the backbone's parameters stand."""
    places = {prefix: place for place, prefixes in enumerate(BLOCKS[name]) for prefix in prefixes.split()}
    return {
        key: next(place for prefix, place in places.items() if f"{key}.".startswith(f"{prefix}."))
        for key, _ in net.backbone.named_parameters()
    }


RATES = {"minivggnet": (1.0, 1.0)}
"""backbone_lr_mult and layer_decay of nets that have no backbone; others have some."""


@pytest.mark.parametrize("weight_decay", [0.0, 0.1], ids=["free", "decayed"])
@pytest.mark.parametrize("net", ["minivggnet", "mobilenetv3_small_050", *BLOCKS])
def test_every_parameter_is_in_one_group(net: str, weight_decay: float) -> None:
    network = build_net(net, 10, 64)
    found = by_name(network, parameter_groups(network, 0.1, weight_decay, *RATES.get(net, (0.5, 0.9))))
    assert found.keys() == {name for name, _ in network.named_parameters()}


@pytest.mark.parametrize(("backbone_lr_mult", "layer_decay"), [(1.0, 1.0), (0.1, 1.0), (1.0, 0.5), (0.2, 0.75)])
@pytest.mark.parametrize("net", list(BLOCKS))
def test_rates_fall_from_the_head_block_by_block(net: str, backbone_lr_mult: float, layer_decay: float) -> None:
    network = build_net(net, 10, 64)
    found = by_name(network, parameter_groups(network, 0.3, 0.1, backbone_lr_mult, layer_decay))
    place = blocks_of(network, net)
    if net != "test_resnet":  # timm counts the layers after a last block, norms for most, to that block
        place = {key: min(value, len(BLOCKS[net]) - 2) for key, value in place.items()}
    last = max(place.values())
    expected = {
        f"backbone.{key}": 0.3 * backbone_lr_mult * layer_decay ** (last - value) for key, value in place.items()
    }
    expected |= {f"head.{key}": 0.3 for key, _ in network.head.named_parameters()}
    assert {name: group["lr"] for name, group in found.items()} == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("net", ["shallownet", "lenet", "minivggnet"])
def test_a_net_from_scratch_learns_at_one_rate(net: str) -> None:
    network = build_net(net, 10, 32)
    found = by_name(network, parameter_groups(network, 0.3, 0.1))
    assert {group["lr"] for group in found.values()} == {0.3}


@pytest.mark.parametrize("key", ["backbone_lr_mult", "layer_decay"])
def test_rates_of_blocks_are_refused_where_there_are_none(key: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.{key}=0\.5 only applies to timm models"):
        parameter_groups(build_net("lenet", 10, 32), 0.3, 0.1, **{key: 0.5})


@pytest.mark.parametrize("net", ["minivggnet", "mobilenetv3_small_050", *BLOCKS])
def test_biases_and_norms_are_spared_weight_decay(net: str) -> None:
    network = build_net(net, 10, 64)
    kinds = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)
    norms = {id(p) for module in network.modules() if isinstance(module, kinds) for p in module.parameters()}
    found = by_name(network, parameter_groups(network, 0.1, 0.25, *RATES.get(net, (0.5, 0.9))))
    decay = {name: group["weight_decay"] for name, group in found.items()}
    spared = {name for name, p in network.named_parameters() if name.endswith("bias") or id(p) in norms}
    assert len(spared) > 3
    assert {name for name, value in decay.items() if value == 0} == spared
    assert {value for name, value in decay.items() if name not in spared} == {0.25}


@pytest.mark.parametrize("net", ["test_resnet", "test_vit"])
def test_what_does_not_learn_is_left_out(net: str) -> None:
    network = build_net(net, 10, 64, freeze=True)
    assert by_name(network, parameter_groups(network, 0.1, 0.1, 0.5, 0.5)).keys() == {"head.1.weight", "head.1.bias"}


class Rates(L.Callback):
    """Keeps the rate of every group in every epoch."""

    def __init__(self) -> None:
        self.rates: list[list[float]] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])


@pytest.mark.parametrize(
    ("schedule", "warmup_epochs"),
    [("constant", 0), ("constant", 2), ("cosine", 2), ("step", 0), ("step", 1), ("poly", 2), ("tanh", 0)],
)
def test_a_schedule_scales_all_rates_alike(tiny_tree: Path, schedule: str, warmup_epochs: int) -> None:
    """The head's rate takes its course, and every block keeps its part of it."""
    L.seed_everything(1, verbose=False)
    recorder = Rates()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=5,
        limit_train_batches=1,
        limit_val_batches=0,
        default_root_dir=tiny_tree.parent,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
        callbacks=[recorder],
    )
    options = {
        "schedule": schedule,
        "warmup_epochs": warmup_epochs,
        "backbone_lr_mult": 0.1,
        "layer_decay": 0.5,
        "lr": 0.01,
    }
    module = AnimalClassifier(net="test_resnet", **options)
    trainer.fit(module, AnimalsDataModule(root=str(tiny_tree), size=32, batch_size=4, num_workers=0))
    parts = [[rate / rates[-1] for rate in rates] for rates in recorder.rates]
    expected = [0.1 * 0.5 ** (4 - block) for block in range(5) for _ in ("norms and biases", "others")]
    assert len(parts) == 5
    for part in parts:
        assert part == pytest.approx([*expected, 1.0], rel=1e-6)
    heads = [rates[-1] for rates in recorder.rates]
    assert heads[0] == pytest.approx(1e-5 if warmup_epochs else 0.01)  # timm's warm-up starts at 1e-5
    assert (len(set(heads)) > 1) == (schedule != "constant" or warmup_epochs > 0)
    if schedule in ("constant", "step"):
        assert heads[warmup_epochs] == pytest.approx(0.01)


@pytest.mark.parametrize("freeze", [False, True], ids=["whole", "frozen"])
def test_the_optimizer_steps_at_these_rates(freeze: bool) -> None:
    """Plain gradient descent of the sum of all parameters moves each by its rate."""
    network = build_net("test_resnet", 10, 64, freeze=freeze)
    groups = parameter_groups(network, 0.5, 0.0, 0.1, 0.5)
    expected = {name: group["lr"] for name, group in by_name(network, groups).items()}
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    sum(parameter.sum() for parameter in network.parameters() if parameter.requires_grad).backward()
    torch.optim.SGD(groups, lr=123.0).step()
    for name, parameter in network.named_parameters():
        torch.testing.assert_close(before[name] - parameter.detach(), torch.full_like(parameter, expected.get(name, 0)))
