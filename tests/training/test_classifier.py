"""The LightningModule: its loss, metrics, checkpoint, optimizer and schedule."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from timm.scheduler import create_scheduler_v2
from torch import Tensor

from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.classifier import AnimalClassifier

SIZE = 16
DATA_KEYS = {"sampling", "augment", "seed", "batch_size", "size", "num_workers"}


class Recorder(L.Callback):
    """Keeps what went into and came out of the training."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.val_losses: list[float] = []

    def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.batches.append((batch[0].clone(), batch[1].clone()))
        self.losses.append(float(outputs["loss"]))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        self.val_losses.append(float(trainer.callback_metrics["loss/val"]))


def train(tree: Path, epochs: int = 1, trainer: dict[str, Any] | None = None, **options: Any):
    """Train with the options of the model and of the data, and return module, trainer and recorder."""
    L.seed_everything(1, verbose=False)
    recorder = Recorder()
    data = {"size": SIZE, "batch_size": 8, "num_workers": 0}
    data |= {key: value for key, value in options.items() if key in DATA_KEYS}
    model = {"net": "shallownet"} | {key: value for key, value in options.items() if key not in DATA_KEYS}
    lightning = L.Trainer(
        **{"accelerator": "cpu", "max_epochs": epochs, "use_distributed_sampler": False, **(trainer or {})},
        default_root_dir=tree.parent,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[BatchSeed(42), recorder],
    )
    module = AnimalClassifier(**model)
    lightning.fit(module, AnimalsDataModule(root=str(tree), **data))
    return module, lightning, recorder


def probabilities(module: AnimalClassifier, loader) -> tuple[np.ndarray, np.ndarray]:
    """Return (N, C) probabilities and (N,) labels of a loader's photographs, in float64."""
    module.eval()
    with torch.no_grad():
        rows = [(module.net(images).double().softmax(1), labels) for images, labels in loader]
    return torch.cat([row[0] for row in rows]).numpy(), torch.cat([row[1] for row in rows]).numpy()


@pytest.fixture(scope="module")
def trained(tiny_tree: Path):
    """A net that has learnt a little, with a last batch that is smaller than the others."""
    module, trainer, _ = train(tiny_tree, epochs=5, batch_size=4, lr=0.003, class_weights="reference")
    sizes = [len(labels) for _, labels in trainer.datamodule.val_dataloader()]
    assert sizes == [4, 4, 4, 2]
    return module, trainer


# ---------------------------------------------------------------- loss and metrics


@pytest.mark.parametrize(
    ("option", "factor"),
    [
        ("none", lambda counts: np.ones(10)),
        ("balanced", lambda counts: counts.sum() / (10 * counts)),
        ("reference", lambda counts: np.round(counts.max() / counts, 3)),
    ],
)
def test_training_loss_is_the_mean_of_weighted_losses(tiny_tree, option, factor):
    module, trainer, recorder = train(tiny_tree, lr=0.0, class_weights=option)
    counts = np.bincount(trainer.datamodule.folds["train"].labels)
    factors = factor(counts)
    every = []
    for (images, labels), loss in zip(recorder.batches, recorder.losses, strict=True):
        with torch.no_grad():
            chosen = module.net(images).double().softmax(1)[torch.arange(len(labels)), labels]
        weighted = factors[labels.numpy()] * -np.log(chosen.numpy())
        assert loss == pytest.approx(weighted.mean(), rel=1e-5)
        every += weighted.tolist()
    assert float(trainer.callback_metrics["loss/train"]) == pytest.approx(np.mean(every), rel=1e-5)
    assert len(every) == counts.sum()


def test_metrics_of_validation_are_scikit_learn_s(trained):
    module, trainer = trained
    predicted, labels = probabilities(module, trainer.datamodule.val_dataloader())
    classes = predicted.argmax(1)
    expected = {
        "loss/val": log_loss(labels, predicted, labels=range(10)),
        "acc/val": accuracy_score(labels, classes),
        "macro_recall/val": balanced_accuracy_score(labels, classes),
        "macro_f1/val": f1_score(labels, classes, average="macro", zero_division=0),
    }
    assert 0 < expected["acc/val"] < 1
    assert set(labels) == set(range(10))
    found = {key: float(trainer.callback_metrics[key]) for key in expected}
    assert found == pytest.approx(expected, rel=1e-5)


def test_metrics_of_training_are_those_of_the_batches(tiny_tree):
    module, trainer, recorder = train(tiny_tree, lr=0.0, class_weights="balanced")
    predicted, labels = probabilities(module, recorder.batches)
    classes = predicted.argmax(1)
    expected = {
        "acc/train": accuracy_score(labels, classes),
        "macro_recall/train": balanced_accuracy_score(labels, classes),
        "macro_f1/train": f1_score(labels, classes, average="macro", labels=range(10), zero_division=0),
    }
    assert {key: float(trainer.callback_metrics[key]) for key in expected} == pytest.approx(expected, rel=1e-5)


def test_metrics_begin_anew_each_epoch(tiny_tree):
    """With nothing learnt, every epoch has the same metrics; a sum over epochs would move."""
    _, _, recorder = train(tiny_tree, epochs=3, lr=0.0)
    assert len(set(recorder.val_losses)) == 1


# ---------------------------------------------------------------- checkpoint


@pytest.fixture(scope="module")
def checkpoint(trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("checkpoint") / "some.ckpt"
    trained[1].save_checkpoint(file)
    return file


def test_a_checkpoint_is_plain_data_that_knows_classes_and_size(checkpoint):
    content = torch.load(checkpoint, weights_only=True)
    hparams = content["hyper_parameters"]
    assert (hparams["class_names"], hparams["input_size"]) == (list(ANIMALS10), SIZE)
    assert content["datamodule_hyper_parameters"]["size"] == SIZE


def test_a_checkpoint_gives_the_same_logits(trained, checkpoint):
    module, trainer = trained
    restored = AnimalClassifier.load_from_checkpoint(checkpoint, map_location="cpu", weights_only=True).eval()
    images, _ = next(iter(trainer.datamodule.val_dataloader()))
    with torch.no_grad():
        assert torch.equal(restored(images), module.eval()(images))


def test_classes_of_a_checkpoint_need_a_checkpoint_to_train(tiny_tree):
    with pytest.raises(UsageError, match=r"class_names and model\.input_size belong to a checkpoint"):
        train(tiny_tree, net="test_resnet", size=32, class_names=list(ANIMALS10), input_size=32, weights="imagenet")


# ---------------------------------------------------------------- optimizer


@pytest.mark.parametrize(
    ("name", "kind"),
    [("adam", "Adam"), ("adamw", "AdamW"), ("SGD", "SGD"), ("rmsprop", "RMSprop"), ("lamb", "Lamb"), ("lion", "Lion")],
)
def test_optimizer_by_name(tiny_tree, name, kind):
    _, trainer, _ = train(tiny_tree, optimizer=name, lr=0.0123, trainer={"limit_train_batches": 1})
    (optimizer,) = trainer.optimizers
    assert type(optimizer).__name__ == kind
    assert {group["lr"] for group in optimizer.param_groups} == {0.0123}


@pytest.mark.parametrize(("given", "used"), [(None, 1e-8), (1e-7, 1e-7)])
def test_epsilon_of_the_optimizer(tiny_tree, given, used):
    _, trainer, _ = train(tiny_tree, optimizer_eps=given, trainer={"limit_train_batches": 1})
    assert {group["eps"] for group in trainer.optimizers[0].param_groups} == {used}


def test_unknown_optimizer_is_refused():
    with pytest.raises(UsageError, match=r"model\.optimizer='adamq' is unknown; did you mean 'adam\w*'"):
        AnimalClassifier(optimizer="adamq")


def test_weight_decay_spares_biases_and_norms(tiny_tree):
    module, trainer, _ = train(
        tiny_tree, net="minivggnet", weight_decay=0.25, trainer={"limit_train_batches": 1, "limit_val_batches": 1}
    )
    decay = {id(p): group["weight_decay"] for group in trainer.optimizers[0].param_groups for p in group["params"]}
    norms = {
        id(parameter)
        for layer in module.net.modules()
        if isinstance(layer, torch.nn.BatchNorm1d | torch.nn.BatchNorm2d)
        for parameter in layer.parameters()
    }
    assert len(norms) > 4
    for name, parameter in module.net.named_parameters():
        spared = name.endswith("bias") or id(parameter) in norms
        assert decay[id(parameter)] == (0.0 if spared else 0.25), name


def test_a_frozen_backbone_is_left_out_of_the_optimizer(tiny_tree):
    module, trainer, _ = train(
        tiny_tree, net="test_resnet", size=32, freeze=True, trainer={"limit_train_batches": 1, "limit_val_batches": 1}
    )
    learning = {id(p) for group in trainer.optimizers[0].param_groups for p in group["params"]}
    assert learning == {id(p) for p in module.net.head.parameters()}


# ---------------------------------------------------------------- schedule

EPOCHS = 14
LR = 0.1


def timm_rates(sched: str, warmup: int) -> list[float]:
    """Return the rate of every epoch as timm's own scheduler gives it."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=LR)
    scheduler, _ = create_scheduler_v2(
        optimizer, sched, num_epochs=EPOCHS, warmup_epochs=warmup, decay_epochs=EPOCHS // 3
    )
    rates = []
    for epoch in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    return rates


@pytest.mark.parametrize("warmup", [0, 3])
@pytest.mark.parametrize("schedule", ["cosine", "step", "poly", "tanh"])
def test_schedules_are_timm_s(tiny_tree, schedule, warmup):
    limits = {"limit_train_batches": 1, "limit_val_batches": 1}
    options = {"schedule": schedule, "warmup_epochs": warmup, "lr": LR, "optimizer": "sgd"}
    _, _, recorder = train(tiny_tree, EPOCHS, limits, **options)
    expected = timm_rates(schedule, warmup)
    assert recorder.rates == pytest.approx(expected, rel=1e-6)
    assert len(set(recorder.rates)) > 1


def test_cosine_is_a_cosine(tiny_tree):
    _, _, recorder = train(tiny_tree, 5, {"limit_train_batches": 1, "limit_val_batches": 0}, schedule="cosine", lr=0.1)
    assert recorder.rates == pytest.approx([0.05 * (1 + math.cos(math.pi * epoch / 5)) for epoch in range(5)])


def test_constant_rate(tiny_tree):
    _, _, recorder = train(tiny_tree, 3, {"limit_train_batches": 1, "limit_val_batches": 0}, lr=0.1)
    assert recorder.rates == [0.1, 0.1, 0.1]


def test_constant_rate_after_a_warm_up(tiny_tree):
    limits = {"limit_train_batches": 1, "limit_val_batches": 0}
    _, _, recorder = train(tiny_tree, 6, limits, lr=0.1, warmup_epochs=2)
    start = recorder.rates[0]
    assert 0 < start < 0.01
    assert recorder.rates == pytest.approx([start, (start + 0.1) / 2, 0.1, 0.1, 0.1, 0.1])


# ---------------------------------------------------------------- every setting has its effect


@pytest.mark.parametrize("sampling", ["shuffle", "weighted"])
@pytest.mark.parametrize("option", ["none", "balanced", "reference"])
def test_a_warning_says_when_both_correct_the_imbalance(tiny_tree, sampling, option):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(tiny_tree, sampling=sampling, class_weights=option, trainer={"fast_dev_run": 1})
    found = [str(warning.message) for warning in caught if "rare classes count twice" in str(warning.message)]
    both = sampling == "weighted" and option != "none"
    assert len(found) == both
    assert all(f"model.class_weights={option}" in message for message in found)


def outcome(tree: Path, **options: Any) -> dict[str, list[Any]]:
    """Return the batches, the losses and the parameters of two steps."""
    limits = {"limit_train_batches": 2, "limit_val_batches": 0}
    module, _, recorder = train(tree, trainer=limits, **{"net": "mobilenetv3_small_050", "size": 32, **options})
    return {
        "batch": [tensor.tolist() for batch in recorder.batches for tensor in batch],
        "loss": recorder.losses,
        "parameters": [(name, value.tolist()) for name, value in module.net.named_parameters()],
    }


@pytest.fixture(scope="module")
def default(tiny_tree):
    return outcome(tiny_tree)


def test_the_same_settings_give_the_same(tiny_tree, default):
    assert outcome(tiny_tree) == default


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        ({"seed": 43}, {"batch", "loss", "parameters"}),
        ({"sampling": "weighted"}, {"batch", "loss", "parameters"}),
        ({"augment": "light"}, {"batch", "loss", "parameters"}),
        ({"class_weights": "reference"}, {"loss", "parameters"}),
        ({"dropout": 0.6}, {"loss", "parameters"}),
        ({"head": "dense"}, {"loss", "parameters"}),
        ({"features": "pre_logits"}, {"loss", "parameters"}),
        ({"freeze": True}, {"loss", "parameters"}),
        ({"optimizer_eps": 0.1}, {"loss", "parameters"}),
        ({"lr": 0.01}, {"loss", "parameters"}),
        ({"optimizer": "sgd"}, {"loss", "parameters"}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_setting_has_its_effect(tiny_tree, default, change, affected):
    changed = outcome(tiny_tree, **change)
    assert {key for key, value in changed.items() if value != default[key]} == affected


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_training_on_a_gpu_in_half_precision(tiny_tree):
    options = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    module, trainer, recorder = train(tiny_tree, 1, options, net="test_resnet", size=32, class_weights="balanced")
    assert recorder.batches[0][0].device.type == "cuda"
    assert np.isfinite(recorder.losses).all()
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert math.isfinite(float(trainer.callback_metrics["loss/val"]))
