"""Faults in the middle of a training run: one line, exit code 1, and the checkpoints before it stay."""

from __future__ import annotations

import csv
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from animals_pl.cli import main
from animals_pl.data import dataset
from animals_pl.data.decode import decode
from animals_pl.training.classifier import AnimalClassifier

pytestmark = pytest.mark.usefixtures("small_figures")

BATCHES = 6  # of 43 images, at most 8 in each


def fit(tree: Path, root: Path, *more: object) -> int:
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 3]
    return main([str(argument) for argument in ["fit", *data, "--model.net", "minivggnet", *trainer, *more]])


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, Callable[[Tensor], Tensor]], None]:
    """Let a function change the loss of the n-th training step."""
    step = AnimalClassifier.training_step

    def change(number: int, function: Callable[[Tensor], Tensor]) -> None:
        def changed(self: AnimalClassifier, batch: Any, batch_idx: int) -> Tensor:
            loss = step(self, batch, batch_idx)
            return function(loss) if self.global_step + 1 == number else loss

        monkeypatch.setattr(AnimalClassifier, "training_step", changed)

    return change


def the_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The only line on standard error."""
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("animals_pl fit: error: ")


def allocate(loss: Tensor) -> Tensor:
    return loss + torch.empty(2**50).sum()


def raise_on_gpu(loss: Tensor) -> Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee documentation")


def raise_memory_error(loss: Tensor) -> Tensor:
    raise MemoryError


@pytest.mark.parametrize("fault", [allocate, raise_on_gpu, raise_memory_error])
def test_out_of_memory_names_the_batch_size_and_an_equivalent(tiny_tree, tmp_path, in_step, capsys, fault):
    in_step(BATCHES + 2, fault)
    assert fit(tiny_tree, tmp_path) == 1
    last = tmp_path / "run" / "version_0" / "last.ckpt"
    assert the_line(capsys) == (
        "out of memory with data.batch_size=8. Pass --data.batch_size 4 --trainer.accumulate_grad_batches 2: half as "
        f"many images at a time, with the same optimizer steps. Then resume with --ckpt_path {last}"
    )
    assert torch.load(last, weights_only=True)["global_step"] == BATCHES


def test_the_equivalent_to_a_batch_that_is_too_large_takes_the_same_steps(tiny_tree, tmp_path):
    options = ["--trainer.max_epochs", 1, "--model.net", "shallownet", "--data.augment", "none"]
    sizes = {
        "whole": ["--data.batch_size", 8, "--trainer.limit_train_batches", 4],
        "halves": ["--data.batch_size", 4, "--trainer.limit_train_batches", 8, "--trainer.accumulate_grad_batches", 2],
    }
    for name, size in sizes.items():
        assert fit(tiny_tree, tmp_path / name, *options, *size) == 0
    whole, halves = (
        torch.load(tmp_path / name / "run" / "version_0" / "last.ckpt", weights_only=True) for name in sizes
    )
    assert whole["global_step"] == halves["global_step"] == 4
    for key, value in whole["state_dict"].items():
        torch.testing.assert_close(halves["state_dict"][key], value, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("step", [2, BATCHES + 2])
def test_a_loss_that_is_not_finite_stops_with_the_images_of_its_batch(
    tiny_tree, tmp_path, in_step, capsys, monkeypatch, value, step
):
    decoded: list[str] = []
    monkeypatch.setattr(dataset, "decode", lambda path, size: decoded.append(str(path)) or decode(path, size))
    batches: list[list[str]] = []

    def spoil(loss: Tensor) -> Tensor:
        batches.append(decoded[-8:])
        return loss * value

    in_step(step, spoil)
    assert fit(tiny_tree, tmp_path) == 1
    run = tmp_path / "run" / "version_0"
    epoch, batch = divmod(step - 1, BATCHES)
    assert the_line(capsys) == (
        f"training diverged in epoch {epoch + 1}: the loss of batch {batch + 1} is {value:g}. Lower model.lr (now "
        "0.001), raise model.warmup_epochs, or set trainer.gradient_clip_val. "
        f"The images of the batch are in {str(run / 'not_finite.csv')!r}."
    )
    with (run / "not_finite.csv").open(newline="") as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == batches[0]
    assert (run / "last.ckpt").exists() == bool(epoch)


def test_a_learning_rate_that_is_too_high_is_named(tiny_tree, tmp_path, capsys):
    assert fit(tiny_tree, tmp_path, "--model.net", "shallownet", "--model.lr", 1e30) == 1
    line = the_line(capsys)
    assert re.match(
        r"training diverged in epoch 1: the loss of batch \d is (nan|inf)\. Lower model\.lr \(now 1e\+30\)", line
    )
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_a_step_that_overflows_is_named(tiny_tree, tmp_path, capsys):
    options = ["--model.net", "shallownet", "--model.optimizer", "adam", "--model.lr", 1e38]
    assert fit(tiny_tree, tmp_path, *options) == 1
    assert the_line(capsys) == "a step of the optimizer overflowed. Lower model.lr (now 1e+38)."


def test_a_run_with_a_step_that_overflows_is_not_to_be_resumed(tiny_tree, tmp_path, in_step, capsys):
    """A resumed run would have the same model.lr."""

    def overflow(loss: Tensor) -> Tensor:
        raise RuntimeError("value cannot be converted to type float without overflow")

    in_step(BATCHES + 2, overflow)
    assert fit(tiny_tree, tmp_path) == 1
    assert (tmp_path / "run" / "version_0" / "last.ckpt").exists()
    assert the_line(capsys) == "a step of the optimizer overflowed. Lower model.lr (now 0.001)."


def test_an_image_that_is_deleted_within_an_epoch_stops_the_run(make_tree, tmp_path, in_step, capsys):
    tree = make_tree("tree", {"cane": 20, "gatto": 20})

    def delete(loss: Tensor) -> Tensor:
        for path in tree.rglob("*.jpg"):
            path.unlink()
        return loss

    in_step(2, delete)
    assert fit(tree, tmp_path / "runs", "--data.batch_size", 4) == 1
    line = the_line(capsys)
    assert re.match(rf"cannot decode the image {tree}/\w+/\w+\.jpg: FileNotFoundError", line)
    assert line.endswith("It was changed or deleted after the scan, which found it intact.")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xd8\xff\xe0" + bytes(100)])
def test_an_image_that_is_replaced_by_garbage_stops_the_run(make_tree, tmp_path, in_step, capsys, workers, content):
    tree = make_tree("tree", {"cane": 40, "gatto": 40})

    def replace(loss: Tensor) -> Tensor:
        for path in tree.rglob("*.jpg"):
            path.write_bytes(content)
        return loss

    in_step(2, replace)
    assert fit(tree, tmp_path / "runs", "--data.batch_size", 4, "--data.num_workers", workers) == 1
    line = the_line(capsys)
    assert re.match(rf"cannot decode the image {tree}/\w+/\w+\.jpg: ", line)
    assert line.endswith("It was changed or deleted after the scan, which found it intact.")


def test_a_loader_process_that_is_killed_stops_the_run(tiny_tree, tmp_path, monkeypatch, capsys):
    """As the system does if memory runs out."""
    get = dataset.AnimalsDataset.__getitem__
    main_process = os.getpid()

    def killed(self: Any, key: Any) -> Any:
        if os.getpid() != main_process and getattr(key, "epoch", 0) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return get(self, key)

    monkeypatch.setattr(dataset.AnimalsDataset, "__getitem__", killed)
    assert fit(tiny_tree, tmp_path, "--data.num_workers", 1) == 1
    last = tmp_path / "run" / "version_0" / "last.ckpt"
    expected = (
        r"a loader process \(pid \d+\) was ended( by a signal \(Killed\))?\. If memory ran out, lower "
        r"data\.num_workers first\. Pass --data\.batch_size 4 --trainer\.accumulate_grad_batches 2: half as many "
        rf"images at a time, with the same optimizer steps\. Then resume with --ckpt_path {last}"
    )
    assert re.fullmatch(expected, the_line(capsys))
    assert torch.load(last, weights_only=True)["epoch"] == 0
