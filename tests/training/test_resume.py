"""A run that was interrupted and resumed is the run that was not, to the last bit."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from animals_pl.cli import main
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.classifier import AnimalClassifier

pytestmark = pytest.mark.usefixtures("small_figures")

EPOCHS = 4
BATCHES = 6  # of 43 images, at most 8 in each


def fit(*args: object) -> int:
    return main(["fit", *map(str, args)])


def first_half(tree: Path, root: Path, workers: int, epochs: int, *more: object) -> Path:
    """Train from the start and return the run's folder."""
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.augment", "light"]
    model = ["--model.net", "minivggnet", "--model.optimizer", "adamw", "--model.weight_decay", 0.01]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", epochs]
    assert fit(*data, "--data.num_workers", workers, *model, *trainer, *more) == 0
    return root / "run" / "version_0"


def resume(run: Path, *more: object) -> int:
    config = ["--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt"]
    return fit(*config, "--trainer.max_epochs", EPOCHS, *more)


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def trained(run: Path) -> list[dict[str, str]]:
    """The table without the validations: a run that stops within an epoch has one more."""
    return [{key: cell for key, cell in row.items() if not key.endswith("/val")} for row in table(run)]


def assert_same_state(found: Path, expected: Path) -> None:
    """Compare weights, statistics and the optimizer's state bit by bit."""
    ours, theirs = (torch.load(file, weights_only=True) for file in (found, expected))
    assert ours["epoch"] == theirs["epoch"]
    assert ours["global_step"] == theirs["global_step"]
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    assert [key for key, value in ours["state_dict"].items() if not torch.equal(value, theirs["state_dict"][key])] == []
    moments, expected_moments = (checkpoint["optimizer_states"][0]["state"] for checkpoint in (ours, theirs))
    assert moments.keys() == expected_moments.keys()
    for index, state in moments.items():
        assert [key for key, value in state.items() if not torch.equal(value, expected_moments[index][key])] == []


@pytest.fixture(scope="module")
def whole(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of four epochs that nothing interrupted."""
    return first_half(tiny_tree, tmp_path_factory.mktemp("whole"), 0, EPOCHS)


@pytest.fixture(scope="module")
def halves(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Runs that ended after two epochs, by their number of workers; to be copied, not changed."""
    return {workers: first_half(tiny_tree, tmp_path_factory.mktemp(f"half{workers}"), workers, 2) for workers in (0, 2)}


def copy_of(run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(run, tmp_path / "run" / "version_0")


@pytest.mark.parametrize("workers", [0, 2])
def test_two_and_two_epochs_are_four(halves, whole, tmp_path, workers):
    run = copy_of(halves[workers], tmp_path)
    assert len(table(run)) == 2
    assert resume(run) == 0
    assert table(run) == table(whole)
    assert_same_state(run / "last.ckpt", whole / "last.ckpt")


def test_a_run_that_was_moved_remembers_its_best_epoch(halves, whole, tmp_path):
    run = copy_of(halves[0], tmp_path)
    assert resume(run) == 0
    assert_same_state(run / "best.ckpt", whole / "best.ckpt")


def test_last_checkpoint_is_of_the_last_epoch(whole):
    assert torch.load(whole / "last.ckpt", weights_only=True)["epoch"] == EPOCHS - 1


def test_resume_goes_on_in_the_same_folder(halves, tmp_path):
    run = copy_of(halves[0], tmp_path)
    before = {name: (run / name).read_bytes() for name in ("config.yaml", "split.csv")}
    assert resume(run) == 0
    assert [folder.name for folder in run.parent.iterdir()] == ["version_0"]
    assert sorted(file.suffix for file in run.iterdir() if not file.name.startswith("events")) == [
        ".ckpt",
        ".ckpt",
        ".csv",
        ".csv",
        ".json",
        ".json",
        ".png",
        ".yaml",
    ]
    assert (run / "config.yaml").read_bytes() == before["config.yaml"]
    assert (run / "split.csv").read_bytes() == before["split.csv"]


def test_resume_keeps_the_run_s_own_rows(halves, tmp_path):
    run = copy_of(halves[0], tmp_path)
    lines = (run / "metrics.csv").read_text().splitlines()
    assert resume(run) == 0
    resumed = (run / "metrics.csv").read_text().splitlines()
    assert resumed[:3] == lines  # the header and two epochs, seconds included
    assert [line.partition(",")[0] for line in resumed[1:]] == ["0", "1", "2", "3"]


def test_resume_from_the_best_epoch_repeats_what_came_after(whole, tmp_path):
    """The best checkpoint may lie before the last: its later epochs are trained again, and come out the same."""
    run = copy_of(whole, tmp_path)
    best = torch.load(run / "best.ckpt", weights_only=True)["epoch"]
    assert fit("--config", run / "config.yaml", "--ckpt_path", run / "best.ckpt") == 0
    assert 0 <= best < EPOCHS
    assert table(run) == table(whole)


def test_resume_without_the_configuration_file(halves, whole, tmp_path, tiny_tree):
    """The checkpoint itself knows the model's and the data's settings."""
    run = copy_of(halves[0], tmp_path)
    options = ["--trainer.max_epochs", EPOCHS, "--trainer.accelerator", "cpu"]
    assert fit("--ckpt_path", run / "last.ckpt", *options) == 0
    assert table(run) == table(whole)
    assert_same_state(run / "last.ckpt", whole / "last.ckpt")


def test_a_image_added_between_the_halves_changes_no_split(tiny_tree, tmp_path):
    tree = shutil.copytree(tiny_tree, tmp_path / "images")
    run = first_half(tree, tmp_path / "runs", workers=0, epochs=1)
    split = (run / "split.csv").read_bytes()
    Image.new("RGB", (40, 40), "red").save(tree / "gatto" / "added.jpg")
    with pytest.warns(UserWarning, match=r"1 image in .* is not in this split and is left out: .*gatto/added\.jpg"):
        assert fit("--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 2) == 0
    assert (run / "split.csv").read_bytes() == split
    assert len(table(run)) == 2


@pytest.mark.parametrize("steps", [2 * BATCHES, 2 * BATCHES + 3])
@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_resumed_schedule(tiny_tree, tmp_path, schedule, steps):
    """The run is cut short, not planned short: a schedule over four epochs is stopped after two."""
    more = ["--model.schedule", schedule, "--model.warmup_epochs", 1]
    expected = first_half(tiny_tree, tmp_path / "whole", 0, EPOCHS, *more)
    run = first_half(tiny_tree, tmp_path / "cut", 0, EPOCHS, *more, "--trainer.max_steps", steps)
    assert table(run)[:2] == table(expected)[:2]
    assert len(table(run)) < EPOCHS
    assert resume(run, "--trainer.max_steps", -1) == 0
    assert trained(run) == trained(expected)
    assert_same_state(run / "last.ckpt", expected / "last.ckpt")


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_more_epochs_lengthen_the_schedule(tiny_tree, tmp_path, schedule):
    """The remaining epochs have the learning rates of a run that was planned with the new length."""
    more = ["--model.schedule", schedule, "--model.warmup_epochs", 1]
    expected = table(first_half(tiny_tree, tmp_path / "whole", 0, EPOCHS, *more))
    run = first_half(tiny_tree, tmp_path / "short", 0, 2, *more)
    assert resume(run) == 0
    rates = [row["lr"] for row in table(run)]
    assert rates[2:] == [row["lr"] for row in expected[2:]]
    assert len(set(rates[2:])) == 2


def test_new_patience_counts(tiny_tree, tmp_path):
    """The learning rate is 0, so the first validation stays the best one."""
    stop = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=acc/val", "--trainer.callbacks.patience"]
    run = first_half(tiny_tree, tmp_path, 0, 2, "--model.lr", 0, *stop, 9)
    assert fit("--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 9, *stop, 3) == 0
    assert len(table(run)) == 4


def test_a_run_that_early_stopping_ended_goes_on_with_more_patience_only(tiny_tree, tmp_path, capsys):
    stop = ["--trainer.callbacks=EarlyStopping", "--trainer.callbacks.monitor=acc/val", "--trainer.callbacks.patience"]
    run = first_half(tiny_tree, tmp_path, 0, 9, "--model.lr", 0, *stop, 1)
    assert len(table(run)) == 2
    assert fit("--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 9, *stop, 1) == 0
    assert "early stopping has ended this run; raise its patience=1 to continue" in capsys.readouterr().out
    assert len(table(run)) == 2
    assert fit("--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 9, *stop, 2) == 0
    assert len(table(run)) == 3


def test_a_run_keeps_its_monitor(halves, tmp_path, capsys):
    run = copy_of(halves[0], tmp_path)
    assert resume(run, "--monitor", "acc/val") == 2
    error = capsys.readouterr().err
    assert "monitor='acc/val' contradicts the run, whose best.ckpt was selected by 'loss/val'. Set" in error


@pytest.mark.parametrize("steps", [BATCHES - 2, 2 * BATCHES + 3])
def test_a_run_that_ended_within_an_epoch_goes_on_there(tiny_tree, whole, tmp_path, steps):
    run = first_half(tiny_tree, tmp_path, 0, EPOCHS, "--trainer.max_steps", steps)
    assert torch.load(run / "last.ckpt", weights_only=True)["global_step"] == steps
    assert resume(run, "--trainer.max_steps", -1) == 0
    others = [epoch for epoch in range(EPOCHS) if epoch != steps // BATCHES]
    assert [table(run)[epoch] for epoch in others] == [table(whole)[epoch] for epoch in others]
    assert trained(run) == trained(whole)
    assert_same_state(run / "last.ckpt", whole / "last.ckpt")


# ---------------------------------------------------------------- the same through Lightning's own Trainer


class Recorder(L.Callback):
    """Keeps what every training batch was made of."""

    def __init__(self) -> None:
        self.batches: list[tuple[int, int, torch.Tensor, list[int]]] = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx) -> None:
        images, labels = batch
        assert images.dtype == torch.uint8
        self.batches.append((trainer.current_epoch, batch_idx, images.clone(), labels.tolist()))


def train(tree: Path, workers: int, epochs: int, *callbacks: L.Callback, ckpt_path: Path | None = None, **data):
    """Train through a plain Trainer and return what it went through and the final weights."""
    L.seed_everything(1, verbose=False)
    recorder = Recorder()
    trainer = L.Trainer(
        default_root_dir=tree.parent,
        accelerator="cpu",
        max_epochs=epochs,
        logger=False,
        enable_checkpointing=bool(callbacks),
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        callbacks=[BatchSeed(42), recorder, *callbacks],
    )
    settings = {"size": 16, "batch_size": 8, "augment": "light", **data}
    datamodule = AnimalsDataModule(root=str(tree), num_workers=workers, **settings)
    module = AnimalClassifier(net="minivggnet")
    trainer.fit(module, datamodule, ckpt_path=ckpt_path, weights_only=True)
    return recorder.batches, module.state_dict()


def assert_same_batches(found, expected) -> None:
    assert [(epoch, index, labels) for epoch, index, _, labels in found] == [
        (epoch, index, labels) for epoch, index, _, labels in expected
    ]
    for (epoch, index, ours, _), (_, _, theirs, _) in zip(found, expected, strict=True):
        assert torch.equal(ours, theirs), f"epoch {epoch}, batch {index}"


@pytest.fixture(scope="module")
def uninterrupted(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory):
    """Three epochs, with a checkpoint after every second step."""
    folder = tmp_path_factory.mktemp("steps")
    steps = ModelCheckpoint(folder, filename="{step}", every_n_train_steps=2, save_top_k=-1)
    return folder, *train(tiny_tree, 0, 3, steps)


@pytest.mark.parametrize("sampling", ["shuffle", "weighted"])
def test_batches_are_the_same_with_and_without_workers(tiny_tree, uninterrupted, sampling):
    expected = uninterrupted[1] if sampling == "shuffle" else train(tiny_tree, 0, 3, sampling=sampling)[0]
    found, _ = train(tiny_tree, 2, 3, sampling=sampling)
    assert len(expected) == 3 * BATCHES
    assert_same_batches(found, expected)


def test_no_two_epochs_are_the_same(uninterrupted):
    batches = uninterrupted[1]
    sums = [int(images.long().sum()) for _, _, images, _ in batches]
    assert len(set(sums)) == len(sums)


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("step", [4, 8])
def test_resume_in_the_middle_of_an_epoch(tiny_tree, uninterrupted, workers, step):
    folder, batches, weights = uninterrupted
    found, resumed = train(tiny_tree, workers, 3, ckpt_path=folder / f"step={step}.ckpt")
    assert step % BATCHES != 0
    assert_same_batches(found, batches[step:])
    assert [key for key, value in weights.items() if not torch.equal(value, resumed[key])] == []
