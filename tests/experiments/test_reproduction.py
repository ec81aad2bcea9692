"""scripts/reproduce.py: what it runs and what it says about it."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from animals_pl.experiments import reproduction as reproduce

PROJECT = Path(__file__).parents[1]


def rows(*losses: float) -> list[dict[str, float]]:
    keys = ("loss/train", "acc/train", "acc/val", "macro_recall/val")
    return [{"epoch": i, "loss/val": loss, **dict.fromkeys(keys, 0.1 * (i + 1))} for i, loss in enumerate(losses)]


def test_every_experiment_has_its_configuration_with_as_many_epochs() -> None:
    for name, published in reproduce.REFERENCE.items():
        config = yaml.safe_load((PROJECT / "configs" / f"{name}.yaml").read_text())
        assert config["trainer"]["max_epochs"] == published.epochs


def test_weights_come_from_the_folder_or_from_timm(tmp_path: Path) -> None:
    (tmp_path / "resnet10t.safetensors").touch()
    assert reproduce.find_weights("resnet10t.c3_in1k", tmp_path) == str(tmp_path / "resnet10t.safetensors")
    assert reproduce.find_weights("resnet18.a1_in1k", tmp_path) is None
    assert reproduce.find_weights("resnet18.a1_in1k", None) == "imagenet"
    assert reproduce.find_weights("lenet", None) is None


def test_the_epoch_with_the_smallest_validation_loss_is_told() -> None:
    cells = reproduce.describe("lenet", reproduce.Outcome(rows(0.5, 0.3, 0.4), "scratch"))
    assert cells == ["3", "2", "0.2000", "0.2000", "0.3000", "0.2000", "0.2000", "3 of 15 epochs"]


def test_no_accuracy_of_a_random_backbone_is_told() -> None:
    cells = reproduce.describe("resnet50v2_frozen", reproduce.Outcome(rows(0.5, 0.3), "random"))
    assert not re.search(r"\d\.\d", " ".join(cells))
    assert "no pretrained weights" in cells[-1]


def test_what_was_not_run_or_failed_is_told_as_such() -> None:
    assert reproduce.describe("lenet", None)[-1] == "not run"
    assert reproduce.describe("lenet", reproduce.Outcome([], "scratch", "no space"))[-1] == "failed: no space"


def test_an_experiment_is_run(tiny_tree: Path, tmp_path: Path) -> None:
    outcome = reproduce.train("shallownet", tiny_tree, None, 1, tmp_path)
    assert outcome.failure == ""
    assert outcome.start == "scratch"
    assert [row["epoch"] for row in outcome.rows] == [0]
    assert (tmp_path / "shallownet" / "version_0" / "best.ckpt").is_file()


def test_an_experiment_that_fails_says_why(tmp_path: Path) -> None:
    outcome = reproduce.train("shallownet", tmp_path / "nowhere", None, 1, tmp_path)
    assert "nowhere' is not a folder" in outcome.failure
