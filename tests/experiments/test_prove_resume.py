"""prove-resume: real processes, killed for good."""

from __future__ import annotations

import functools
import random
import re
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch

from animals_pl.cli import main
from animals_pl.experiments import prove_resume
from animals_pl.experiments.killed_fit import Kill, Moment
from animals_pl.experiments.prove_resume import Length, _moments
from animals_pl.training.checkpoint import LAST_CHECKPOINT


@pytest.fixture
def config(tiny_tree: Path, tmp_path: Path) -> Path:
    file = tmp_path / "tiny.yaml"
    file.write_text(
        f"data: {{root: {tiny_tree}, size: 16, batch_size: 8, num_workers: 0, augment: light}}\n"
        "model: {net: minivggnet, schedule: cosine, mixup: 0.2}\n"
        "trainer: {accelerator: cpu, max_epochs: 3}\n"
    )
    return file


@pytest.fixture
def own_temp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the runs."""
    folder = tmp_path / "temp"
    folder.mkdir()
    monkeypatch.setattr(prove_resume, "TemporaryDirectory", functools.partial(TemporaryDirectory, dir=folder))
    return folder


LINE = re.compile(
    r" +(\d+) +(\d+)  (training|validation|save) +epoch (\d), batch (\d) +"
    r"(the start|end of epoch \d|epoch \d, batch \d|best.ckpt)"
)


def kills_in(output: str) -> list[re.Match[str]]:
    return [found for line in output.splitlines() if (found := LINE.fullmatch(line))]


def test_a_killed_run_equals_the_uninterrupted_one(config, own_temp, capsys):
    assert main(["prove-resume", "--config", str(config), "--kills", "3", "--", "--trainer.max_epochs=2"]) == 0
    output = capsys.readouterr().out
    assert "uninterrupted run: 2 epochs, 12 batches" in output
    assert [found[1] for found in kills_in(output)] == ["1", "2", "3"]
    assert re.search(r"run 1: \d+ tensors, 2 epochs, \d+ curves: equal\n", output)
    assert re.search(r"\n3 kills, \d runs?: equal\n$", output)
    assert list(own_temp.iterdir()) == []


def test_a_run_killed_in_its_refit_equals_the_uninterrupted_one(config, own_temp, capsys, monkeypatch):
    """An epoch of 5 batches, resumed at the third one, then a refit of 7, in which the second kill happens."""
    moments = iter([Moment("training", 3, 0.0), Moment("training", 5, 0.0)])
    monkeypatch.setattr(prove_resume, "_moments", lambda *args: moments)
    options = ["--trainer.max_epochs=1", "--refit=true", "--save_every=1steps"]
    assert main(["prove-resume", "--config", str(config), "--kills", "2", "--", *options]) == 0
    output = capsys.readouterr().out
    assert [found[6] for found in kills_in(output)] == ["epoch 1, batch 2", "end of epoch 1"]
    assert output.endswith("2 kills, 1 run: equal\n")


@pytest.mark.slow
@pytest.mark.timeout(1800)  # 26 processes
@pytest.mark.parametrize(
    "options",
    [
        ["--data.num_workers", "2"],
        ["--trainer.accumulate_grad_batches", "2", "--save_every", "1steps"],
        ["--trainer.val_check_interval", "2", "--save_every", "1s"],
    ],
    ids=["workers", "accumulation", "validations"],
)
def test_many_kills(config, own_temp, capsys, options):
    assert main(["prove-resume", "--config", str(config), "--kills", "25", "--", *options]) == 0
    output = capsys.readouterr().out
    assert len(kills_in(output)) == 25
    assert {found[3] for found in kills_in(output)} == {"training", "validation", "save"}
    assert "NOT EQUAL" not in output


def test_a_run_that_differs_is_reported(tmp_path, own_temp, capsys, monkeypatch):
    """The killed session leaves a checkpoint with another weight."""

    def session(args: list[str], folder: Path, moment: Moment | None = None) -> Kill | None:
        if "--ckpt_path" in " ".join(args):
            return None
        run = folder / "runs" / "run" / "version_0"
        run.mkdir(parents=True)
        loops = {
            "epoch_progress": {"current": {"ready": 1, "processed": 1}},
            "epoch_loop.batch_progress": {"total": {"ready": 6}, "current": {"ready": 6}},
            "epoch_loop.val_loop.batch_progress": {"current": {"ready": 2}},
        }
        weight = torch.zeros(3) if moment is None else torch.tensor([0.0, 1e-30, 0.0])
        content = {"state_dict": {"weight": weight}, "loops": {"fit_loop": loops}, "global_step": 6}
        more = {"hyper_parameters": {"class_names": ["cane"]}, "animals_pl_version": "0.2.0"}
        torch.save(content | more, run / LAST_CHECKPOINT)
        return None if moment is None else Kill("save", 1, 6)

    monkeypatch.setattr(prove_resume, "fit_session", session)
    with pytest.raises(SystemExit) as stop:
        main(["prove-resume", "--config", "any", "--kills", "1"])
    assert stop.value.code == 1
    output = capsys.readouterr().out
    assert "   1    1  save        epoch 1, batch 6           end of epoch 1" in output
    assert "run 1: 1 tensor, 0 epochs, 0 curves: NOT EQUAL\n  last.ckpt: state_dict.weight\n" in output
    assert output.endswith("1 kill, 1 run: NOT EQUAL\n")
    assert list(own_temp.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--kills", "0"], "kills=0 is out of range. Choose a value from 1 to 10000."),
        (["--kills", "many"], "kills=many is invalid; expected int"),
        (["--", "--trainer.fast_dev_run", "true"], "fit left no last.ckpt. Remove trainer.fast_dev_run"),
        (["--", "--data.root", "/absent"], "fit ended with exit code 2: data.root='/absent'"),
    ],
)
def test_wrong_use_is_one_line(config, own_temp, capsys, options, message):
    assert main(["prove-resume", "--config", str(config), *options]) == 2
    assert message in capsys.readouterr().err
    assert list(own_temp.iterdir()) == []


def test_moments_are_those_of_the_seed_and_of_every_phase():
    length = Length(epochs=10, batches=200, validation_batches=4, steps=100)
    drawn = [[next(moments) for _ in range(50)] for moments in (_moments(random.Random(1), 25, length) for _ in "ab")]
    assert drawn[0] == drawn[1]
    assert {moment.phase for moment in drawn[0]} == {"training", "validation", "save"}
    assert max(moment.count for moment in drawn[0] if moment.phase == "training") <= 16
    unvalidated = _moments(random.Random(1), 25, Length(10, 200, 0, 100))
    assert {next(unvalidated).phase for _ in range(50)} == {"training", "save"}
