"""Which epochs a run keeps, and Lightning's own callbacks that choose weights."""

from __future__ import annotations

import csv
import re
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl.cli import main
from animals_pl.training.metrics_csv import best_epoch, read_metrics

pytestmark = pytest.mark.usefixtures("wide_screen", "small_figures")

EPOCHS = 5
METRICS = ("loss", "acc", "macro_recall", "macro_f1")


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def fit(tree: Path, root: Path, *args: object, net: str = "shallownet", epochs: int = EPOCHS) -> Path:
    """Train and return the run's folder."""
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", epochs]
    assert cli("fit", "--model.net", net, "--model.lr", 0.01, *data, *trainer, *args) == 0
    return root / "run" / "version_0"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def epoch_files(run: Path) -> list[str]:
    return sorted(file.name for file in run.glob("epoch=*.ckpt"))


def expected_files(run: Path, keep: int) -> list[str]:
    """Return the files of the best epochs as metrics.csv tells them."""
    best = sorted(rows(run), key=lambda row: float(row["loss/val"]))[:keep]
    return sorted(f"epoch={int(row['epoch']) + 1:02d}.ckpt" for row in best)


def load(file: Path) -> dict[str, object]:
    return torch.load(file, weights_only=True)


def printed(text: str) -> dict[str, str]:
    """Return the metrics that validate has printed."""
    return dict(re.findall(r"^(\w+)/val +(\d+\.\d{4})$", text, re.MULTILINE))


# ---------------------------------------------------------------- save_top_k


@pytest.fixture(scope="module")
def kept(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that keeps three epochs, to be read only."""
    return fit(tiny_tree, tmp_path_factory.mktemp("kept"), "--save_top_k", 3)


def test_the_best_epochs_and_no_others_have_files(kept):
    assert epoch_files(kept) == expected_files(kept, 3)
    assert sorted(file.name for file in kept.glob("*.ckpt")) == ["best.ckpt", *epoch_files(kept), "last.ckpt"]


def test_a_file_is_of_the_epoch_that_its_name_tells(kept):
    assert [load(kept / name)["epoch"] + 1 for name in epoch_files(kept)] == [
        int(name[6:8]) for name in epoch_files(kept)
    ]


def test_the_best_checkpoint_is_the_best_of_the_kept(kept):
    best = load(kept / "best.ckpt")
    assert best["epoch"] == int(min(rows(kept), key=lambda row: float(row["loss/val"]))["epoch"])
    same = load(kept / f"epoch={best['epoch'] + 1:02d}.ckpt")
    assert all(torch.equal(value, same["state_dict"][name]) for name, value in best["state_dict"].items())


def test_without_the_option_no_epoch_has_a_file(tiny_tree, tmp_path):
    run = fit(tiny_tree, tmp_path, epochs=2)
    assert sorted(file.name for file in run.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


def test_resumed_and_moved_it_keeps_the_same_epochs(tiny_tree, tmp_path):
    options = ["--save_top_k", 3, "--monitor", "macro_recall/val"]
    whole = fit(tiny_tree, tmp_path / "whole", *options)
    half = fit(tiny_tree, tmp_path / "half", *options, epochs=3)
    moved = tmp_path / "moved" / "run" / "version_0"
    shutil.move(half, moved)
    config = ["--config", moved / "config.yaml", "--ckpt_path", moved / "last.ckpt"]
    assert cli("fit", *config, "--trainer.max_epochs", EPOCHS) == 0
    assert epoch_files(moved) == epoch_files(whole)
    assert rows(moved) == rows(whole)
    assert load(moved / "best.ckpt")["epoch"] == load(whole / "best.ckpt")["epoch"]
    assert not half.exists()


def test_resumed_from_any_of_its_files_it_ends_the_same(kept, tmp_path):
    for name in ("best.ckpt", *epoch_files(kept)):
        run = shutil.copytree(kept, tmp_path / name / "version_0")
        assert cli("fit", "--config", run / "config.yaml", "--ckpt_path", run / name) == 0
        assert epoch_files(run) == epoch_files(kept), name
        assert load(run / "best.ckpt")["epoch"] == load(kept / "best.ckpt")["epoch"], name
        state = next(value for key, value in load(run / "last.ckpt")["callbacks"].items() if "top_k" in value)
        assert sorted(Path(file).name for file in state["top_k"]["best_k_models"]) == epoch_files(kept), name


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--save_top_k", 0], "save_top_k=0 is out of range. Choose a value"),
        (["--save_top_k", 2, "--trainer.enable_checkpointing", "false"], "save_top_k=2 has no effect with trainer"),
        (["--tune", "speed"], "tune=speed is invalid; expected one of 'lr', 'batch_size', null"),
        (["--tune", "batch_size"], "tune=batch_size needs a GPU"),
        (["--tune", "lr"], "tune=lr needs a run of at least 20 steps, but this one has 6. Raise trainer.max_epochs"),
        (["--trainer.accumulate_grad_batches", 0], "trainer.accumulate_grad_batches=0 is out of range"),
        (["--trainer.limit_train_batches", 0.0], "trainer.limit_train_batches=0.0 is out of range"),
        (["--trainer.max_epochs", 0], "trainer.max_epochs=0 is out of range"),
        (["--trainer.check_val_every_n_epoch", 0], "trainer.check_val_every_n_epoch=0 is out of range"),
        (["--trainer.val_check_interval", 99], "(6). If you want to disable validation"),
        (["--trainer.sync_batchnorm", "true"], "trainer.sync_batchnorm is not needed"),
        (["--trainer.strategy", "ddp_spawn"], "trainer.strategy=ddp_spawn loses the run's results"),
        (
            ["--trainer.max_epochs=-1", "--trainer.max_time=00:00:01:00", "--model.schedule=cosine"],
            "needs a fixed number of epochs",
        ),
        (["--seed_everything=-1"], "seed_everything=-1 is out of range"),
        (["--model.net=minivggnet", "--data.batch_size=1"], "BatchNorm needs at least 2 images per batch"),
    ],
)
def test_wrong_use(tiny_tree, tmp_path, capsys, options, reason):
    data = ["--data.root", tiny_tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    assert cli("fit", "--model.net", "shallownet", *data, *trainer, *options) == 2
    assert reason in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_resumed_with_fewer_epochs_to_keep_it_tracks_the_best_of_them(kept, tmp_path):
    run = shutil.copytree(kept, tmp_path / "version_0")
    options = ["--save_top_k", 2, "--trainer.max_epochs", EPOCHS + 2]
    assert cli("fit", "--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", *options) == 0
    assert set(expected_files(run, 2)) <= set(epoch_files(run))
    state = next(value for key, value in load(run / "last.ckpt")["callbacks"].items() if "top_k" in value)
    assert sorted(Path(file).name for file in state["top_k"]["best_k_models"]) == expected_files(run, 2)


@pytest.mark.parametrize("monitor", ["loss/val", "macro_recall/val"])
def test_of_several_validations_in_an_epoch_the_best_has_its_row(tiny_tree, tmp_path, capsys, monitor):
    options = ["--trainer.val_check_interval", 0.25, "--model.lr", 0.02, "--monitor", monitor]
    run = fit(tiny_tree, tmp_path, *options, epochs=3)
    output = capsys.readouterr().out
    best = best_epoch(read_metrics(run / "metrics.csv"), monitor)
    assert load(run / "best.ckpt")["epoch"] == best["epoch"]
    assert f"best epoch {best['epoch'] + 1:.0f} by {monitor}: " in output
    assert f"{monitor.removesuffix('/val').replace('_', ' ')} {best[monitor]:.4f}" in output
    assert cli("validate", "--ckpt_path", run / "best.ckpt") == 0
    found = printed(capsys.readouterr().out)
    assert {metric: float(found[metric]) for metric in METRICS} == pytest.approx(
        {metric: best[f"{metric}/val"] for metric in METRICS}, abs=2e-4
    )
    assert cli("fit", "--config", run / "config.yaml", "--ckpt_path", run / "best.ckpt") == 0
    again = best_epoch(read_metrics(run / "metrics.csv"), monitor)
    assert (again["epoch"], again[monitor]) == (best["epoch"], best[monitor])


# ---------------------------------------------------------------- Lightning's own


def test_a_user_s_own_checkpoint_callback_does_not_choose_the_best_epoch(tiny_tree, tmp_path, capsys):
    """It keeps the epoch with the highest training loss, the first."""
    own = {"monitor": "loss/train", "mode": "max", "dirpath": str(tmp_path / "own")}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [{"class_path": "ModelCheckpoint", "init_args": own}]}}))
    run = fit(tiny_tree, tmp_path, "--config", config)
    best = min(rows(run), key=lambda row: float(row["loss/val"]))
    (kept,) = (tmp_path / "own").iterdir()
    assert load(kept)["epoch"] == 0 < int(best["epoch"])
    assert load(run / "best.ckpt")["epoch"] == int(best["epoch"])
    output = capsys.readouterr().out
    assert f"best epoch {int(best['epoch']) + 1} by loss/val: " in output
    assert output.rstrip().endswith(f"best checkpoint: {run / 'best.ckpt'}")
    events = EventAccumulator(str(run))
    events.Reload()
    (scalar,) = events.Scalars("best/loss")
    assert scalar.value == pytest.approx(float(best["loss/val"]))


def test_early_stopping_ends_the_run(tiny_tree, tmp_path, capsys):
    stop = "[{class_path: EarlyStopping, init_args: {monitor: macro_recall/val, mode: max, patience: 1}}]"
    options = ["--model.lr", 0, "--monitor", "macro_recall/val", "--trainer.callbacks", stop]
    run = fit(tiny_tree, tmp_path, *options)
    assert [row["epoch"] for row in rows(run)] == ["0", "1"]
    assert [load(run / f"{name}.ckpt")["epoch"] for name in ("best", "last")] == [0, 1]
    output = capsys.readouterr().out
    assert "best epoch 1 by macro_recall/val" in output
    reason = r"Monitored metric macro_recall/val did not improve in the last 1 records\. Best score: \d\.\d{3}\.$"
    assert re.search(rf"^stopped after epoch 2: {reason}", output, re.MULTILINE)


def test_early_stopping_by_an_unknown_metric_is_refused(tiny_tree, tmp_path, capsys):
    stop = "[{class_path: EarlyStopping, init_args: {monitor: accuracy/val}}]"
    data = [
        "--data.root",
        tiny_tree,
        "--data.size",
        16,
        "--data.num_workers",
        0,
        "--trainer.default_root_dir",
        tmp_path,
    ]
    assert cli("fit", "--model.net", "shallownet", *data, "--trainer.callbacks", stop, "--trainer.max_epochs", 1) == 2
    assert "`accuracy/val` which is not available" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ["--model.net", "mobilenetv3_small_050", "--model.freeze", "true"],
        ["--model.net", "mobilenetv3_small_050", "--model.backbone_lr_mult", 0.1],
        ["--model.net", "minivggnet", "--model.class_weights", "balanced"],
    ],
    ids=["frozen_and_cached", "backbone_learns", "from_scratch"],
)
def test_averaged_weights_are_what_is_judged_and_kept(tiny_tree, tmp_path, capsys, options):
    average = "[{class_path: EMAWeightAveraging, init_args: {decay: 0.8}}]"
    run = fit(tiny_tree, tmp_path, *options, "--trainer.callbacks", average, epochs=2)
    for name in ("best", "last"):
        checkpoint = load(run / f"{name}.ckpt")
        current, kept = checkpoint["current_model_state"], checkpoint["state_dict"]
        assert any(not torch.equal(current[key], value) for key, value in kept.items())
        capsys.readouterr()
        assert cli("validate", "--ckpt_path", run / f"{name}.ckpt") == 0
        expected = rows(run)[checkpoint["epoch"]]
        found = printed(capsys.readouterr().out)
        assert {metric: float(found[metric]) for metric in METRICS} == pytest.approx(
            {metric: float(expected[f"{metric}/val"]) for metric in METRICS}, abs=2e-4
        )
