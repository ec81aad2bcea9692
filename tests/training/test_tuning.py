"""The searches for a learning rate and a batch size: what they find is used, noted and leaves no other trace."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import BatchSizeFinder
from run_folders import FILES, names_in

from animals_pl.cli import main
from animals_pl.errors import UsageError
from animals_pl.training.callbacks import tuning
from animals_pl.training.classifier import PIXEL_DIMS, AnimalClassifier

pytestmark = pytest.mark.usefixtures("wide_screen", "small_figures")

RATES = "[{class_path: LearningRateFinder, init_args: {min_lr: 1e-5, max_lr: 1, num_training_steps: 24}}]"
SIZES = "[{class_path: BatchSizeFinder, init_args: {init_val: 8, max_trials: 2, mode: power}}]"


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def fit(tree: Path, root: Path, *args: object) -> Path:
    """Train for 5 epochs of 5 or 6 batches and return the run's folder."""
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 5]
    assert cli("fit", "--model.net", "shallownet", *data, *trainer, *args) == 0
    return root / "run" / "version_0"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def settings(run: Path) -> dict[str, dict[str, object]]:
    return yaml.safe_load((run / "config.yaml").read_text())


def load(file: Path) -> dict[str, dict[str, object]]:
    return torch.load(file, weights_only=True)


def rate_found(output: str) -> float:
    return float(re.search(r"^learning rate found: (\S+) \(was 0\.001\)$", output, re.MULTILINE)[1])


def assert_clean(run: Path) -> None:
    """The search has left no file behind, and the table begins at the first epoch."""
    assert [row["epoch"] for row in rows(run)] == ["0", "1", "2", "3", "4"]
    assert names_in(run) == FILES


@pytest.mark.parametrize(
    "options",
    [
        ["--model.net", "shallownet", "--data.augment", "light"],
        ["--model.net", "mobilenetv3_small_050", "--model.freeze", "true", "--model.schedule", "cosine"],
        [
            "--model.net",
            "mobilenetv3_small_050",
            "--model.backbone_lr_mult",
            0.1,
            "--model.layer_decay",
            0.5,
            "--model.warmup_epochs",
            1,
        ],
        ["--model.net", "shallownet", "--trainer.callbacks", RATES],
    ],
    ids=["from_scratch", "frozen_and_cached", "groups_with_warm_up", "lightning_s_own"],
)
def test_a_learning_rate_is_found_used_and_noted(tiny_tree, tmp_path, capsys, options):
    tune = [] if RATES in options else ["--tune", "lr"]
    run = fit(tiny_tree, tmp_path / "tuned", *options, *tune)
    found = rate_found(capsys.readouterr().out)
    assert 1e-6 < found < 1 and found != 0.001
    assert_clean(run)
    config = settings(run)
    assert (config["model"]["lr"], config["tune"], config["trainer"]["callbacks"]) == (found, None, None)
    assert load(run / "best.ckpt")["hyper_parameters"]["lr"] == found
    # A run with that rate from the start is the same one: the search has changed nothing else.
    assert cli("fit", "--config", run / "config.yaml", "--trainer.default_root_dir", tmp_path / "repeated") == 0
    repeated = tmp_path / "repeated" / "run" / "version_0"
    assert "found: " not in capsys.readouterr().out
    assert rows(repeated) == rows(run)
    ours, theirs = load(run / "last.ckpt"), load(repeated / "last.ckpt")
    assert all(torch.equal(value, theirs["state_dict"][name]) for name, value in ours["state_dict"].items())
    groups, expected = (one["optimizer_states"][0]["param_groups"] for one in (ours, theirs))
    assert groups == expected
    if "--model.backbone_lr_mult" in options:
        assert len({group["lr"] for group in groups}) > 2


def test_a_tuned_run_is_resumed_with_what_it_found(tiny_tree, tmp_path, capsys):
    run = fit(tiny_tree, tmp_path, "--tune", "lr")
    found = rate_found(capsys.readouterr().out)
    resume = ["fit", "--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 6]
    assert cli(*resume, "--tune", "lr") == 2
    assert "tune=lr is for new runs" in capsys.readouterr().err
    assert cli(*resume) == 0
    assert [float(row["lr"]) for row in rows(run)] == [found] * 6


def test_the_search_passes_through_the_whole_range(tiny_tree, tmp_path, monkeypatch):
    finders = []
    suggestion = tuning._suggestion
    monkeypatch.setattr(tuning, "_suggestion", lambda finder: finders.append(finder) or suggestion(finder))
    fit(tiny_tree, tmp_path, "--model.schedule", "cosine", "--tune", "lr")
    rates = finders[0].optimal_lr.results["lr"]
    assert rates[0] == pytest.approx(1e-6, rel=0.1)
    assert rates == sorted(set(rates))  # one step, one rate
    assert rates[-1] > 0.01


def test_the_rate_of_the_steepest_fall_is_suggested():
    """Of a loss that falls between 1e-3 and 1e-1, with noise where the rate is too small to matter."""
    rates = np.logspace(-6, 0, 100)
    losses = 2.3 - 1 / (1 + np.exp(-4 * (np.log10(rates) + 2))) + 0.001 * np.sin(50 * np.arange(100))
    finder = SimpleNamespace(optimal_lr=SimpleNamespace(results={"lr": rates.tolist(), "loss": losses.tolist()}))
    assert 5e-3 < tuning._suggestion(finder) < 2e-2


def test_a_loss_that_diverges_at_once_suggests_nothing():
    finder = SimpleNamespace(optimal_lr=SimpleNamespace(results={"lr": [1e-6, 1e-5], "loss": [2.3, float("nan")]}))
    with pytest.raises(UsageError, match=r"found no learning rate: the loss diverged\. Set model\.lr"):
        tuning._suggestion(finder)


def test_the_search_runs_on_features_where_they_are_cached(tiny_tree, tmp_path, monkeypatch):
    seen: list[int] = []
    step = AnimalClassifier.training_step

    def noted(self, batch, index):
        seen.append(batch[0].dim())
        return step(self, batch, index)

    monkeypatch.setattr(AnimalClassifier, "training_step", noted)
    fit(tiny_tree, tmp_path, "--model.net", "mobilenetv3_small_050", "--model.freeze", "true", "--tune", "lr")
    assert len(seen) > 5 * 5
    assert PIXEL_DIMS not in seen


@pytest.mark.parametrize(
    "net",
    [["--model.net", "minivggnet"], ["--model.net", "mobilenetv3_small_050", "--model.freeze", "true"]],
    ids=["images", "features"],
)
def test_a_batch_size_is_found_used_and_noted(tiny_tree, tmp_path, capsys, monkeypatch, net):
    """On a device that tells when its memory is used up: here by more than 13 images."""
    step = AnimalClassifier.training_step

    def small_memory(self, batch, index):
        if len(batch[1]) > 13:
            raise RuntimeError("CUDA out of memory. Tried to allocate 1 TiB")
        return step(self, batch, index)

    monkeypatch.setattr(AnimalClassifier, "training_step", small_memory)
    finder = BatchSizeFinder(mode="binsearch", init_val=4, max_val=40)
    monkeypatch.setattr(tuning, "_size_finder", lambda trainer: finder)
    run = fit(tiny_tree, tmp_path / "tuned", *net, "--tune", "batch_size")
    assert "batch size found: 12 (was 8)" in capsys.readouterr().out  # 13, less Lightning's margin
    assert_clean(run)
    config = settings(run)
    assert (config["data"]["batch_size"], config["tune"]) == (12, None)
    assert load(run / "best.ckpt")["datamodule_hyper_parameters"]["batch_size"] == 12
    assert cli("fit", "--config", run / "config.yaml", "--trainer.default_root_dir", tmp_path / "repeated") == 0
    assert rows(tmp_path / "repeated" / "run" / "version_0") == rows(run)


def test_lightning_s_own_search_for_a_batch_size(tiny_tree, tmp_path, capsys):
    run = fit(tiny_tree, tmp_path, "--trainer.callbacks", SIZES)
    assert "batch size found: 16 (was 8)" in capsys.readouterr().out
    assert_clean(run)
    assert settings(run)["data"]["batch_size"] == 16


def test_the_largest_batch_leaves_ten_steps_in_an_epoch():
    trainer = SimpleNamespace(
        strategy=SimpleNamespace(root_device=torch.device("cuda", 0)),
        datamodule=SimpleNamespace(catalogs={"train": SimpleNamespace(paths=[""] * 1000)}),
    )
    assert tuning._size_finder(trainer)._max_val == 100
