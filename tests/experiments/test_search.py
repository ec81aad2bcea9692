"""The command search: a tiny search of real trainings, resuming, and the files that it writes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import yaml
from sklearn.metrics import balanced_accuracy_score

pytest.importorskip("optuna")
from animals_pl.configurations import CONFIGS
from animals_pl.errors import UsageError
from animals_pl.experiments.fold_fits import load_outcome, prepare_folds
from animals_pl.experiments.search import search
from animals_pl.experiments.search_space import read_search
from animals_pl.experiments.study import flatten, read_study
from animals_pl.experiments.trials import Trials
from animals_pl.lightning_cli import run

OPTIONS = "options: {data.size: 16, data.batch_size: 16, data.num_workers: 0, trainer.accelerator: cpu}\n"
TEXT = (
    "config: lenet\n" + OPTIONS + "search:\n"
    "  model.lr: {low: 1e-4, high: 1.0e-1, log: true}\n"
    "  model.weight_decay: {low: 0.0, high: 0.6, step: 0.1}\n"
    "  model.loss: [cross_entropy, focal]\n"
    "  trainer.max_epochs: {low: 1, high: 2}\n"
)


def done(text: str) -> list[str]:
    return re.findall(r"^trial \d+ of \d+: .*$", text, re.MULTILINE)


def open_search(folder: Path, root: Path) -> Trials:
    plan = read_search(folder / "tiny.yaml")
    return Trials(plan, prepare_folds(plan.study, root, 2, 0, folder / "out"), seed=0)


@pytest.fixture(scope="module")
def searched(tmp_path_factory, tiny_tree) -> Path:
    """Folder of a search of two trials."""
    folder = tmp_path_factory.mktemp("searched")
    (folder / "tiny.yaml").write_text(TEXT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIMALS_PL_CACHE", str(folder / "cache"))
        search(str(folder / "tiny.yaml"), str(tiny_tree), folds=2, trials=2, output=str(folder / "out"))
    return folder


@pytest.fixture
def arguments(write_study, tiny_tree, tmp_path) -> dict[str, object]:
    """Arguments of a search in the test's own folder."""
    study = str(write_study(TEXT))
    return {"study": study, "root": str(tiny_tree), "folds": 2, "output": str(tmp_path / "out")}


def test_the_value_of_a_trial_is_the_pooled_macro_recall(searched, tiny_tree):
    found = open_search(searched, tiny_tree)
    trials = found.best_first()
    assert sorted(trial.number for trial in trials) == [1, 2]
    for trial in trials:
        outcome = load_outcome(found.variant(trial.settings), found.folds, 2)
        assert trial.value == pytest.approx(balanced_accuracy_score(found.folds.catalog.labels, outcome.predicted))
    assert trials[0].value >= trials[1].value


def test_the_first_trial_is_the_configuration_within_the_space(searched, tiny_tree):
    first = open_search(searched, tiny_tree).finished()[0]
    assert first.params["model.lr"] == 0.001
    assert first.params["trainer.max_epochs"] in (1, 2)  # the 15 of the configuration are outside


def test_a_trial_is_trained_with_its_settings(searched, tiny_tree):
    found = open_search(searched, tiny_tree)
    for trial in found.best_first():
        (folder,) = (found.folds.folder / "runs").glob(f"**/{found.variant(trial.settings)}/version_0")
        trained = flatten(yaml.safe_load((folder / "config.yaml").read_text()))
        assert {key: trained[key] for key in trial.settings} == trial.settings


def test_the_best_trial_becomes_a_configuration_that_keeps_the_comments(searched, tiny_tree, tmp_path):
    found = open_search(searched, tiny_tree)
    file = found.folds.folder / "best.yaml"
    text, original = file.read_text(), (CONFIGS / "lenet.yaml").read_text()
    changed = {**found.best_first()[0].settings, **found.plan.study.options}
    changed |= {"name": "lenet_tuned", "data.root": str(tiny_tree)}
    assert flatten(yaml.safe_load(text)) == {**flatten(yaml.safe_load(original)), **changed}
    for line in original.splitlines():
        comment = line.partition("#")[2]
        kept = [new for new in text.splitlines() if new.partition("#")[2] == comment]
        assert kept, line
        if len(line.partition("#")[0].split()) == 2 and "root" not in line:  # at its old column
            assert any(new.find("#") == line.find("#") for new in kept), line
    options = ["--trainer.fast_dev_run", "true", "--trainer.default_root_dir", str(tmp_path)]
    run(["fit", "--config", str(file), *options])


def test_the_best_trial_becomes_a_study(searched, tiny_tree):
    found = open_search(searched, tiny_tree)
    study = read_study(found.folds.folder / "confirm-tiny.yaml")
    assert study.config == CONFIGS / "lenet.yaml"
    assert study.variants == {"start": {}, "tuned": found.best_first()[0].settings}


def test_an_interrupted_search_continues(arguments, fake_training, tmp_path, capsys):
    def interrupt(options: dict[str, str]) -> bool:
        if len(fake_training.fits) == 3:
            raise SystemExit(1)  # Lightning raises this on Ctrl-C
        return True

    fake_training.is_right = interrupt
    with pytest.raises(SystemExit) as caught:
        search(**arguments, trials=3)
    assert caught.value.code == 130
    printed = capsys.readouterr()
    assert len(done(printed.err)) == 1
    assert "interrupted; the same command continues" in printed.err
    assert "optimistic" in printed.out

    fake_training.is_right = lambda options: True
    search(**arguments, trials=3)
    assert len(done(capsys.readouterr().err)) == 2
    assert len(set(fake_training.fits)) == len(fake_training.fits) == 6  # the interrupted trial's first fold is kept


def test_more_trials_continue_a_complete_search(arguments, fake_training, capsys):
    search(**arguments, trials=2)
    capsys.readouterr()
    search(**arguments, trials=4)
    printed = capsys.readouterr()
    lines = done(printed.err)
    assert [line[:12] for line in lines] == ["trial 3 of 4", "trial 4 of 4"]
    assert len({line.partition("  ")[2] for line in lines}) == 2  # the sampler does not repeat its first draws
    assert "best of 4 trials" in printed.out
    search(**arguments, trials=4)
    assert not done(capsys.readouterr().err)


def test_failing_and_poor_trials_are_pruned(arguments, fake_training, capsys):
    def is_right(options: dict[str, str]) -> bool:
        if options["--model.loss"] == "focal" and len(fake_training.fits) >= 2:
            raise UsageError("the loss diverged")
        return float(options["--model.weight_decay"]) < 0.35

    fake_training.is_right = is_right
    search(**arguments, trials=20)
    lines = done(capsys.readouterr().err)
    assert len(lines) == 20
    assert any("failed: variant 'trial-" in line and "the loss diverged" in line for line in lines)
    assert any("pruned after fold 1" in line for line in lines)


def test_a_search_whose_first_trial_fails_ends(write_study, tiny_tree, tmp_path):
    file = write_study("config: lenet\n" + OPTIONS + "search: {model.lrs: [1, 2]}")
    with pytest.raises(UsageError, match=r"unknown key 'model\.lrs'"):
        search(str(file), str(tiny_tree), folds=2, output=str(tmp_path / "out"))


def test_a_missing_optuna_is_explained(arguments, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(UsageError, match=r"pip install 'animals_pl\[train,search\]'"):
        search(**arguments)
