"""Review contracts and comparisons of runs, from the files of their evaluations."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from animals_pl.cli import main
from animals_pl.evaluation.comparison import compare_predictions
from animals_pl.evaluation.contract import Promise, apply_contract, choose_contract
from animals_pl.evaluation.predictions import Predictions, evaluation_metrics
from animals_pl.reports.review_contract import review_contract
from animals_pl.reports.saved_evaluations import SavedEvaluation, read_evaluation

NAMES = ["cane", "gatto", "ragno"]
FACTS = {"data": "raw-img", "checkpoint": "best.ckpt", "epoch": 3, "tta": "none", "temperature": 0.9, "prior": None}


def evaluate(run: Path, split: str, seed: int, counts: tuple[int, ...] = (200, 120, 20), **facts: object) -> Path:
    """Write an evaluation of a model that is right in about 95 % of the images, more often where it is sure."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(3), counts)
    logits = rng.normal(size=(len(labels), 3)) + 3.5 * np.eye(3)[labels]
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    table = pd.DataFrame({"path": [f"{NAMES[y]}/{i}.jpg" for i, y in enumerate(labels)]})
    table["group"] = np.arange(len(labels)) // 2  # pairs of duplicates
    table["label"] = [NAMES[y] for y in labels]
    table["prediction"] = [NAMES[y] for y in probabilities.argmax(1)]
    for label, name in enumerate(NAMES):
        table[f"probability_{name}"] = probabilities[:, label].round(7)
    folder = run / "evaluation" / split
    folder.mkdir(parents=True)
    table.to_csv(folder / "predictions.csv", index=False)
    metrics = evaluation_metrics(Predictions(logits, labels, table["group"].to_numpy()), NAMES)
    (folder / "metrics.json").write_text(json.dumps({"split": split, **metrics, **FACTS, **facts}))
    return run


@pytest.fixture
def run(tmp_path) -> Path:
    evaluate(tmp_path / "a", "val", 1)
    return evaluate(tmp_path / "a", "test", 2)


def report(*args: object) -> int:
    return main(["report", *map(str, args)])


def test_an_evaluation_is_read_as_it_was_written(run):
    found = read_evaluation(run, "val")
    table = pd.read_csv(run / "evaluation" / "val" / "predictions.csv")
    assert found.class_names == NAMES
    assert [NAMES[label] for label in found.labels] == table["label"].tolist()
    assert [NAMES[label] for label in found.predictions] == table["prediction"].tolist()
    assert found.scores == pytest.approx(table[[f"probability_{name}" for name in NAMES]].max(axis=1), abs=1e-6)


def test_a_contract_is_chosen_on_validation_and_stated_on_test(run, capsys):
    assert report("--contract", run, "--recall", "dog=0.9,gatto=0.9") == 0
    lines = capsys.readouterr().out.splitlines()
    val, test = (read_evaluation(run, split) for split in ("val", "test"))
    promises = [Promise("missed", 0.1, 0), Promise("missed", 0.1, 1)]
    contract = choose_contract(val.scores, val.predictions, val.labels, promises, groups=val.groups)
    result = apply_contract(contract, test.scores, test.predictions, test.labels)
    assert contract.threshold is not None
    assert lines[0].startswith(f"Accept labels with a score of {contract.threshold:.3g} or more")
    assert "2 classes (cane (dog), gatto (cat))" in lines[0]
    assert f"{result.results[0].errors} of 200 images of cane (dog)" in lines[1]
    assert len(lines) == 2


def test_classes_with_too_few_images_are_refused_with_the_number_needed(run, capsys):
    assert report("--contract", run, "--recall", 0.9) == 0
    said = capsys.readouterr().out
    assert "ragno (spider) missed. 95 % confidence takes 29 independent images without a miss; there are 10." in said


def test_without_goals_every_class_and_the_labels_are_promised(run, capsys):
    assert report("--contract", run) == 0
    said = capsys.readouterr().out
    assert "at most 3 % of the images of ragno (spider)" in said
    assert "1 in 100 accepted labels" in said


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--contract", "RUN", "--recall", "lion=0.9"], "the class 'lion' is unknown"),
        (["--contract", "RUN", "--recall", "dog=1.5"], "recall='1.5' is not a rate"),
        (["--contract", "RUN", "--recall", "dog"], "recall='dog' is not a rate"),
        (["--contract", "RUN", "--precision", "0"], "precision=0.0 is not a rate"),
        (["--contract", "RUN", "--recall", ", "], "recall=', ' has no goal"),
        (["--contract", "RUN", "--output", "a.md"], "output='a.md' is for the table and the model card"),
        (["--recall", "0.9"], "Add --contract RUN"),
        (["--contract", "RUN", "--compare", "RUN", "RUN"], "Remove one of them"),
        (["--contract", "RUN", "--recall", "dog=0.9,cat"], "'cat' is not a goal"),
        (["--contract", "RUN", "--recall", "dog=0.9,cane=0.8"], "has two goals for cane. Keep one"),
        (["--contract", "RUN", "--recall", "dog=0.9", "cat=0.8"], "folder='cat=0.8' has no effect"),
        (["--contract", "RUN/evaluation/val/metrics.json"], "is a file. Pass the folder of a run"),
        (["--contract", "NOWHERE"], "evaluation/val/predictions.csv' is missing. Run 'python -m animals_pl validate"),
        (["--compare", "RUN"], "needs a second run"),
        (["--compare", "RUN", "NOWHERE"], "is missing"),
    ],
)
def test_wrong_use_is_named(run, capsys, args, reason):
    assert report(*(arg.replace("RUN", str(run)) for arg in args)) == 2
    assert reason in capsys.readouterr().err


def test_evaluations_of_different_models_are_not_mixed(tmp_path, capsys):
    evaluate(tmp_path, "val", 1)
    evaluate(tmp_path, "test", 2, temperature=1.1)
    assert report("--contract", tmp_path, "--recall", "dog=0.9") == 2
    assert "evaluations of different models (temperature)" in capsys.readouterr().err


@pytest.mark.parametrize("names", [["001", "01", "1"], ["TRUE", "1e3", "nan"]])
def test_class_names_may_look_like_numbers(tmp_path, monkeypatch, capsys, names):
    monkeypatch.setattr(sys.modules[__name__], "NAMES", names)
    run = evaluate(tmp_path / "run", "val", 1)
    found = read_evaluation(run, "val")
    assert found.class_names == names
    assert np.bincount(found.labels).tolist() == [200, 120, 20]
    assert report("--contract", run, "--recall", f"{names[0]}=0.9") == 0
    assert "Accept labels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("names", "goals"),
    [
        (["a, b", "a=b", "c"], {"a, b": 0.9, "a=b": 0.8}),
        ([" a ", "B", "c"], {"a": 0.9, "b": 0.8}),
        (["a", " a", "c"], {"a": 0.9, " a": 0.8}),
    ],
)
def test_goals_for_odd_class_names(names, goals):
    recall = ",".join(f"{name}={rate}" for name, rate in goals.items())
    labels = np.repeat([0, 1, 2], 40)
    scores = np.linspace(0.5, 1, len(labels))
    val = SavedEvaluation(Path(), names, [], np.arange(len(labels)), labels, labels, scores, FACTS)
    found = review_contract(val, None, recall)
    assert [(promise.label, round(1 - promise.bound, 9)) for promise in found.contract.promises] == [(0, 0.9), (1, 0.8)]


@pytest.mark.parametrize("option", ["--contract", "--card", "--compare"])
@pytest.mark.parametrize(
    "change",
    [
        lambda facts: facts["acc"].pop("low"),
        lambda facts: facts.update(acc=0.5),
        lambda facts: facts.update(macro_f1={"value": "x", "low": 0, "high": 1}),
        lambda facts: facts.update(ece={"before": {"value": 0.1}}),
        lambda facts: facts.update(per_class=["a"]),
        lambda facts: facts["per_class"]["cane"].pop("recall"),
        lambda facts: facts["per_class"]["cane"].update(flagged=None),
        lambda facts: facts.update(images="all"),
        lambda facts: facts.update(unseen=3),
        lambda facts: facts.update(temperature=None),
        lambda facts: facts.update(data=None),
        lambda facts: facts.pop("epoch"),
        lambda facts: facts.clear(),
    ],
)
def test_edited_metrics_are_named_in_one_line(run, capsys, option, change):
    file = run / "evaluation" / "test" / "metrics.json"
    facts = json.loads(file.read_text())
    change(facts)
    file.write_text(json.dumps(facts))
    (run / "config.yaml").write_text("model: {}\ndata: {}\n")
    assert report(option, run, *([run] if option == "--compare" else [])) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{str(file)!r} cannot be read. Run 'python -m animals_pl test --ckpt_path {run}/best.ckpt'" in line


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("metrics.json", "[]"),
        ("metrics.json", '{"split": "val", "acc": {"va'),
        ("metrics.json", "[" * 100_000),
        ("predictions.csv", "path,group,label,prediction,probability_a\n"),
        ("predictions.csv", "path,group,label,prediction,probability_a\nx,0,a,b,1\n"),
        ("predictions.csv", "path,group,label,prediction,probability_a\nx,0,a,a,5\n"),
    ],
)
def test_an_edited_evaluation_is_refused(run, capsys, file, text):
    (run / "evaluation" / "val" / file).write_text(text)
    assert report("--contract", run) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "cannot be read" in line


def test_a_damaged_evaluation_is_named(run, capsys):
    (run / "evaluation" / "val" / "predictions.csv").write_text("path,label\na,b\n")
    assert report("--contract", run) == 2
    assert "evaluation/val/predictions.csv' cannot be read" in capsys.readouterr().err


def test_two_runs_are_compared_on_their_test_images(run, tmp_path, capsys):
    other = evaluate(tmp_path / "b", "test", 5)
    assert report("--compare", run, other) == 0
    said = capsys.readouterr().out
    a, b = (read_evaluation(folder, "test") for folder in (run, other))
    wanted = compare_predictions(a.labels, a.predictions, b.predictions, 3, groups=a.groups)
    assert f"340 test images; differences are {other} minus {run}" in said
    assert f"accuracy      {wanted.acc.value:+.4f} [{wanted.acc.low:+.4f}, {wanted.acc.high:+.4f}]" in said
    assert f"p = {wanted.test.p_value:.2g}" in said


def test_runs_on_other_images_are_not_compared(run, tmp_path, capsys):
    other = evaluate(tmp_path / "b", "test", 5, counts=(200, 119, 21))
    assert report("--compare", run, other) == 2
    assert "do not have the same images and classes" in capsys.readouterr().err
