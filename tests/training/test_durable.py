"""Checkpoints survive damage, full disks and folders that cannot be written."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.errors import MachineError, UsageError
from animals_pl.lightning_cli import run as fit_with
from animals_pl.training.checkpoint import damaged_record, load_checkpoint
from animals_pl.training.metrics_csv import read_metrics
from animals_pl.training.save_interval import SaveInterval

pytestmark = pytest.mark.usefixtures("small_figures")


def train(tree: Path, root: Path, *options: object) -> int:
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 3]
    model = ["--model.net", "minivggnet", "--model.schedule", "cosine"]
    return main(["fit", *map(str, [*data, *model, *trainer, *options])])


def resume(run: Path, *options: object) -> int:
    args = ["--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_steps", -1]
    return main(["fit", *map(str, [*args, *options])])


@pytest.fixture(scope="module")
def finished(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was stopped after two of three epochs, to be copied."""
    root = tmp_path_factory.mktemp("finished")
    assert train(tiny_tree, root, "--trainer.max_steps", 12) == 0
    return root / "run" / "version_0"


@pytest.fixture(scope="module")
def whole(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run, not stopped."""
    root = tmp_path_factory.mktemp("whole")
    assert train(tiny_tree, root) == 0
    return root / "run" / "version_0"


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return shutil.copytree(finished, tmp_path / "run" / "version_0")


def flip_bit_of_a_tensor(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


# ---------------------------------------------------------------- checksums


def test_a_flipped_bit_is_found_in_every_part(finished, tmp_path):
    """torch.load itself notices none of these."""
    content = (finished / "best.ckpt").read_bytes()
    for part in range(1, 8):
        damaged = bytearray(content)
        damaged[len(content) * part // 8] ^= 1
        (tmp_path / "best.ckpt").write_bytes(damaged)
        with pytest.raises(UsageError, match=r"best\.ckpt' is (damaged|not a checkpoint)"):
            load_checkpoint(tmp_path / "best.ckpt")


def test_every_verb_refuses_a_damaged_checkpoint(run, tiny_tree, capsys):
    flip_bit_of_a_tensor(run / "best.ckpt")
    torch.load(run / "best.ckpt", weights_only=True)  # is silent
    for args in (["test"], ["validate"], ["predict", str(tiny_tree)], ["export"]):
        assert main([*args, "--ckpt_path", str(run / "best.ckpt")]) == 2
        error = capsys.readouterr().err.strip()
        assert "best.ckpt' is damaged (checksum of archive/data/" in error
        assert "\n" not in error


@pytest.mark.parametrize("legacy", [True, False], ids=["older_format", "crc_switched_off"])
def test_files_without_checksums_are_read(finished, tmp_path, legacy):
    checkpoint = torch.load(finished / "best.ckpt", weights_only=True)
    file = tmp_path / "plain.ckpt"
    computed = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(checkpoint, file, _use_new_zipfile_serialization=not legacy)
    finally:
        torch.serialization.set_crc32_options(computed)
    assert damaged_record(file) is None
    assert load_checkpoint(file)["epoch"] == checkpoint["epoch"]


# ---------------------------------------------------------------- falling back


@pytest.mark.parametrize("fault", ["missing", "torn", "empty", "flipped"])
def test_resume_falls_back_to_the_newest_valid_checkpoint(run, capsys, fault):
    last = run / "last.ckpt"
    content = last.read_bytes()
    if fault == "missing":
        last.unlink()
    elif fault == "flipped":
        flip_bit_of_a_tensor(last)
    else:
        last.write_bytes(content[: len(content) // 3] if fault == "torn" else b"")
    steps = load_checkpoint(run / "best.ckpt")["global_step"]
    with pytest.warns(UserWarning, match=rf"last\.ckpt' is .*; resuming from best\.ckpt, after {steps} steps"):
        assert resume(run) == 0
    assert [row["epoch"] for row in read_metrics(run / "metrics.csv")] == [0, 1, 2]
    assert load_checkpoint(last)["epoch"] == 2


def test_a_run_of_which_best_ckpt_alone_is_left_repeats_the_rest(run, whole):
    """Even the row of its epoch, which was not complete when it was saved."""
    for name in ("last.ckpt", "metrics.csv"):
        (run / name).unlink()
    best = load_checkpoint(run / "best.ckpt")["epoch"]
    with pytest.warns(UserWarning, match="resuming from best"):
        assert resume(run) == 0
    rows, expected = (read_metrics(folder / "metrics.csv") for folder in (run, whole))
    for row in (*rows, *expected):
        del row["seconds"]
    assert rows == [row for row in expected if row["epoch"] >= best]
    found, theirs = (load_checkpoint(folder / "last.ckpt")["state_dict"] for folder in (run, whole))
    assert [key for key, value in theirs.items() if not torch.equal(value, found[key])] == []


def test_without_a_valid_checkpoint_the_error_names_the_file(run, capsys):
    for name in ("best.ckpt", "last.ckpt"):
        (run / name).write_bytes(b"PK")
    assert resume(run) == 2
    assert "last.ckpt' is not a checkpoint" in capsys.readouterr().err


def test_only_last_ckpt_is_replaced_by_another(run, capsys):
    flip_bit_of_a_tensor(run / "best.ckpt")
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(run / "best.ckpt")]) == 2
    assert "best.ckpt' is damaged" in capsys.readouterr().err


def test_what_a_killed_save_left_is_removed(run):
    (run / "last.ckpt.123.partial").write_bytes(b"half")
    assert resume(run) == 0
    assert list(run.glob("*.partial")) == []


# ---------------------------------------------------------------- disks and folders


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(["mount", *options], check=False, capture_output=True).returncode:
        pytest.skip("only root can mount a disk")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_run_whose_checkpoints_do_not_fit_is_refused_before_it_starts(small_disk, tiny_tree, capsys):
    assert train(tiny_tree, small_disk, "--model.net", "resnet10t") == 1
    error = capsys.readouterr().err.strip()
    assert "MB of free space, but 3 checkpoints of" in error
    assert "Free disk space, or pass --trainer.default_root_dir DIR" in error
    assert "\n" not in error
    assert list(small_disk.iterdir()) == []


class Interfere(L.Callback):
    """Does something to the run's folder in the first batch."""

    def __init__(self, action: Callable[[], object]) -> None:
        self.action = action

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: object, index: int) -> None:
        if index == 0:
            self.action()


def resume_with(run: Path, action: Callable[[], object]) -> None:
    args = ["--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_steps", -1]
    fit_with(["fit", *map(str, args)], [Interfere(action)])


def test_a_disk_that_fills_up_keeps_the_earlier_checkpoint(small_disk, finished):
    run = shutil.copytree(finished, small_disk / "run" / "version_0")
    before = {name: (run / name).read_bytes() for name in ("best.ckpt", "last.ckpt")}
    filler = small_disk / "filler"
    free = shutil.disk_usage(small_disk).free
    with pytest.raises(
        MachineError, match=r"cannot write .*\(No space left on device\), [0-9.]+ MB needed; an earlier"
    ):
        resume_with(run, lambda: filler.write_bytes(bytes(free - 100_000)))
    assert {name: (run / name).read_bytes() for name in before} == before
    assert list(run.glob("*.partial")) == []
    filler.unlink()
    assert resume(run) == 0


@pytest.fixture
def lock() -> Iterator[Callable[[Path], None]]:
    """Makes folders read-only, for root as well."""
    locked: list[Path] = []

    def lock_folder(folder: Path) -> None:
        if os.geteuid() or subprocess.run(["chattr", "+i", str(folder)], check=False, capture_output=True).returncode:
            pytest.skip("only root can lock a folder, on some disks")
        locked.append(folder)

    yield lock_folder
    for folder in locked:
        subprocess.run(["chattr", "-i", str(folder)], check=True)


def test_a_run_folder_that_cannot_be_written_is_refused_before_training(run, lock, capsys):
    lock(run)
    assert resume(run) == 2
    assert f"run folder='{run}' is not writable. Choose another run folder." in capsys.readouterr().err


def test_a_new_run_where_nothing_can_be_written_is_refused(tiny_tree, tmp_path, lock, capsys):
    lock(tmp_path)
    assert train(tiny_tree, tmp_path / "runs") == 2
    assert "cannot write below" in capsys.readouterr().err


def test_a_folder_that_becomes_read_only_stops_the_run_and_keeps_its_files(run, lock):
    before = {file.name: file.read_bytes() for file in run.glob("*.ckpt")}
    with pytest.raises(
        MachineError, match=r"cannot write .* \(Operation not permitted\), .*an earlier file .* is kept"
    ):
        resume_with(run, lambda: lock(run))
    assert {file.name: file.read_bytes() for file in run.glob("*.ckpt")} == before


def test_machine_errors_exit_with_1(monkeypatch, capsys):
    def fail(*args: object) -> None:
        raise MachineError("cannot write 'last.ckpt' (No space left on device)")

    monkeypatch.setattr("animals_pl.reports.analyze.analyze", fail)
    assert main(["analyze"]) == 1
    assert capsys.readouterr().err == (
        "animals_pl analyze: error: cannot write 'last.ckpt' (No space left on device)\n"
    )


def test_the_estimated_size_is_that_of_the_file(run):
    """Within the parts that it leaves out: settings, metrics and names."""
    weights = load_checkpoint(run / "last.ckpt")
    tensors = sum(tensor.nbytes for tensor in weights["state_dict"].values())
    moments = sum(
        value.nbytes for state in weights["optimizer_states"][0]["state"].values() for value in state.values()
    )
    assert tensors + moments <= (run / "last.ckpt").stat().st_size <= 1.1 * (tensors + moments) + 60_000


# ---------------------------------------------------------------- the clock


def test_a_clock_that_went_back_changes_nothing(run, whole, monkeypatch):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() - 86_400)
    assert resume(run, "--save_every", "1s") == 0
    found, expected = (load_checkpoint(folder / "last.ckpt") for folder in (run, whole))
    assert [k for k, v in expected["state_dict"].items() if not torch.equal(v, found["state_dict"][k])] == []
    events = EventAccumulator(str(run))
    events.Reload()
    assert [point.step for point in events.Scalars("loss/val")] == [1, 2, 3]


# ---------------------------------------------------------------- checkpoints within an epoch


@pytest.mark.parametrize("text", ["", "min", "0s", "500ms", "-3min", "10 days", "0steps", "5 Steps"])
def test_other_intervals_are_refused(text):
    with pytest.raises(UsageError, match=r"save_every=.* is invalid\. Pass a duration of 1s to 365d"):
        SaveInterval(text)


def test_save_every_needs_checkpoints(tiny_tree, tmp_path, capsys):
    options = ["--save_every", "10min", "--trainer.enable_checkpointing", "false"]
    assert train(tiny_tree, tmp_path, *options) == 2
    assert "save_every=10min has no effect with trainer.enable_checkpointing=false" in capsys.readouterr().err


class Saves(L.Callback):
    """Records the epoch and the batch, from 1, of every checkpoint."""

    def __init__(self) -> None:
        self.positions: list[tuple[int, int]] = []

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: object) -> None:
        self.positions.append((trainer.current_epoch, trainer.fit_loop.epoch_loop.batch_progress.current.ready))


@pytest.mark.parametrize(
    ("options", "batches"),
    [
        ({}, [2, 4]),  # the sixth batch is the epoch's last one
        ({"accumulate_grad_batches": 3}, []),  # 2 steps are an epoch
        ({"accumulate_grad_batches": 2}, [4]),
        ({"val_check_interval": 2}, [3, 5]),  # not where a validation follows
    ],
    ids=["plain", "accumulation_3", "accumulation_2", "validations"],
)
def test_checkpoints_within_an_epoch(tiny_tree, tmp_path, options, batches):
    """Of 6 batches, after every second step."""
    saves = Saves()
    data = AnimalsDataModule(str(tiny_tree), size=16, batch_size=8, num_workers=0)
    fixed = {"max_epochs": 1, "default_root_dir": str(tmp_path), "accelerator": "cpu"}
    fit(AnimalClassifier("shallownet"), data, save_every="2steps", callbacks=saves, **fixed, **options)
    within = [batch for _, batch in saves.positions if batch < 6]
    validated = options.get("val_check_interval")
    if validated:  # those of best.ckpt
        within = [batch for batch in within if batch % validated]
    assert within == batches


def test_time_counts_from_the_latest_checkpoint(tiny_tree, tmp_path, monkeypatch):
    """Each look at the clock is a minute after the one before."""
    minutes = iter(range(0, 100_000, 60))
    monkeypatch.setattr("animals_pl.training.save_interval.time", SimpleNamespace(monotonic=lambda: next(minutes)))
    saves = Saves()
    data = AnimalsDataModule(str(tiny_tree), size=16, batch_size=8, num_workers=0)
    fixed = {"max_epochs": 1, "default_root_dir": str(tmp_path), "accelerator": "cpu", "limit_val_batches": 0}
    fit(AnimalClassifier("shallownet"), data, save_every="3min", callbacks=saves, **fixed)
    assert [batch for _, batch in saves.positions] == [3, 6]
