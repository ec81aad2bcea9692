"""The command reproduce: what it trains and what it reports."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from animals_pl.configurations import CONFIGS
from animals_pl.errors import UsageError
from animals_pl.experiments import reproduction
from animals_pl.experiments.reference import REFERENCE
from animals_pl.experiments.reproduction import Outcome, describe, find_weights, reproduce, train


def rows(*losses: float) -> list[dict[str, float]]:
    keys = ("loss/train", "acc/train", "acc/val", "macro_recall/val")
    return [{"epoch": i, "loss/val": loss, **dict.fromkeys(keys, 0.1 * (i + 1))} for i, loss in enumerate(losses)]


def test_every_experiment_has_a_configuration_with_as_many_epochs() -> None:
    for name, published in REFERENCE.items():
        config = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
        assert config["trainer"]["max_epochs"] == published.epochs


def test_weights_come_from_the_folder_or_from_timm(tmp_path: Path) -> None:
    (tmp_path / "resnet10t.safetensors").touch()
    assert find_weights("resnet10t.c3_in1k", tmp_path) == str(tmp_path / "resnet10t.safetensors")
    assert find_weights("resnet18.a1_in1k", tmp_path) is None
    assert find_weights("resnet18.a1_in1k", None) == "imagenet"
    assert find_weights("lenet", None) is None


def test_the_epoch_with_the_smallest_validation_loss_is_reported() -> None:
    cells = describe("lenet", Outcome(rows(0.5, 0.3, 0.4), "scratch"))
    assert cells == ["3", "2", "0.2000", "0.2000", "0.3000", "0.2000", "0.2000", "3 of 15 epochs"]


def test_metrics_of_a_random_backbone_are_not_reported() -> None:
    cells = describe("resnet50v2_frozen", Outcome(rows(0.5, 0.3), "random"))
    assert not re.search(r"\d\.\d", " ".join(cells))
    assert "no pretrained weights" in cells[-1]


def test_missing_and_failed_experiments_are_reported() -> None:
    assert describe("lenet", None)[-1] == "not run"
    assert describe("lenet", Outcome([], "scratch", "no space"))[-1] == "failed: no space"


def test_an_experiment_is_trained_and_reported(
    tiny_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    small = (CONFIGS / "lenet.yaml").read_text().replace("  size: ", "  size: 16 # ")
    (tmp_path / "lenet.yaml").write_text(small)
    monkeypatch.setattr(reproduction, "CONFIGS", tmp_path)
    reproduce(str(tiny_tree), ["lenet"], epochs=1, output=str(tmp_path))
    assert (tmp_path / "lenet" / "version_0" / "best.ckpt").is_file()
    printed = capsys.readouterr().out
    (line,) = [line for line in printed.splitlines() if "1 of 15 epochs" in line]
    assert len(re.findall(r"\d\.\d{4}", line)) == 5
    assert printed.count("not run") == len(REFERENCE) - 1


def test_a_failing_experiment_is_recorded(tmp_path: Path) -> None:
    outcome = train("lenet", tmp_path / "nowhere", None, 1, tmp_path)
    assert "nowhere' is not a folder" in outcome.failure


def test_an_unknown_experiment_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"names='lent' is not an experiment\. Did you mean 'lenet'\?"):
        reproduce(str(tmp_path), ["lent"])
