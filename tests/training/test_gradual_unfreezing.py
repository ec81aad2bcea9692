"""GradualUnfreezing: which tensors change in which epoch of real runs, resumed ones included."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.callbacks.gradual_unfreezing import GradualUnfreezing
from animals_pl.training.classifier import AnimalClassifier

BATCHES = 3  # of 43 images, at most 16 in each
BLOCKS = ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"]
"""The parts of test_resnet in the order in which an image passes them."""


class States(L.Callback):
    """Keeps the net as it was before and after every epoch."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def keep(self, pl_module: Any) -> None:
        self.states.append({name: values.clone() for name, values in pl_module.net.state_dict().items()})

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.keep(pl_module)

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.keep(pl_module)


def train(
    tree: Path,
    gradual_unfreezing: GradualUnfreezing,
    *more: L.Callback,
    epochs: int = 4,
    ckpt_path: Path | None = None,
    **model,
):
    """Train test_resnet and return the states between its epochs, and the optimizer's state at the end."""
    L.seed_everything(1, verbose=False)
    recorder = States()
    trainer = L.Trainer(
        default_root_dir=tree.parent,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=bool(more),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        limit_val_batches=1,
        use_distributed_sampler=False,
        callbacks=[BatchSeed(42), gradual_unfreezing, recorder, *more],
    )
    options = {"net": "test_resnet", "optimizer": "adamw", "weight_decay": 0.05, "dropout": 0.5, **model}
    data = AnimalsDataModule(root=str(tree), size=32, batch_size=16, num_workers=0, augment="light")
    trainer.fit(AnimalClassifier(**options), data, ckpt_path=ckpt_path, weights_only=True)
    return recorder.states, trainer.optimizers[0].state_dict()


def moved(states: list[dict[str, Tensor]]) -> list[list[str]]:
    """Return for every epoch which blocks of the backbone, and whether the head, changed in any tensor."""
    parts = {block: tuple(f"backbone.{name}." for name in block.split()) for block in BLOCKS} | {"head": ("head.",)}
    return [
        [
            part
            for part, start in parts.items()
            if any(not torch.equal(after[name], before[name]) for name in after if name.startswith(start))
        ]
        for before, after in pairwise(states)
    ]


ALL = [*BLOCKS, "head"]


@pytest.mark.parametrize(
    ("epochs", "stages", "expected"),
    [
        (2, 1, [["head"], ["head"], ALL, ALL]),
        (9, 1, [["head"]] * 2),
        (1, 3, [["head"], ALL[-2:], ALL[-4:], ALL]),
        (0, 2, [ALL[-3:], ALL]),
        (1, 5, [["head"], ALL[-2:], ALL[-3:], ALL[-4:]]),
    ],
    ids=["at_once", "head_only", "three_stages", "no_head_epochs", "block_by_block"],
)
def test_an_epoch_trains_the_head_and_the_unfrozen_blocks(
    tiny_tree: Path, epochs: int, stages: int, expected: list[list[str]]
) -> None:
    states, _ = train(tiny_tree, GradualUnfreezing(epochs, stages), epochs=len(expected))
    assert moved(states) == expected


def test_an_unfrozen_backbone_changes_in_every_tensor(tiny_tree: Path) -> None:
    """Statistics and weights alike, as without the callback."""
    states, _ = train(tiny_tree, GradualUnfreezing(1, 1), epochs=3)
    still = [name for name, values in states[3].items() if torch.equal(values, states[1][name])]
    assert still == ["normalize.mean", "normalize.std"]


def test_the_optimizer_has_no_moments_of_frozen_parameters(tiny_tree: Path) -> None:
    """It has all parameters from the start, so that a checkpoint of any epoch fits."""
    _, early = train(tiny_tree, GradualUnfreezing(1, 1), epochs=1)
    _, late = train(tiny_tree, GradualUnfreezing(1, 1), epochs=2)
    assert [group["params"] for group in early["param_groups"]] == [group["params"] for group in late["param_groups"]]
    assert len(early["state"]) == 2
    assert len(late["state"]) == sum(len(group["params"]) for group in late["param_groups"]) > 40


@pytest.fixture(scope="module")
def whole(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory):
    """Four epochs with the head alone in two and two stages after, and a checkpoint after every step."""
    folder = tmp_path_factory.mktemp("steps")
    steps = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=1, save_top_k=-1)
    epochs = ModelCheckpoint(folder, filename="{epoch}", save_top_k=-1)
    return folder, *train(tiny_tree, GradualUnfreezing(2, 2), steps, epochs, schedule="cosine", backbone_lr_mult=0.5)


@pytest.mark.parametrize(
    "checkpoint",
    ["epoch=0", "epoch=2", "step=4", "step=7"],
)
def test_a_resumed_run_ends_like_the_one_that_was_not_interrupted(tiny_tree: Path, whole, checkpoint: str) -> None:
    folder, states, optimizer = whole
    options = {"schedule": "cosine", "backbone_lr_mult": 0.5}
    resumed, found = train(tiny_tree, GradualUnfreezing(2, 2), ckpt_path=folder / f"{checkpoint}.ckpt", **options)
    assert moved(states) == [["head"], ["head"], ALL[-3:], ALL]
    assert [name for name, values in states[-1].items() if not torch.equal(values, resumed[-1][name])] == []
    assert found["state"].keys() == optimizer["state"].keys()
    for index, moments in optimizer["state"].items():
        assert all(torch.equal(value, found["state"][index][key]) for key, value in moments.items())


# ---------------------------------------------------------------- the fraction that is trained


@pytest.mark.parametrize(
    ("epochs", "stages", "fractions"),
    [
        (0, 1, [1, 1, 1]),
        (1, 1, [0, 1, 1]),
        (2, 1, [0, 0, 1]),
        (0, 4, [0.25, 0.5, 0.75, 1, 1]),
        (2, 2, [0, 0, 0.5, 1, 1]),
    ],
    ids=["never", "one", "two", "stages_at_once", "two_stages"],
)
def test_fraction_of_the_backbone_that_is_trained(epochs: int, stages: int, fractions: list[float]) -> None:
    assert [GradualUnfreezing(epochs, stages).fraction(epoch) for epoch in range(len(fractions))] == fractions


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("epochs", "stages"), [(-1, 1), (1, 0), (0, -2)])
def test_numbers_that_are_too_small_are_refused(epochs: int, stages: int) -> None:
    with pytest.raises(UsageError, match=rf"GradualUnfreezing: epochs={epochs} .*stages={stages} "):
        GradualUnfreezing(epochs, stages)


@pytest.mark.parametrize(
    "options", [{"net": "test_resnet", "freeze": True}, {"net": "minivggnet", "dropout": 0.2}], ids=["frozen", "whole"]
)
def test_a_net_without_a_trainable_backbone_is_refused(tiny_tree: Path, options: dict[str, Any]) -> None:
    with pytest.raises(
        UsageError, match=rf"GradualUnfreezing: model\.net='{options['net']}' has no trainable backbone.*model\.freeze"
    ):
        train(tiny_tree, GradualUnfreezing(), **options)
