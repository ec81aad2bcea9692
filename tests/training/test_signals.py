"""SIGINT and SIGTERM end a run with a checkpoint, from which it continues as if it had never stopped."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.data.inspection import manifest
from animals_pl.training.checkpoint_io import AtomicCheckpointIO
from animals_pl.training.extraction import Extractor

pytestmark = pytest.mark.usefixtures("small_figures")

BATCHES = 6  # of 43 images, at most 8 in each
SIGNALS = [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]


@pytest.fixture(autouse=True)
def own_handlers() -> Iterator[None]:
    """Python's default handlers, which a shell's background job has not, and a check that they are restored."""
    default = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in default.items()}
    yield
    assert {number: signal.getsignal(number) for number in default} == default
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def send_in(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the process send itself signals when a method of a class or module is called for the n-th time."""

    def send(owner: Any, name: str, *numbers: int, call: int = 1) -> None:
        method, calls = getattr(owner, name), []

        def sending(*args: Any, **kwargs: Any) -> Any:
            calls.append(None)
            if len(calls) == call:
                for number in numbers:
                    os.kill(os.getpid(), number)
            return method(*args, **kwargs)

        monkeypatch.setattr(owner, name, sending)

    return send


def arguments(tree: Path, root: Path, *more: object) -> list[str]:
    data = ["--data.root", tree, "--data.size", 16, "--data.batch_size", 8, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 3]
    return [str(argument) for argument in ["fit", *data, "--model.net", "minivggnet", *trainer, *more]]


def table(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [{key: cell for key, cell in row.items() if key != "seconds"} for row in csv.DictReader(stream)]


def assert_same_run(found: Path, expected: Path) -> None:
    """Compare metrics, and bit by bit the weights and the optimizer's state."""
    assert table(found) == table(expected)
    for name in ("last.ckpt", "best.ckpt"):
        ours, theirs = (torch.load(run / name, weights_only=True) for run in (found, expected))
        assert (ours["epoch"], ours["global_step"]) == (theirs["epoch"], theirs["global_step"])
        tensors, expected_tensors = (
            {**checkpoint["state_dict"], **{(i, k): v for i, s in states.items() for k, v in s.items()}}
            for checkpoint in (ours, theirs)
            for states in [checkpoint["optimizer_states"][0]["state"]]
        )
        assert tensors.keys() == expected_tensors.keys()
        assert [key for key, value in tensors.items() if not torch.equal(value, expected_tensors[key])] == []


@pytest.fixture(scope="module")
def uninterrupted(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function (options) that returns a run that nothing interrupted."""
    runs: dict[tuple[object, ...], Path] = {}

    def run(*more: object) -> Path:
        if more not in runs:
            root = tmp_path_factory.mktemp("uninterrupted")
            assert main(arguments(tiny_tree, root, *more)) == 0
            runs[more] = root / "run" / "version_0"
        return runs[more]

    return run


@pytest.mark.parametrize(("number", "told", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("place", "call", "options", "steps"),
    [
        pytest.param("training_step", 2, [], 2, id="first epoch"),
        pytest.param("training_step", BATCHES + 3, [], BATCHES + 3, id="second epoch"),
        pytest.param("training_step", 2 * BATCHES, [], 2 * BATCHES, id="last batch of an epoch"),
        pytest.param("validation_step", 1, [], BATCHES, id="validation"),
        pytest.param("training_step", 3, ["--trainer.accumulate_grad_batches", 2], 2, id="accumulated gradients"),
        pytest.param("training_step", 3, ["--trainer.val_check_interval", 0.5], 4, id="validation within an epoch"),
    ],
)
def test_a_run_that_is_stopped_continues_as_if_it_had_not(
    tiny_tree, tmp_path, uninterrupted, send_in, capsys, number, told, code, place, call, options, steps
):
    expected = uninterrupted(*options)
    capsys.readouterr()
    send_in(AnimalClassifier, place, number, call=call)
    assert main(arguments(tiny_tree, tmp_path, *options)) == code
    run = tmp_path / "run" / "version_0"
    last = run / "last.ckpt"
    assert capsys.readouterr().err == f"animals_pl fit: {told}; resume with --ckpt_path {last}\n"
    assert torch.load(last, weights_only=True)["global_step"] == steps
    assert list(run.glob("*.partial")) == []
    assert main(["fit", "--config", str(run / "config.yaml"), "--ckpt_path", str(last)]) == 0
    assert_same_run(run, expected)


@pytest.mark.parametrize(("number", "told", "code"), SIGNALS)
@pytest.mark.parametrize(
    ("owner", "name", "options"),
    [
        pytest.param(manifest, "_inspect_each", [], id="scan"),
        pytest.param(Extractor, "__call__", ["--model.net", "test_vit", "--model.freeze", True], id="features"),
        pytest.param(AnimalClassifier, "training_step", ["--tune", "lr"], id="search for a learning rate"),
    ],
)
def test_a_run_that_is_stopped_before_its_first_step_leaves_nothing(
    tiny_tree, tmp_path, send_in, monkeypatch, capsys, number, told, code, owner, name, options
):
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    send_in(owner, name, number)
    assert main(arguments(tiny_tree, tmp_path / "runs", "--data.size", 32, *options, "--trainer.max_epochs", 9)) == code
    assert capsys.readouterr().err.endswith(f"animals_pl fit: {told}\n")  # after the progress bar of the search
    assert [path for path in (tmp_path / "runs").rglob("*") if path.is_file()] == []
    assert list((tmp_path / "cache").rglob("*.partial")) == []


def test_a_signal_in_a_save_lets_it_complete(tiny_tree, tmp_path, send_in, capsys):
    send_in(torch, "save", signal.SIGTERM)
    assert main(arguments(tiny_tree, tmp_path)) == 143
    run = tmp_path / "run" / "version_0"
    assert f"; resume with --ckpt_path {run / 'last.ckpt'}\n" in capsys.readouterr().err
    assert [torch.load(run / name, weights_only=True)["epoch"] for name in ("best.ckpt", "last.ckpt")] == [0, 0]
    assert len(table(run)) == 1


def test_a_second_ctrl_c_stops_at_once(tiny_tree, tmp_path, send_in, capsys):
    send_in(AnimalClassifier, "training_step", signal.SIGINT, signal.SIGINT, call=2)
    assert main(arguments(tiny_tree, tmp_path)) == 130
    assert capsys.readouterr().err == "animals_pl fit: interrupted\n"
    assert list(tmp_path.iterdir()) == []


def test_a_second_ctrl_c_in_a_save_leaves_no_half_written_file(tiny_tree, tmp_path, send_in, capsys):
    send_in(AtomicCheckpointIO, "save_checkpoint", signal.SIGINT, call=3)  # best.ckpt of the second epoch
    send_in(Path, "write_bytes", signal.SIGINT, call=3)
    assert main(arguments(tiny_tree, tmp_path)) == 130
    run = tmp_path / "run" / "version_0"
    assert f"; resume with --ckpt_path {run / 'last.ckpt'}\n" in capsys.readouterr().err
    assert torch.load(run / "last.ckpt", weights_only=True)["epoch"] == 0
    assert list(run.glob("*.partial")) == []


def test_a_second_sigterm_does_not_prevent_the_save(tiny_tree, tmp_path, send_in):
    send_in(AnimalClassifier, "training_step", signal.SIGTERM, signal.SIGTERM, signal.SIGTERM, call=2)
    assert main(arguments(tiny_tree, tmp_path)) == 143
    assert torch.load(tmp_path / "run" / "version_0" / "last.ckpt", weights_only=True)["global_step"] == 2


def test_ctrl_c_reaches_python(tiny_tree, tmp_path, send_in):
    send_in(AnimalClassifier, "training_step", signal.SIGINT, call=2)
    data = AnimalsDataModule(str(tiny_tree), size=16, batch_size=16, num_workers=0)
    with pytest.raises(KeyboardInterrupt, match=r"interrupted; resume with --ckpt_path .*last\.ckpt"):
        fit(AnimalClassifier(net="shallownet"), data, default_root_dir=str(tmp_path), max_epochs=2)


@pytest.mark.parametrize("options", [["--trainer.enable_checkpointing", False], ["--trainer.fast_dev_run", True]])
def test_a_run_without_checkpoints_can_be_stopped(tiny_tree, tmp_path, send_in, capsys, options):
    send_in(AnimalClassifier, "training_step", signal.SIGTERM)
    assert main(arguments(tiny_tree, tmp_path, *options)) == 143
    assert capsys.readouterr().err == "animals_pl fit: terminated\n"
    assert list(tmp_path.rglob("*.ckpt")) == []


def test_max_time_says_how_to_resume(tiny_tree, tmp_path, capsys):
    assert main(arguments(tiny_tree, tmp_path, "--trainer.max_time", '{"microseconds": 1}')) == 0
    last = tmp_path / "run" / "version_0" / "last.ckpt"
    assert (
        "stopped after 1 of 6 batches of epoch 1: trainer.max_time was reached. Raise it and resume with "
        f"--ckpt_path {last}\n" in capsys.readouterr().out
    )
    assert torch.load(last, weights_only=True)["global_step"] == 1


# ---------------------------------------------------------------- processes


def start(script: str, arguments: list[str]) -> subprocess.Popen[str]:
    """Start a shell script in a process group of its own; "$@" is the command ``fit``."""
    command = ["sh", "-c", script, "sh", sys.executable, "-m", "animals_pl", *arguments]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | {"PYTHONUNBUFFERED": "1"},
        start_new_session=True,
    )


def wait_for_epoch(process: subprocess.Popen[str], epoch: int) -> list[str]:
    """Wait until the row of an epoch is printed, and return the lines so far."""
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while not lines[-1].startswith(f"epoch   {epoch}"):
        assert lines[-1] or process.poll() is None, process.communicate()
        lines.append(process.stdout.readline())
    return lines


def assert_resumes(tree: Path, run: Path, epochs: int, tmp_path: Path, *options: object) -> None:
    """Compare a run that was stopped, resumed for some epochs, to one that was not."""
    again = ["--ckpt_path", str(run / "last.ckpt"), "--trainer.max_epochs", str(epochs)]
    assert main(["fit", "--config", str(run / "config.yaml"), *again, *map(str, options)]) == 0
    whole = tmp_path / "whole"
    assert main(arguments(tree, whole, *options, "--trainer.max_epochs", epochs)) == 0
    assert_same_run(run, whole / "run" / "version_0")


ENDLESS = ["--trainer.max_epochs", 9999]


@pytest.mark.slow
def test_a_background_job_of_a_shell_can_be_interrupted(tiny_tree, tmp_path):
    """A non-interactive shell lets its background jobs ignore SIGINT."""
    with start('"$@" & echo $!; wait $!', arguments(tiny_tree, tmp_path, *ENDLESS)) as process:
        pid, *_ = wait_for_epoch(process, 1)
        os.kill(int(pid), signal.SIGINT)
        _, err = process.communicate()
    last = tmp_path / "run" / "version_0" / "last.ckpt"
    assert (process.returncode, err) == (130, f"animals_pl fit: interrupted; resume with --ckpt_path {last}\n")
    assert torch.load(last, weights_only=True)["global_step"] >= BATCHES


@pytest.mark.slow
@pytest.mark.parametrize(("number", "told", "code"), SIGNALS)
def test_a_signal_to_the_process_group_leaves_the_workers_until_the_state_is_saved(
    tiny_tree, tmp_path, number, told, code
):
    workers = ["--data.num_workers", 2]
    with start('exec "$@"', arguments(tiny_tree, tmp_path, *ENDLESS, *workers)) as process:
        wait_for_epoch(process, 2)
        os.killpg(process.pid, number)
        _, err = process.communicate()
    run = tmp_path / "run" / "version_0"
    assert (process.returncode, err) == (code, f"animals_pl fit: {told}; resume with --ckpt_path {run / 'last.ckpt'}\n")
    epoch = torch.load(run / "last.ckpt", weights_only=True)["epoch"]
    assert_resumes(tiny_tree, run, epoch + 2, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "number", "told", "code"), [(0, *SIGNALS[1]), (1, *SIGNALS[0])])
def test_all_processes_stop_if_one_of_them_receives_a_signal(tiny_tree, tmp_path, rank, number, told, code):
    ddp = ["--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.batch_size", 4, *ENDLESS]
    with start('exec "$@"', arguments(tiny_tree, tmp_path, *ddp)) as process:
        wait_for_epoch(process, 1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        (other,) = (int(child) for child in children if b"animals_pl" in Path(f"/proc/{child}/cmdline").read_bytes())
        os.kill([process.pid, other][rank], number)
        _, err = process.communicate(timeout=120)  # until all processes have closed the pipe
    last = tmp_path / "run" / "version_0" / "last.ckpt"
    assert process.returncode == code
    assert err.splitlines()[-1] == f"animals_pl fit: {told}; resume with --ckpt_path {last}"  # after warnings of DDP
    assert torch.load(last, weights_only=True)["global_step"] >= BATCHES
