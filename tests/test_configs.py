"""The shipped configurations: each one trains, and the reference's are the reference's."""

from __future__ import annotations

import gc
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from animals_pl.cli import main
from animals_pl.training.classifier import AnimalClassifier

FOLDER = Path(__file__).parents[1] / "configs"
CONFIGS = sorted(FOLDER.glob("*.yaml"))

SMALL, LARGE, RESNET = "tf_mobilenetv3_small_100.in1k", "tf_mobilenetv3_large_100.in1k", "resnetv2_50.a1h_in1k"
REFERENCE = {
    "shallownet": ("shallownet", None, "none", 15),
    "lenet": ("lenet", None, "none", 15),
    "minivggnet": ("minivggnet", None, "none", 15),
    "mobilenetv3_large_frozen": (LARGE, "linear", "none", 15),
    "mobilenetv3_large_dense": (LARGE, "dense", "none", 15),
    "mobilenetv3_large_frozen_aug": (LARGE, "linear", "reference", 15),
    "resnet50v2_frozen": (RESNET, "linear", "none", 15),
    "mobilenetv3_small_frozen": (SMALL, "linear", "none", 100),
    "mobilenetv3_small_dense": (SMALL, "dense", "none", 30),
    "mobilenetv3_small_frozen_aug": (SMALL, "linear", "reference_no_flip", 30),
    "mobilenetv3_small_dense_aug": (SMALL, "dense", "reference_no_flip", 25),
}
"""The experiments' table: net, head, augmentation, epochs."""

MAY_DIFFER = {
    *("name", "model.net", "model.head", "model.features", "model.freeze", "model.dropout", "model.weights"),
    *("model.head_init", "data.augment", "trainer.max_epochs"),
}
PROTOCOL = {
    "seed_everything": 42,
    "monitor": "loss/val",
    "data.root": "datasets/animals10/raw-img",
    "data.size": 224,
    "data.resize": "stretch",
    "data.interpolation": "bilinear",
    "data.batch_size": 64,
    "data.sampling": "shuffle",
    "data.val_fraction": 0.3,
    "data.test_fraction": 0.0,
    "data.seed": 42,
    "model.class_weights": "reference",
    "model.optimizer": "adam",
    "model.lr": 1e-3,
    "model.weight_decay": 0.0,
    "model.optimizer_eps": 1e-7,
    "model.schedule": "constant",
    "model.warmup_epochs": 0,
    "trainer.accelerator": "auto",
}


def keys_of(file: Path) -> dict[str, object]:
    """Return a configuration as ``section.key`` → value."""
    flat: dict[str, object] = {}
    flatten("", yaml.safe_load(file.read_text(encoding="utf-8")), flat)
    return flat


def flatten(prefix: str, value: object, flat: dict[str, object]) -> None:
    if isinstance(value, dict):
        for key, inner in value.items():
            flatten(f"{prefix}.{key}".lstrip("."), inner, flat)
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            flatten(f"{prefix}.{number}", inner, flat)
    else:
        flat[prefix] = value


@pytest.fixture
def steps(monkeypatch) -> Iterator[list[float]]:
    """The loss of every training step; memory of large nets is freed afterwards."""
    losses: list[float] = []
    step = AnimalClassifier.training_step

    def record(self, batch, batch_idx):
        loss = step(self, batch, batch_idx)
        losses.append(loss.item())
        return loss

    monkeypatch.setattr(AnimalClassifier, "training_step", record)
    yield losses
    gc.collect()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_trains(tiny_tree, tmp_path, steps, config):
    """Apart from images, their size, steps and weights, which would be downloaded."""
    keys = keys_of(config)
    size = min(64, int(str(keys["data.size"])))  # LeNet has 78 million parameters at 224 px
    data = ["--data.size", size, "--data.root", tiny_tree, "--data.batch_size", 2, "--data.num_workers", 0]
    trainer = ["--trainer.fast_dev_run", 1, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path]
    without = {"model.weights": "null", "model.imagenet_prior": "0"}  # the prior needs the weights
    weights = [part for key, value in without.items() if key in keys for part in (f"--{key}", value)]
    args = ["fit", "--config", config, *data, *trainer, *weights, "--cache_features", "false"]
    assert main([str(arg) for arg in args]) == 0
    assert len(steps) == 1
    assert torch.tensor(steps).isfinite().all()


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_explains_every_key(config):
    lines = config.read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if re.match(r"[ -]*\w+: *[^ #]", line)]
    assert len(keys) == len(keys_of(config))
    assert [line for line in keys if not re.search(r"\S  +# \S", line)] == []


@pytest.mark.parametrize("config", CONFIGS, ids=lambda file: file.stem)
def test_a_configuration_says_how_to_run_it_and_bears_its_name(config):
    assert keys_of(config)["name"] == config.stem
    heading = re.match(r"(#.*\n)+", config.read_text(encoding="utf-8")).group()
    assert f"python -m animals_pl fit --config configs/{config.name}" in heading


def test_a_key_of_an_older_version_is_refused(tmp_path, capsys):
    config = tmp_path / "config.yaml"
    config.write_text("data:\n  crop_fraction: 0.9\n")
    assert main(["fit", "--config", str(config), "--trainer.default_root_dir", str(tmp_path / "runs")]) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "data.crop_fraction" in message and "data.crop_pct" in message and "0.1" in message
    assert not (tmp_path / "runs").exists()


def test_every_experiment_of_the_reference_is_there():
    assert {file.stem for file in CONFIGS} >= REFERENCE.keys()


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_configuration_is_the_table_s_row(name):
    net, head, augment, epochs = REFERENCE[name]
    keys = keys_of(FOLDER / f"{name}.yaml")
    assert (keys["model.net"], keys["data.augment"], keys["trainer.max_epochs"]) == (net, augment, epochs)
    frozen = {"head": head, "features": "pooled", "freeze": True, "dropout": 0.2, "weights": "imagenet"}
    frozen["head_init"] = "random"
    found = {key: keys.get(f"model.{key}") for key in frozen}
    assert found == (frozen if head else dict.fromkeys(frozen))


@pytest.mark.parametrize("name", REFERENCE)
def test_reference_configurations_share_the_protocol(name):
    keys = keys_of(FOLDER / f"{name}.yaml")
    assert {key: value for key, value in keys.items() if key not in MAY_DIFFER} == PROTOCOL


def test_the_study_of_the_fine_tuning_recipe_has_its_settings():
    study = yaml.safe_load((FOLDER / "studies" / "fine_tuning_recipe.yaml").read_text())
    variant = study["variants"]["fine-tuning"]
    recipe, base = (keys_of(FOLDER / f"{name}.yaml") for name in ("mobilenetv3_small_finetune", study["config"]))
    different = {key for key, value in recipe.items() if value != {**base, **variant}.get(key)}
    assert {key for key in different if not key.startswith("trainer.callbacks")} == {"name"}
    assert set(base) - set(recipe) == {"trainer.min_epochs", "trainer.min_steps"}
    assert set(variant) - {"trainer.callbacks+"} <= set(recipe)
    (callback,) = variant["trainer.callbacks+"]
    assert recipe["trainer.callbacks.0.class_path"].endswith(f".{callback['class_path']}")
    assert recipe["trainer.callbacks.0.init_args.epochs"] == callback["init_args"]["epochs"]
    assert recipe["trainer.callbacks.0.init_args.stages"] == callback["init_args"].get("stages", 1)
