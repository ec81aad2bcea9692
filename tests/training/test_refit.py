"""fit --refit: the second fit, what it saves, and what is refused."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from animals_pl import AnimalClassifier, AnimalsDataModule
from animals_pl.cli import main
from animals_pl.errors import UsageError
from animals_pl.experiments.same_result import compare_runs
from animals_pl.lightning_cli import run as cli
from animals_pl.training.head import train_head
from animals_pl.training.run import evaluate, fit
from animals_pl.training.trained import load_classifier, load_model

pytestmark = pytest.mark.usefixtures("small_figures")


class KeepFirstFit(L.Callback):
    """Keeps the initial state of the net and the cached features of the first fit."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.limit_val_batches:
            self.initial = {key: value.clone() for key, value in pl_module.net.state_dict().items()}
            self.data = trainer.datamodule
            self.datasets = dict(self.data.datasets)

    def __deepcopy__(self, memo: dict[int, Any]) -> KeepFirstFit:
        return KeepFirstFit()


def options(tree: Path, root: Path, *more: object) -> list[str]:
    data = ["--data.root", tree, "--data.size", 32, "--data.batch_size", 8, "--data.num_workers", 0]
    model = ["--model.net", "test_resnet", "--model.schedule", "cosine", "--model.loss", "logit_adjusted"]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 4]
    return ["fit", *map(str, [*data, *model, *trainer, "--refit", "true", *more])]


def read(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


@pytest.fixture(scope="module")
def frozen(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a frozen backbone and test images; to be copied, not changed."""
    root = tmp_path_factory.mktemp("frozen")
    more = ["--model.freeze", "true", "--data.test_fraction", "0.2", "--model.lr", "0.02", "--monitor", "acc/val"]
    assert main(options(tiny_tree, root, *more)) == 0
    return root / "run" / "version_0"


@pytest.fixture
def run(frozen: Path, tmp_path: Path) -> Path:
    return shutil.copytree(frozen, tmp_path / "run" / "version_0")


def test_the_weights_are_those_of_a_fit_on_all_images_stopped_at_the_best_epoch(tiny_tree, tmp_path):
    torch.manual_seed(0)
    data = AnimalsDataModule(str(tiny_tree), size=32, batch_size=16, num_workers=0, seed=3)
    model = AnimalClassifier("test_resnet", freeze=True, lr=0.1, schedule="cosine", loss="logit_adjusted")
    kept = KeepFirstFit()
    folder = {"default_root_dir": str(tmp_path), "accelerator": "cpu"}
    result = fit(model, data, callbacks=[kept], max_epochs=8, refit=True, monitor="acc/val", **folder)
    best, refitted = read(result.best_path), read(result.refit_path)
    epochs = best["epoch"] + 1
    assert 1 < epochs < 8
    assert refitted["refit"] == {"epochs": epochs, "calibrated_by": "best.ckpt"}
    again = load_classifier(result.last_path)
    again.set_data(data.info)
    again.net.load_state_dict(kept.initial)
    features, labels, paths = (
        [part for split in ("train", "val") for part in column(split)]
        for column in (
            lambda split: kept.datasets[split].features,
            lambda split: kept.data.catalogs[split].labels,
            lambda split: kept.data.catalogs[split].paths,
        )
    )
    order = np.argsort(paths, kind="stable")
    labels = np.array(labels)[order]
    train_head(again, torch.stack(features)[order], labels, epochs=8, batch_size=16, seed=3, stop_after=epochs)
    for key, value in again.net.state_dict().items():
        torch.testing.assert_close(value, refitted["state_dict"][f"net.{key}"], rtol=0, atol=0, msg=key)
    assert not torch.equal(again.net.head[-1].weight, best["state_dict"]["net.head.1.weight"])
    assert refitted["calibration"]["train_counts"] == np.bincount(labels).tolist()


def test_calibration_is_that_of_the_best_epoch_with_the_counts_of_all_images(frozen):
    best, refitted = (read(frozen / name)["calibration"] for name in ("best.ckpt", "refit.ckpt"))
    for key in ("temperature", "unknown_threshold"):
        assert refitted[key] == best[key]
    split = [line.split(",") for line in (frozen / "split.csv").read_text().splitlines()[1:]]
    names = read(frozen / "best.ckpt")["hyper_parameters"]["class_names"]
    counts = [sum(row[1] == name and row[2] != "test" for row in split) for name in names]
    assert refitted["train_counts"] == counts != best["train_counts"]


CALLBACKS = [
    {"class_path": "EMAWeightAveraging", "init_args": {"decay": 0.8}},
    {"class_path": "ProgressiveResizing", "init_args": {"sizes": [16, 24, 32]}},
    {"class_path": "GradualUnfreezing", "init_args": {"epochs": 1, "stages": 2}},
    {"class_path": "EarlyStopping", "init_args": {"monitor": "loss/val", "patience": 2}},
    {"class_path": "LearningRateMonitor"},
]
CASES = {
    "frozen": ["--model.freeze", "true"],
    "frozen, augmented, flips": ["--model.freeze", "true", "--data.augment", "light", "--model.tta", "hflip"],
    "head decay": ["--model.freeze", "true", "--model.head_decay", "0.1"],
    "all layers": ["--data.augment", "light", "--model.mixup", "0.2", f"--trainer.callbacks={json.dumps(CALLBACKS)}"],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_interrupted_in_either_fit_equals_the_uninterrupted_one(tiny_tree, tmp_path, case):
    """Killed in the first fit (and resumed from there), and between the fits."""
    middle = tmp_path / "middle" / "version_0"

    class Snapshot(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.current_epoch == 1 and not middle.exists():
                shutil.copytree(trainer.default_root_dir, middle)

    cli(options(tiny_tree, tmp_path / "whole", *CASES[case]), [Snapshot()])
    whole = tmp_path / "whole" / "run" / "version_0"
    between = shutil.copytree(whole, tmp_path / "between" / "version_0")
    (between / "refit.ckpt").unlink()
    for folder in (middle, between):
        assert not (folder / "refit.ckpt").exists()
        assert main(["fit", "--config", str(folder / "config.yaml"), "--ckpt_path", str(folder / "last.ckpt")]) == 0
        differences = compare_runs(whole, folder).differences
        # Where nothing is left to train in the first fit, last.ckpt is not saved again, with the paths of this copy.
        assert [name for name in differences if folder is middle or name.startswith("refit.ckpt")] == []
        assert (folder / "refit.ckpt").exists()


def test_a_best_epoch_that_max_steps_cut_short_is_completed(tiny_tree, tmp_path):
    """The first fit has 5 batches per epoch, the second one 7: the 57th image is in the last of them."""
    assert main(options(tiny_tree, tmp_path, "--trainer.max_epochs", "-1", "--trainer.max_steps", "3")) == 0
    run = tmp_path / "run" / "version_0"
    assert read(run / "best.ckpt")["global_step"] == 3
    assert read(run / "refit.ckpt")["refit"]["epochs"] == 1
    assert read(run / "refit.ckpt")["global_step"] == 7


def test_the_initial_weights_are_those_of_the_first_fit(tiny_tree, tmp_path):
    """With a learning rate of 0, the refit has them; BatchNorm statistics are fixed."""
    more = ["--model.lr", "0", "--model.freeze_norm", "true"]
    assert main(options(tiny_tree, tmp_path, *more)) == 0
    run = tmp_path / "run" / "version_0"
    weights = [read(run / name)["state_dict"] for name in ("last.ckpt", "refit.ckpt")]
    assert weights[0].keys() == weights[1].keys()
    assert [key for key in weights[0] if not torch.equal(weights[0][key], weights[1][key])] == []


class Interrupt(L.Callback):
    """Sends SIGINT in the second fit."""

    def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
        if not trainer.limit_val_batches and trainer.global_step == 3:
            os.kill(os.getpid(), signal.SIGINT)


def test_an_interrupted_refit_says_how_to_resume(tiny_tree, tmp_path, frozen):
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; resume with --ckpt_path \S+last\.ckpt"):
        cli(options(tiny_tree, tmp_path, "--model.freeze", "true"), [Interrupt()])
    run = tmp_path / "run" / "version_0"
    assert (run / "best.ckpt").exists()
    assert not (run / "refit.ckpt").exists()


def test_a_finished_run_is_continued_and_refitted_again(run):
    before = read(run / "refit.ckpt")["refit"]["epochs"]
    resume = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "last.ckpt")]
    assert main([*resume, "--trainer.max_epochs", "6", "--monitor", "acc/val"]) == 0
    assert read(run / "refit.ckpt")["refit"]["epochs"] == read(run / "best.ckpt")["epoch"] + 1 >= before


def test_the_console_says_whose_figures_are_shown(tiny_tree, tmp_path, capsys):
    assert main(options(tiny_tree, tmp_path, "--model.freeze", "true")) == 0
    output = capsys.readouterr().out
    epochs = read(tmp_path / "run" / "version_0" / "refit.ckpt")["refit"]["epochs"]
    assert f"refit on 57 training and validation images for {epochs} epoch" in output
    assert "(the metrics above and its calibration are those of best.ckpt: no validation images are left)" in output


# ---------------------------------------------------------------- use of refit.ckpt


def test_a_refit_is_tested_predicts_and_is_exported(run, tiny_tree, tmp_path, capsys):
    ckpt_path = str(run / "refit.ckpt")
    assert main(["test", "--ckpt_path", ckpt_path, "--trainer.accelerator", "cpu"]) == 0
    metrics = json.loads((run / "evaluation" / "test" / "metrics.json").read_text())
    assert metrics["checkpoint"] == "refit.ckpt"
    assert metrics["epoch"] == read(run / "best.ckpt")["epoch"] + 1
    csv = tmp_path / "predictions.csv"
    assert main(["predict", str(tiny_tree), "--ckpt_path", ckpt_path, "--output", str(csv), "--unknown"]) == 0
    assert len(csv.read_text().splitlines()) == 58
    assert main(["export", ckpt_path, "--output", str(tmp_path / "refit.onnx")]) == 0
    assert "metrics in the file: " in capsys.readouterr().out
    model = load_model(ckpt_path)
    assert model.refitted
    assert not load_model(run / "best.ckpt").refitted
    head = read(run / "refit.ckpt")["state_dict"]["net.head.1.weight"]
    assert torch.equal(model.net.head[1].weight, head)


def test_all_validation_images_count_as_seen(run, tiny_tree):
    for name, unseen in (("refit.ckpt", "test"), ("best.ckpt", "test val")):
        args = ["--ckpt_path", str(run / name), "--data.test_root", str(tiny_tree), "--trainer.accelerator", "cpu"]
        assert main(["test", *args]) == 0
        metrics = json.loads((run / "evaluation" / f"test-{tiny_tree.name}" / "metrics.json").read_text())
        rows = [line.split(",") for line in (run / "split.csv").read_text().splitlines()[1:]]
        assert metrics["unseen"]["images"] == sum(row[2] in unseen.split() for row in rows)


def test_validation_of_a_refit_is_refused(run, capsys):
    ckpt_path = run / "refit.ckpt"
    assert main(["validate", "--ckpt_path", str(ckpt_path), "--trainer.accelerator", "cpu"]) == 2
    assert "was trained on the validation images (refit=true)" in capsys.readouterr().err.splitlines()[-1]
    assert not (run / "evaluation").exists()
    data = AnimalsDataModule(**load_model(ckpt_path).data_hparams)
    with pytest.raises(UsageError, match="cannot be validated"):
        evaluate(load_classifier(ckpt_path), data, "val")


def test_an_int8_file_of_a_refit_is_refused(run, tmp_path, capsys):
    target = tmp_path / "int8.onnx"
    assert main(["export", str(run / "refit.ckpt"), "--weights", "int8", "--output", str(target)]) == 2
    assert "weights=int8 is measured on the run's validation images" in capsys.readouterr().err
    assert not target.exists()


def test_a_refit_is_not_resumed(run, capsys):
    resume = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path"]
    assert main([*resume, str(run / "refit.ckpt")]) == 2
    assert "is for predictions only" in capsys.readouterr().err
    (run / "last.ckpt").unlink()
    with pytest.warns(UserWarning, match=r"resuming from best\.ckpt"):
        assert main([*resume, str(run / "last.ckpt")]) == 0


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--trainer.limit_val_batches", "0"], "but trainer.limit_val_batches=0. Remove one of them."),
        (["--trainer.enable_checkpointing", "false"], "but trainer.enable_checkpointing=False."),
        (["--trainer.fast_dev_run", "true"], "but trainer.fast_dev_run=True."),
        (["--trainer.overfit_batches", "2"], "but trainer.overfit_batches=2."),
        (["--trainer.check_val_every_n_epoch", "9"], "refit=true: no epoch was validated, so there is no best.ckpt."),
    ],
)
def test_a_run_without_a_best_epoch_is_refused(tiny_tree, tmp_path, capsys, more, words):
    assert main(options(tiny_tree, tmp_path, "--model.freeze", "true", *more)) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


def test_a_run_that_began_without_refit_is_refused(tiny_tree, tmp_path, capsys):
    more = ["--model.freeze", "true", "--refit", "false"]
    assert main(options(tiny_tree, tmp_path, *more)) == 0
    run = tmp_path / "run" / "version_0"
    assert not (run / "refit.ckpt").exists()
    assert "InitialWeights" not in read(run / "last.ckpt")["callbacks"]
    resume = ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "last.ckpt"), "--refit", "true"]
    assert main(resume) == 2
    assert "refit=true: the checkpoint has no initial weights" in capsys.readouterr().err


def test_other_datamodules_are_refused(tmp_path):
    with pytest.raises(UsageError, match="refit=true needs an AnimalsDataModule, not LightningDataModule"):
        fit(AnimalClassifier("lenet"), L.LightningDataModule(), refit=True, default_root_dir=str(tmp_path))
