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
from safetensors.torch import load_file
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, log_loss
from timm.scheduler import create_scheduler_v2
from torch import Tensor

from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.info import DataInfo
from animals_pl.errors import UsageError
from animals_pl.models.synsets import SYNSETS
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.split_metrics import SplitMetrics

SIZE = 16
DATA_KEYS = {"sampling", "augment", "seed", "batch_size", "size", "num_workers"}


class Recorder(L.Callback):
    """Keeps what went into and came out of the training."""

    def __init__(self) -> None:
        self.batches: list[tuple[Tensor, Tensor]] = []
        self.seen: list[Tensor] = []  # what the net saw of them
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.val_losses: list[float] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        def keep(net: torch.nn.Module, images: tuple[Tensor]) -> None:
            if net.training:
                self.seen.append(images[0].clone())

        self.hook = pl_module.net.register_forward_pre_hook(keep)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.hook.remove()

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
    """Return (N, C) probabilities and (N,) labels of a loader's images, in float64."""
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


def test_hflip_averages_the_mean_of_both_logits(tiny_tree):
    module, trainer, recorder = train(tiny_tree, lr=0.0, tta="hflip")
    images, _ = next(iter(trainer.datamodule.val_dataloader()))
    module.eval()
    with torch.no_grad():
        expected = (module.net(images) + module.net(images.flip(3))) / 2
        torch.testing.assert_close(module(images), expected)
        assert not torch.allclose(module(images), module.net(images), atol=1e-4)
        module.train()
        torch.testing.assert_close(module(images), module.net(images))
    assert recorder.losses


def effective(counts: np.ndarray, beta: float) -> np.ndarray:
    """Return one over the effective number of each class's images, with the mean 1."""
    inverse = np.array([1 / sum(beta**power for power in range(count)) for count in counts.tolist()])
    return inverse / inverse.mean()


@pytest.mark.parametrize(
    ("option", "factor"),
    [
        ("none", lambda counts: np.ones(10)),
        ("balanced", lambda counts: counts.sum() / (10 * counts)),
        ("reference", lambda counts: np.round(counts.max() / counts, 3)),
        ("effective", lambda counts: effective(counts, 0.999)),
    ],
)
def test_training_loss_is_the_mean_of_weighted_losses(tiny_tree, option, factor):
    module, trainer, recorder = train(tiny_tree, lr=0.0, class_weights=option)
    counts = np.bincount(trainer.datamodule.catalogs["train"].labels)
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


@pytest.mark.parametrize(
    "options",
    [
        {"loss": "focal"},
        {"loss": "logit_adjusted"},
        {"class_weights": "effective"},
        {"label_smoothing": 0.3},
        {"mixup": 1.0, "cutmix": 1.0},
    ],
    ids=lambda options: "_".join(map(str, next(iter(options.items())))),
)
def test_validation_is_plain_cross_entropy_whatever_training_minimises(tiny_tree, options):
    module, trainer, _ = train(tiny_tree, lr=0.003, **options)
    predicted, labels = probabilities(module, trainer.datamodule.val_dataloader())
    expected = log_loss(labels, predicted, labels=range(10))
    assert float(trainer.callback_metrics["loss/val"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("tau", [0.5, 1.0], ids=["half", "full"])
def test_logits_are_adjusted_by_the_frequencies_of_the_training_split(tiny_tree, tau):
    module, trainer, recorder = train(tiny_tree, lr=0.0, loss="logit_adjusted", logit_tau=tau)
    counts = np.bincount(trainer.datamodule.catalogs["train"].labels)
    assert len(set(counts)) > 1
    for (images, labels), loss in zip(recorder.batches, recorder.losses, strict=True):
        with torch.no_grad():
            logits = module.net(images).double() + tau * torch.tensor(counts / counts.sum()).log()
        chosen = logits.softmax(1)[torch.arange(len(labels)), labels]
        assert loss == pytest.approx(-np.log(chosen.numpy()).mean(), rel=1e-5)


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


def test_metrics_are_reset_each_epoch(tiny_tree):
    """Without learning, every epoch has the same metrics; a sum over epochs would change."""
    _, _, recorder = train(tiny_tree, epochs=3, lr=0.0)
    assert len(set(recorder.val_losses)) == 1


def test_metrics_take_memory_for_the_images_not_for_all_pairs_of_classes():
    """A dense confusion matrix of a million classes has 8 TB."""
    metrics = SplitMetrics(1_000_000)
    metrics.reset()
    logits = torch.zeros(3, 1_000_000)
    logits[[0, 1, 2], [7, 999_999, 7]] = 1
    metrics.update(torch.ones(3), logits, torch.tensor([7, 999_999, 8]))
    matrix = metrics.matrix()
    assert (matrix.nnz, matrix[7, 7], matrix[8, 7]) == (3, 1, 1)
    assert metrics.compute() == pytest.approx({"loss": 1, "acc": 2 / 3, "macro_recall": 2 / 3, "macro_f1": 5 / 9})


def test_a_process_without_images_gathers_as_many_columns_as_the_others():
    """Processes can only exchange tensors of the same type and number of dimensions."""
    metrics = SplitMetrics(3)
    empty = metrics.pairs.pairs[0]
    metrics.update(torch.ones(1), torch.eye(3)[:1], torch.tensor([0]))
    assert (empty.dtype, empty.ndim) == (metrics.pairs.pairs[1].dtype, metrics.pairs.pairs[1].ndim)


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
    with pytest.raises(UsageError, match=r"model\.optimizer='adamq' is unknown\. Did you mean 'adam\w*'"):
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
    step = {"decay_epochs": (EPOCHS - warmup) // 3, "warmup_prefix": True} if sched == "step" else {}
    scheduler, _ = create_scheduler_v2(optimizer, sched, num_epochs=EPOCHS, warmup_epochs=warmup, **step)
    rates = []
    for epoch in range(EPOCHS):
        rates.append(optimizer.param_groups[0]["lr"])
        scheduler.step(epoch + 1)
    return rates


@pytest.mark.parametrize(("schedule", "warmup"), [("cosine", 0), ("step", 3), ("poly", 0), ("tanh", 3)])
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


def test_two_halves_of_a_correction_are_one():
    module = AnimalClassifier(net="shallownet", loss="logit_adjusted", logit_tau=0.5)
    module.set_data(DataInfo(("a", "b"), (5, 9), SIZE, "weighted_sqrt"))
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*rare classes are over-weighted")
        module.setup("fit")


@pytest.mark.parametrize("loss", ["cross_entropy", "focal", "logit_adjusted"])
@pytest.mark.parametrize("sampling", ["shuffle", "weighted", "weighted_sqrt"])
@pytest.mark.parametrize("option", ["none", "balanced", "reference", "effective"])
def test_a_warning_says_when_two_correct_the_imbalance(sampling, option, loss):
    module = AnimalClassifier(net="shallownet", class_weights=option, loss=loss)
    module.set_data(DataInfo(("a", "b"), (5, 9), SIZE, sampling))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        module.setup("fit")
    found = [str(warning.message) for warning in caught if "rare classes are over-weighted" in str(warning.message)]
    settings = {"data.sampling": sampling, "model.class_weights": option, "model.loss": loss}
    neutral = {"data.sampling": ["shuffle"], "model.class_weights": ["none"], "model.loss": ["cross_entropy", "focal"]}
    correcting = [f"{key}={value}" for key, value in settings.items() if value not in neutral[key]]
    assert len(found) == (len(correcting) > 1)
    for message in found:
        assert message.startswith(f"{' and '.join(correcting)} each correct the class imbalance")


def outcome(tree: Path, **options: Any) -> dict[str, list[Tensor]]:
    """Return the batches, the losses and the parameters of two steps."""
    limits = {"limit_train_batches": 2, "limit_val_batches": 0}
    module, _, recorder = train(tree, trainer=limits, **{"net": "mobilenetv3_small_050", "size": 32, **options})
    return {
        "batch": [tensor for batch in recorder.batches for tensor in batch],
        "loss": [torch.tensor(recorder.losses)],
        "parameters": list(module.net.parameters()),
    }


def differences(ours: dict[str, list[Tensor]], theirs: dict[str, list[Tensor]]) -> set[str]:
    """Return what differs between two outcomes."""
    return {
        key
        for key, tensors in ours.items()
        if len(tensors) != len(theirs[key]) or not all(map(torch.equal, tensors, theirs[key]))
    }


@pytest.fixture(scope="module")
def default(tiny_tree):
    return outcome(tiny_tree)


def test_the_same_settings_give_the_same(tiny_tree, default):
    assert differences(outcome(tiny_tree), default) == set()


@pytest.mark.parametrize(
    ("change", "affected"),
    [
        ({"seed": 43}, {"batch", "loss", "parameters"}),
        ({"sampling": "weighted"}, {"batch", "loss", "parameters"}),
        ({"sampling": "weighted_sqrt"}, {"batch", "loss", "parameters"}),
        ({"augment": "light"}, {"batch", "loss", "parameters"}),
        ({"class_weights": "reference"}, {"loss", "parameters"}),
        ({"class_weights": "effective"}, {"loss", "parameters"}),
        ({"loss": "focal"}, {"loss", "parameters"}),
        ({"loss": "logit_adjusted"}, {"loss", "parameters"}),
        ({"label_smoothing": 0.1}, {"loss", "parameters"}),
        ({"mixup": 0.2}, {"loss", "parameters"}),
        ({"cutmix": 1.0}, {"loss", "parameters"}),
        ({"freeze_norm": True}, {"loss", "parameters"}),
        ({"backbone_lr_mult": 0.1}, {"loss", "parameters"}),
        ({"layer_decay": 0.5}, {"loss", "parameters"}),
        ({"head_init": "random"}, set()),  # there are no weights
        ({"dropout": 0.6}, {"loss", "parameters"}),
        ({"head": "dense"}, {"loss", "parameters"}),
        ({"features": "pre_logits"}, {"loss", "parameters"}),
        ({"freeze": True}, {"loss", "parameters"}),
        ({"optimizer_eps": 0.1}, {"loss", "parameters"}),
        ({"lr": 0.01}, {"loss", "parameters"}),
        ({"optimizer": "sgd"}, {"loss", "parameters"}),
    ],
    ids=lambda value: "_".join(map(str, next(iter(value.items())))) if isinstance(value, dict) else "",
)
def test_a_setting_has_its_effect(tiny_tree, default, change, affected):
    assert differences(outcome(tiny_tree, **change), default) == affected


@pytest.mark.parametrize(
    ("chosen", "number"),
    [
        ({"loss": "focal"}, {"focal_gamma": 1.0}),
        ({"loss": "logit_adjusted"}, {"logit_tau": 0.5}),
        ({"class_weights": "effective"}, {"effective_beta": 0.5}),
        ({"mixup": 0.2}, {"mixup": 2.0}),
        ({"cutmix": 0.2}, {"cutmix": 2.0}),
        ({"mixup": 0.2}, {"cutmix": 1.0}),
    ],
    ids=lambda value: "_".join(map(str, next(iter(value.items())))),
)
def test_a_number_has_its_effect_where_it_has_a_meaning(tiny_tree, chosen, number):
    without, with_it = outcome(tiny_tree, **chosen), outcome(tiny_tree, **{**chosen, **number})
    assert differences(with_it, without) == {"loss", "parameters"}


@pytest.mark.parametrize(
    "options",
    [{"loss": "focal", "focal_gamma": 0.0}, {"loss": "logit_adjusted", "logit_tau": 0.0}],
    ids=["focal", "logit_adjusted"],
)
def test_a_loss_without_its_strength_is_cross_entropy(tiny_tree, default, options):
    assert differences(outcome(tiny_tree, **options), default) == set()


# ---------------------------------------------------------------- pretrained weights


@pytest.mark.parametrize("head_init", ["imagenet", "random"])
def test_a_head_starts_from_imagenet_s_rows_of_the_folders_animals(tiny_tree, weights, head_init):
    module, _, _ = train(tiny_tree, net="test_resnet", size=32, weights=weights, lr=0.0, head_init=head_init)
    rows, start = load_file(weights)["fc.weight"], module.net.head[-1].weight
    for row, name in enumerate(ANIMALS10.values()):
        expected = torch.stack([rows[index] for index in SYNSETS[name]]).mean(0)
        assert torch.allclose(start[row], expected, atol=1e-6) is (head_init == "imagenet")


@pytest.mark.parametrize(
    ("given", "pretrained", "still"),
    [(None, True, True), (None, False, False), (True, False, True), (False, True, False), (True, True, True)],
    ids=["default", "default_from_scratch", "frozen_from_scratch", "free", "frozen"],
)
def test_statistics_stay_where_they_are_pretrained_or_frozen(tiny_tree, weights, given, pretrained, still):
    options = {"weights": weights if pretrained else None, "freeze_norm": given}
    module, _, _ = train(tiny_tree, net="test_resnet", size=32, trainer={"limit_train_batches": 2}, **options)
    state, file = module.net.backbone.state_dict(), load_file(weights)
    start = {"running_mean": torch.zeros_like, "running_var": torch.ones_like}
    for name in (name for name in state if name.endswith(tuple(start))):
        before = file[name] if pretrained else start[name.rpartition(".")[2]](state[name])
        assert torch.equal(state[name], before) is still, name
    kernels = [name for name, _ in module.net.backbone.named_parameters() if name.endswith("weight")]
    assert not pretrained or any(not torch.equal(state[name], file[name]) for name in kernels)


def test_weights_for_a_net_from_scratch_are_refused_by_their_own_name(tiny_tree, weights):
    with pytest.raises(
        UsageError, match=r"model\.weights='.*only applies to timm models, not to model\.net='minivggnet'"
    ):
        train(tiny_tree, net="minivggnet", weights=weights)


# ---------------------------------------------------------------- numbers out of range


APPLIES_WITH = {
    "focal_gamma": {"loss": "focal"},
    "logit_tau": {"loss": "logit_adjusted"},
    "effective_beta": {"class_weights": "effective"},
}
"""Key → the setting without which it has no effect."""


@pytest.mark.parametrize(
    ("key", "value", "range_"),
    [
        ("dropout", 1.0, r"\[0, 1\)"),
        ("focal_gamma", -0.1, ">= 0"),
        ("logit_tau", -1.0, ">= 0"),
        ("effective_beta", 1.0, r"\[0, 1\)"),
        ("effective_beta", -0.1, r"\[0, 1\)"),
        ("label_smoothing", 1.0, r"\[0, 1\)"),
        ("label_smoothing", -0.1, r"\[0, 1\)"),
        ("mixup", -0.2, ">= 0"),
        ("cutmix", -0.2, ">= 0"),
        ("lr", -1.0, ">= 0"),
        ("backbone_lr_mult", 0.0, "> 0"),
        ("layer_decay", 0.0, r"\(0, 1\]"),
        ("layer_decay", 1.1, r"\(0, 1\]"),
        ("weight_decay", -0.1, ">= 0"),
        ("warmup_epochs", -1, ">= 0"),
        ("optimizer_eps", -1.0, ">= 0"),
        ("mixup", math.nan, ">= 0"),
    ],
)
def test_a_number_out_of_its_range_is_refused(key, value, range_):
    with pytest.raises(UsageError, match=rf"model\.{key}={value} is out of range\. Choose a value {range_}\.$"):
        AnimalClassifier(**{**APPLIES_WITH.get(key, {}), key: value})


@pytest.mark.parametrize("key", ["mixup", "cutmix", "lr", "weight_decay", "optimizer_eps", "backbone_lr_mult"])
def test_a_number_without_bound_is_refused(key):
    with pytest.raises(UsageError, match=rf"model\.{key}=inf is out of range. Choose a finite value"):
        AnimalClassifier(**{key: math.inf})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("loss", "foo", "one of 'cross_entropy', 'focal', 'logit_adjusted'"),
        ("class_weights", "x", "one of 'none'"),
        ("tta", "x", "one of 'none', 'hflip'"),
        ("head", 1, "one of 'linear', 'dense'"),
        ("features", "x", "one of 'pooled'"),
        ("schedule", "x", "one of 'constant'"),
        ("net", 5, "str$"),
        ("lr", None, "float$"),
        ("lr", "0.1", "float$"),
        ("lr", True, "float$"),
        ("lr", np.float64(0.1), "float$"),
        ("warmup_epochs", math.nan, "int$"),
        ("freeze", 1, "bool$"),
        ("class_names", "ab", r"list\[str\]"),
    ],
)
def test_a_value_of_another_type_is_refused(key, value, expected):
    with pytest.raises(UsageError, match=rf"^model\.{key}=.* is invalid; expected {expected}"):
        AnimalClassifier(**{key: value})


@pytest.mark.parametrize(
    ("key", "value"),
    [("effective_beta", 0.0), ("label_smoothing", 0.0), ("focal_gamma", 0.0), ("logit_tau", 0.0), ("layer_decay", 1.0)],
)
def test_a_number_at_the_end_of_its_range_is_taken(key, value):
    assert AnimalClassifier(**{**APPLIES_WITH.get(key, {}), key: value}).hparams[key] == value


@pytest.mark.parametrize("key", APPLIES_WITH)
def test_a_number_without_effect_is_refused(key):
    (needed,) = APPLIES_WITH[key].items()
    with pytest.raises(UsageError, match=rf"model\.{key}=0\.5 has no effect with model\.{needed[0]}="):
        AnimalClassifier(**{key: 0.5})
    assert AnimalClassifier().hparams[key] is None


# ---------------------------------------------------------------- MixUp and CutMix


def share_of(images: Tensor, seen: Tensor) -> tuple[str, float]:
    """Return how a batch was blended with the one rolled by an image, and the part that is its own."""
    images = images.double()
    other = images.roll(1, 0)
    share = float(((seen - other) * (images - other)).sum() / (images - other).square().sum())
    if torch.allclose(seen.double(), share * images + (1 - share) * other, atol=1e-2):
        return "mixup", share
    cut = (seen != images).any(1).any(0)  # (S, S): where any image of the batch has another's pixel
    rows, columns = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
    assert cut[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()  # a rectangle
    assert torch.equal(seen.double(), torch.where(cut, other, images))
    return "cutmix", 1 - float(cut.double().mean())


@pytest.mark.parametrize(
    ("options", "kinds"),
    [({"mixup": 1.0}, {"mixup"}), ({"cutmix": 1.0}, {"cutmix"}), ({"mixup": 1.0, "cutmix": 1.0}, {"mixup", "cutmix"})],
    ids=["mixup", "cutmix", "both"],
)
def test_targets_are_blended_as_the_images_are(tiny_tree, options, kinds):
    module, _, recorder = train(tiny_tree, epochs=2, lr=0.0, **options)
    found = set()
    for (images, labels), seen, loss in zip(recorder.batches, recorder.seen, recorder.losses, strict=True):
        assert images.dtype == torch.uint8
        kind, share = share_of(images, seen)
        found.add(kind)
        with torch.no_grad():
            log_p = module.net(seen).double().log_softmax(1)
        own, other = (-log_p[torch.arange(len(labels)), some] for some in (labels, labels.roll(1)))
        assert 0 <= share <= 1
        assert loss == pytest.approx(float((share * own + (1 - share) * other).mean()), rel=1e-4)
    assert found == kinds


def test_metrics_of_training_count_the_images_own_labels(tiny_tree):
    module, trainer, recorder = train(tiny_tree, lr=0.0, mixup=1.0, cutmix=1.0)
    labels = [batch[1] for batch in recorder.batches]
    predicted, labels = probabilities(module, zip(recorder.seen, labels, strict=True))
    assert float(trainer.callback_metrics["acc/train"]) == pytest.approx(accuracy_score(labels, predicted.argmax(1)))
    expected = f1_score(labels, predicted.argmax(1), average="macro", labels=range(10), zero_division=0)
    assert float(trainer.callback_metrics["macro_f1/train"]) == pytest.approx(expected)
    assert float(trainer.callback_metrics["loss/train"]) == pytest.approx(
        np.average(recorder.losses, weights=[len(batch[1]) for batch in recorder.batches]), rel=1e-5
    )


def test_blends_are_the_same_with_any_number_of_workers_and_other_in_every_epoch(tiny_tree):
    options = {"epochs": 2, "augment": "light", "mixup": 0.5, "cutmix": 0.5}
    alone, again, together = (train(tiny_tree, num_workers=workers, **options) for workers in (0, 0, 2))
    for module, _, recorder in (again, together):
        assert len(recorder.seen) == len(alone[2].seen) == 2 * len(alone[1].train_dataloader)
        assert all(map(torch.equal, recorder.seen, alone[2].seen))
        assert recorder.losses == alone[2].losses
        assert all(torch.equal(value, module.state_dict()[key]) for key, value in alone[0].state_dict().items())
    shares = [share_of(batch[0], seen) for batch, seen in zip(alone[2].batches, alone[2].seen, strict=True)]
    assert len(set(shares)) == len(shares)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_training_on_a_gpu_in_half_precision(tiny_tree):
    options = {"accelerator": "gpu", "devices": 1, "precision": "bf16-mixed"}
    module, trainer, recorder = train(tiny_tree, 1, options, net="test_resnet", size=32, class_weights="balanced")
    assert recorder.batches[0][0].device.type == "cuda"
    assert np.isfinite(recorder.losses).all()
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    assert math.isfinite(float(trainer.callback_metrics["loss/val"]))
