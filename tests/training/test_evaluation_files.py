"""predictions.csv and metrics.json of an evaluation."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from image_trees import write_tree
from scipy.stats import binomtest
from sklearn.metrics import f1_score, precision_score, recall_score

from animals_pl import AnimalClassifier, AnimalsDataModule, Run, evaluate, fit
from animals_pl.cli import main
from animals_pl.training.callbacks.evaluation_files import seen_in_training
from animals_pl.training.trained import load_classifier

COUNTS = {"cane": 40, "gatto": 24, "ragno": 12}
NAMES = sorted(COUNTS)
PROJECT = Path(__file__).parents[2]
SIZE = {"size": 16, "batch_size": 16, "num_workers": 0}

pytestmark = pytest.mark.usefixtures("small_figures")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = write_tree(tmp_path_factory.mktemp("evaluation") / "raw-img", COUNTS)
    odd = os.fsdecode(b"cane/\xfcber, <b>&.jpg")
    shutil.copyfile(root / "cane" / "cane_0.jpg", root / odd)
    return root


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> Run:
    data = AnimalsDataModule(str(tree), **SIZE, test_fraction=0.3)
    root = str(tmp_path_factory.mktemp("runs"))
    return fit(AnimalClassifier("shallownet", lr=0.003), data, default_root_dir=root, max_epochs=3, accelerator="cpu")


@pytest.fixture(scope="module")
def tested(run: Run) -> dict[str, float]:
    return run.test()


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        return list(csv.DictReader(stream))


def metrics(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.usefixtures("tested")
def test_predictions_are_those_of_the_model_for_each_image(run, tree):
    rows = table(run.folder / "evaluation" / "test")
    assert list(rows[0]) == ["path", "group", "label", "prediction", *(f"probability_{name}" for name in NAMES)]
    assert [row["path"] for row in rows] == run.data.catalogs["test"].paths
    wanted = run.best.predict([tree / row["path"] for row in rows], num_workers=0)
    for row, prediction in zip(rows, wanted, strict=True):
        assert row["label"] == row["path"].partition("/")[0]
        assert row["prediction"] == prediction.label
        for name, probability in prediction.top:
            assert float(row[f"probability_{name}"]) == pytest.approx(probability, abs=1e-5)


def test_metrics_are_those_of_the_predictions(run, tested):
    folder = run.folder / "evaluation" / "test"
    rows, found = table(folder), metrics(folder)
    truth, predicted = ([row[key] for row in rows] for key in ("label", "prediction"))
    assert found["images"] == len(rows)
    for name in ("acc", "macro_recall", "macro_f1"):
        assert found[name]["value"] == pytest.approx(tested[f"{name}/test"])
        assert found[name]["low"] <= found[name]["value"] <= found[name]["high"]
    scores = {"precision": precision_score, "recall": recall_score, "f1": f1_score}
    for label, name in enumerate(NAMES):
        for key, score in scores.items():
            value = score(truth, predicted, labels=NAMES, average=None, zero_division=np.nan)[label]
            entry = found["per_class"][name][key]
            assert (entry is None) == np.isnan(value)
            if entry:
                assert entry["value"] == pytest.approx(value)
        images = truth.count(name)
        hits = sum(a == b == name for a, b in zip(truth, predicted, strict=True))
        low, high = binomtest(hits, images).proportion_ci(method="wilson")
        recall = found["per_class"][name]["recall"]
        assert (recall["low"], recall["high"]) == pytest.approx((low, high), abs=1e-9)
        assert found["per_class"][name]["images"] == images
        assert found["per_class"][name]["flagged"] is True
    assert (found["split"], found["checkpoint"]) == ("test", "best.ckpt")
    assert found["epoch"] == 1 + min(run.metrics, key=lambda row: row["loss/val"])["epoch"]


def test_validate_on_the_command_line_writes_the_folder_val(run, capsys):
    assert main(["validate", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    assert f"{run.folder / 'evaluation' / 'val'}" in capsys.readouterr().out
    assert [row["path"] for row in table(run.folder / "evaluation" / "val")] == run.data.catalogs["val"].paths
    assert metrics(run.folder / "evaluation" / "val")["split"] == "val"


def test_another_folder_is_named_in_its_evaluation(run, tmp_path):
    other = write_tree(tmp_path / "other", {"gatto": 5, "cane": 4}, seed=7)
    shutil.copyfile(run.data.root / run.data.catalogs["train"].paths[0], other / "cane" / "seen.jpg")
    args = ["--data.test_root", str(other), "--data.num_workers", "0"]
    assert main(["test", "--ckpt_path", str(run.best_path), *args]) == 0
    folder = run.folder / "evaluation" / "test-other"
    assert len(table(folder)) == 10
    found = metrics(folder)
    assert found["data"] == str(other)
    assert found["unseen"]["images"] == 9
    assert found["per_class"]["ragno"]["recall"] is None
    right = [row["label"] == row["prediction"] for row in table(folder) if row["path"] != "cane/seen.jpg"]
    assert found["unseen"]["acc"]["value"] == pytest.approx(np.mean(right))


def test_duplicates_of_training_images_are_found_by_their_group(run, tmp_path):
    data, split_file = run.data, run.folder / "split.csv"
    assert not seen_in_training(data.catalogs["test"], data.catalog, split_file).any()
    training = set(data.catalogs["train"].paths)
    assert seen_in_training(data.catalog, data.catalog, split_file).tolist() == [
        p in training for p in data.catalog.paths
    ]
    assert seen_in_training(data.catalog, data.catalog, tmp_path / "split.csv") is None


def test_some_batches_only(run):
    evaluate(load_classifier(run.best_path), run.data, "test", limit_test_batches=1, accelerator="cpu")
    assert [row["path"] for row in table(run.folder / "evaluation" / "test")] == run.data.catalogs["test"].paths[:16]
    run.test()


def test_a_model_without_a_run_leaves_no_files(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = load_classifier(run.best_path)
    model.ckpt_path = None
    evaluate(model, run.data, "test", accelerator="cpu")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_a_warning(run, tmp_path):
    copy = tmp_path / "version_0"
    copy.mkdir()
    for name in ("best.ckpt", "split.csv"):
        shutil.copyfile(run.folder / name, copy / name)
    (copy / "evaluation").write_text("a file where the folder would be")
    with pytest.warns(UserWarning, match="the evaluation cannot be written to"):
        found = evaluate(load_classifier(copy / "best.ckpt"), run.data, "test", accelerator="cpu")
    assert found["acc/test"] > 0


@pytest.mark.usefixtures("tested")
@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt(), MemoryError()]
)
@pytest.mark.parametrize("place", ["figures", "projector"])
def test_an_evaluation_is_replaced_as_a_whole_or_not_at_all(run, monkeypatch, error, place):
    command = ["validate", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]
    assert main(command) == 0
    folder = run.folder / "evaluation"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def fail(*args: object, **kwargs: object) -> None:
        raise error

    target = {"figures": "write_figures", "projector": "write_projector"}[place]
    monkeypatch.setattr(f"animals_pl.reports.model_report.{target}", fail)
    if isinstance(error, MemoryError):
        with pytest.raises(MemoryError):
            main(command)
    else:
        assert main(command) == (1 if isinstance(error, OSError) else 130)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


def test_a_full_disk_is_a_warning_and_leaves_the_earlier_files(run, monkeypatch):
    run.test()
    folder = run.folder / "evaluation"
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("animals_pl.training.callbacks.evaluation_files.write_table", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        run.test()
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before


@pytest.mark.timeout(900)  # two more programs that import everything
def test_two_processes_write_what_one_writes(run, tmp_path):
    """Process r evaluates every second image from r on; an odd number of images is not padded."""
    other = write_tree(tmp_path / "odd", {"gatto": 5, "cane": 4, "ragno": 2}, seed=7)
    command = ["test", "--ckpt_path", str(run.best_path), "--data.test_root", str(other), "--data.num_workers", "0"]
    assert main(command) == 0
    folder = run.folder / "evaluation" / "test-odd"
    alone, metrics_alone = table(folder), metrics(folder)
    (folder / "report.html").unlink()
    options = ["--trainer.accelerator", "cpu", "--trainer.devices", "2", "--trainer.strategy", "ddp"]
    program = [sys.executable, "-m", "animals_pl", *command, *options]
    done = subprocess.run(program, check=False, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    together = table(folder)
    columns = ["path", "group", "label", "prediction"]
    assert len(alone) == 11
    assert [[row[key] for key in columns] for row in together] == [[row[key] for key in columns] for row in alone]
    probabilities = [
        np.array([[float(row[f"probability_{name}"]) for name in NAMES] for row in rows]) for rows in (together, alone)
    ]
    np.testing.assert_allclose(*probabilities, atol=1e-6)
    assert metrics(folder)["macro_recall"] == metrics_alone["macro_recall"]
    assert (folder / "report.html").is_file()
