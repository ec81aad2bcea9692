"""A run that is resumed from what a kill leaves on the disk equals the uninterrupted run to the last bit."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from PIL import Image

from animals_pl.cli import main
from animals_pl.experiments.same_result import compare_runs
from animals_pl.lightning_cli import run as cli

pytestmark = pytest.mark.usefixtures("small_figures")


class Snapshot(L.Callback):
    """Copies the run's folder at a moment, as a kill would leave it.

    Args:
        target: Where to.
        epoch, batch: The moment: the start of a training batch, or of the epoch's validation if ``batch`` is None.
    """

    def __init__(self, target: Path, epoch: int, batch: int | None) -> None:
        self.target = target
        self.moment = (epoch, batch)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        self._take(trainer, batch_idx)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._take(trainer, None)

    def _take(self, trainer: L.Trainer, batch: int | None) -> None:
        if (trainer.current_epoch, batch) == self.moment and not self.target.exists():
            shutil.copytree(trainer.default_root_dir, self.target)


def fit_options(tree: Path, root: Path, *options: object) -> list[str]:
    data = ["--data.root", tree, "--data.size", 32, "--data.batch_size", 8, "--data.num_workers", 0]
    model = ["--model.net", "test_resnet", "--model.optimizer", "adamw", "--model.schedule", "cosine"]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 3]
    return ["fit", *map(str, [*data, *model, *trainer, *options])]


def resume_options(run: Path) -> list[str]:
    return ["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "last.ckpt")]


def callback(name: str, **arguments: Any) -> str:
    return f"--trainer.callbacks={json.dumps([{'class_path': name, 'init_args': arguments}])}"


CASES = {
    "plain": ["--data.augment", "light"],
    "workers": ["--data.num_workers", 2, "--data.augment", "light"],
    "weighted": ["--data.sampling", "weighted"],
    "ema": [callback("EMAWeightAveraging", decay=0.9)],
    "mixup": ["--model.mixup", 0.4, "--model.cutmix", 1.0],
    "sizes": [callback("ProgressiveResizing", sizes=[16, 24, 32])],
    "unfreezing": [callback("GradualUnfreezing", epochs=1, stages=2)],
    "accumulation": ["--trainer.accumulate_grad_batches", 2],
    "clipping": ["--trainer.gradient_clip_val", 0.5, "--model.dropout", 0.5],
    "features": ["--model.freeze", "true"],
    "validations": ["--trainer.val_check_interval", 2],
    "top_k": ["--save_top_k", 2, "--monitor", "acc/val"],
    "early_stopping": ["--model.lr", 0, callback("EarlyStopping", monitor="acc/val", patience=1)],
    "steps": ["--trainer.max_epochs", -1, "--trainer.max_steps", 16],
    "minimum": ["--trainer.max_epochs", "null", "--trainer.min_epochs", 1, "--trainer.min_steps", 13],
    "learning_rates": [callback("LearningRateMonitor"), "--trainer.log_every_n_steps", 1],
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_killed_three_times_equals_the_uninterrupted_run(tiny_tree, tmp_path, case):
    """In the first epoch, and twice in the second one. Each session also goes on to its end, as if not killed."""
    moments = [(0, 5), (1, 1), (1, None)]
    folders = [tmp_path / f"killed{count}" / "version_0" for count in range(len(moments))]
    kills = [Snapshot(folder, *moment) for folder, moment in zip(folders, moments, strict=True)]
    cli(fit_options(tiny_tree, tmp_path / "whole", "--save_every", "2steps", *CASES[case]), kills[:1])
    whole = tmp_path / "whole" / "run" / "version_0"
    for count, folder in enumerate(folders, start=1):
        cli(resume_options(folder), kills[count : count + 1])
        assert compare_runs(whole, folder).differences == []


class SnapshotBeforeTheLastRow(L.Callback):
    """Copies the run's folder when the last epoch is saved and its row is not yet written."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        shutil.copytree(trainer.default_root_dir, self.target)


def test_a_run_killed_after_its_last_checkpoint_gets_its_last_row(tiny_tree, tmp_path):
    killed = tmp_path / "killed" / "version_0"
    cli(fit_options(tiny_tree, tmp_path / "whole"), [SnapshotBeforeTheLastRow(killed)])
    whole = tmp_path / "whole" / "run" / "version_0"
    assert "metrics.csv: epoch 3" in compare_runs(whole, killed).differences
    cli(resume_options(killed))
    # The file is unchanged. compare_runs reports it, because its paths name the other folder.
    assert (killed / "last.ckpt").read_bytes() == (whole / "last.ckpt").read_bytes()
    found = compare_runs(whole, killed).differences
    assert [difference for difference in found if not difference.startswith("last.ckpt")] == []
    assert (killed / "curves.png").is_file()


def test_the_comparison_notices_every_difference(tiny_tree, tmp_path):
    for seed in (1, 2):
        cli(fit_options(tiny_tree, tmp_path / str(seed), "--seed_everything", seed, "--trainer.max_epochs", 1))
    one, other = (tmp_path / str(seed) / "run" / "version_0" for seed in (1, 2))
    compared = compare_runs(one, other)
    assert compared.tensors > 50
    found = " ".join(compared.differences)
    assert "last.ckpt: state_dict.net." in found
    assert "last.ckpt: optimizer_states.0.state." in found
    assert "metrics.csv: epoch 1" in found
    assert "TensorBoard: loss/val" in found
    assert compare_runs(one, one).differences == []


@pytest.fixture
def finished(make_tree, tmp_path: Path) -> tuple[Path, Path]:
    """Images and a run of one epoch."""
    tree = make_tree("images", {"cane": 12, "gatto": 12})
    options = ["--trainer.max_epochs", 1, "--model.net", "shallownet"]
    assert main(fit_options(tree, tmp_path / "runs", *options)) == 0
    return tree, tmp_path / "runs" / "run" / "version_0"


def refused(capsys: pytest.CaptureFixture[str], run: Path, *options: str) -> str:
    capsys.readouterr()
    assert main([*resume_options(run), "--trainer.max_epochs", "2", *options]) == 2
    return capsys.readouterr().err.splitlines()[-1]


def test_another_batch_size_is_refused(finished, capsys):
    message = refused(capsys, finished[1], "--data.batch_size", "4")
    assert "data.batch_size=4 contradicts the checkpoint, which was trained with 8. Remove the option." in message


def test_another_number_of_processes_is_refused(finished, capsys):
    last = finished[1] / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    assert checkpoint["callbacks"]["TrainedWith"]["processes"] == 1
    checkpoint["callbacks"]["TrainedWith"]["processes"] = 2
    torch.save(checkpoint, last)
    message = refused(capsys, finished[1])
    assert "the run was trained by 2 processes; with 1, its batches would differ. Pass" in message


def test_a_replaced_image_is_refused(finished, capsys):
    """An image that was added changes nothing, see test_resume.py."""
    tree, run = finished
    with (run / "split.csv").open(newline="") as stream:
        path = next(row["path"] for row in csv.DictReader(stream) if row["split"] == "train")
    Image.new("RGB", (40, 40), "red").save(tree / path)
    with pytest.warns(UserWarning, match="changed since this split was made"):
        message = refused(capsys, run)
    assert "trained with 16 training and 8 validation images, but their contents or classes have changed" in message


def test_other_images_are_refused(finished, make_tree, capsys):
    """With a split of their own."""
    _, run = finished
    other = make_tree("other", {"cane": 14, "gatto": 12}, 1)
    (run / "split.csv").unlink()
    message = refused(capsys, run, "--data.root", str(other), "--data.split", "null")
    assert "trained with 16 training and 8 validation images, but now there are 18 training and 8 val" in message


def test_checkpoints_without_these_facts_are_resumed(finished):
    last = finished[1] / "last.ckpt"
    checkpoint = torch.load(last, weights_only=True)
    del checkpoint["callbacks"]["TrainedWith"]
    torch.save(checkpoint, last)
    assert main([*resume_options(finished[1]), "--trainer.max_epochs", "2"]) == 0
