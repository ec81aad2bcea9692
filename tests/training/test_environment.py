"""A run's folder holds what repeats it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from animals_pl.cli import main
from animals_pl.experiments.same_result import compare_runs
from animals_pl.training.environment import _git_state

pytestmark = pytest.mark.usefixtures("small_figures")


def train(root: Path, *options: object) -> Path:
    assert main(["fit", *map(str, options), "--trainer.default_root_dir", str(root)]) == 0
    (run,) = root.glob("*/version_0")
    return run


@pytest.fixture(scope="module")
def run(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = ["--data.root", tiny_tree, "--data.size", 16, "--data.batch_size", 8, "--data.augment", "light"]
    model = ["--model.net", "minivggnet", "--model.mixup", 0.2, "--data.sampling", "weighted"]
    trainer = ["--trainer.accelerator", "cpu", "--trainer.max_epochs", 2]
    return train(tmp_path_factory.mktemp("run"), *data, *model, *trainer)


def test_the_configuration_repeats_the_run_bit_by_bit(run, tmp_path):
    again = train(tmp_path, "--config", run / "config.yaml")
    compared = compare_runs(run, again)
    assert compared.differences == []
    assert (compared.epochs, compared.tensors > 50, compared.curves > 10) == (2, True, True)
    assert (again / "split.csv").read_bytes() == (run / "split.csv").read_bytes()


@pytest.mark.slow
def test_another_process_repeats_the_run(run, tmp_path):
    command = [sys.executable, "-m", "animals_pl", "fit", "--config", run / "config.yaml"]
    threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run([*command, "--trainer.default_root_dir", tmp_path], check=True, env={**os.environ, **threads})
    assert compare_runs(run, tmp_path / "run" / "version_0").differences == []


def test_the_environment_is_recorded(run):
    (session,) = json.loads((run / "environment.json").read_text())
    assert session["versions"]["torch"] == version("torch")
    assert session["versions"]["python"] == sys.version.split()[0]
    assert session["hardware"]["threads"] == torch.get_num_threads()
    assert session["device"] == "cpu × 1, precision 32-true"
    assert session["epoch"] == 1
    digest = subprocess.run(["sha256sum", run / "split.csv"], capture_output=True, text=True, check=True).stdout
    assert session["split_sha256"] == digest.split()[0]


def test_a_resumed_run_adds_its_session(run, tmp_path, monkeypatch):
    copy = shutil.copytree(run, tmp_path / "run" / "version_0")
    program = Path(sys.modules["animals_pl"].__file__).with_name("__main__.py")
    args = ["fit", "--ckpt_path", str(copy / "last.ckpt"), "--trainer.max_epochs", "3", "--trainer.accelerator", "cpu"]
    monkeypatch.setattr(sys, "argv", [str(program), *args])
    assert main(args) == 0
    first, second = json.loads((copy / "environment.json").read_text())
    assert second["command"] == "python -m animals_pl " + " ".join(args)
    assert (first["epoch"], second["epoch"]) == (1, 3)


def test_the_state_of_the_work_tree(tmp_path):
    def git(*args: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        done = subprocess.run(["git", "-C", tmp_path, *identity, *args], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert _git_state(tmp_path) is None
    git("init")
    assert _git_state(tmp_path) is None  # no commit yet
    (tmp_path / "file").write_text("a")
    git("add", "file")
    git("commit", "-m", "one")
    (tmp_path / "untracked").write_text("a")
    assert _git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": False}
    (tmp_path / "file").write_text("b")
    assert _git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "changed": True}
