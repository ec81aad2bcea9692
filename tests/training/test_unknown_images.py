"""Unknown images: threshold in the checkpoint, predict, evaluation, ONNX file."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from image_trees import write_tree
from scipy.special import logsumexp

from animals_pl import AnimalClassifier, AnimalsDataModule, Run, export, fit, load_model
from animals_pl.cli import main
from animals_pl.errors import UsageError

COUNTS = {"cane": 60, "gatto": 36, "ragno": 18}
DATA = {"size": 16, "batch_size": 16, "num_workers": 0, "val_fraction": 0.4, "test_fraction": 0.2}
TRAINER = {"enable_progress_bar": False, "accelerator": "cpu"}

pytestmark = pytest.mark.usefixtures("small_figures")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tree(tmp_path_factory.mktemp("unknown") / "raw-img", COUNTS)


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> Run:
    root = str(tmp_path_factory.mktemp("runs"))
    model = AnimalClassifier("shallownet", loss="logit_adjusted", lr=0.003)
    return fit(model, AnimalsDataModule(str(tree), **DATA), default_root_dir=root, max_epochs=3, **TRAINER)


def energies(run: Run, split: str) -> np.ndarray:
    """Scores (N,) by the formula for full logit adjustment: the logits belong to a uniform prior."""
    images = torch.cat(list(run.best.batches(run.data.catalogs[split], num_workers=0)))
    with torch.no_grad():
        logits = run.best.net(images).double().numpy()
    counts = np.array(list(run.data.catalogs["train"].counts().values()))
    return -logsumexp(logits + np.log(counts / counts.sum() * len(counts)), axis=1)


def threshold(run: Run) -> float:
    return torch.load(run.best_path, weights_only=True)["calibration"]["unknown_threshold"]


def predicted(run: Run, images: Path, output: Path, *options: str) -> list[dict[str, str]]:
    args = ["--ckpt_path", str(run.best_path), "--output", str(output), "--data.num_workers", "0", *options]
    assert main(["predict", str(images), *args]) == 0
    with output.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def changed(run: Run, file: Path, **calibration: Any) -> Path:
    """A copy of the checkpoint with other calibration values; ``None`` removes one."""
    checkpoint = torch.load(run.best_path, weights_only=True)
    state = checkpoint["calibration"] | calibration
    checkpoint["calibration"] = {key: value for key, value in state.items() if value is not None}
    torch.save(checkpoint, file)
    return file


def test_95_percent_of_the_validation_images_are_known(run):
    scores = energies(run, "val")
    assert (scores > threshold(run)).sum() == int(0.05 * len(scores)) > 0


def test_predict_names_images_above_the_threshold_unknown(run, tree, tmp_path):
    images = shutil.copytree(tree, tmp_path / "images")
    (images / "broken.jpg").write_text("not an image")
    plain = predicted(run, images, tmp_path / "plain.csv")
    rows = predicted(run, images, tmp_path / "unknown.csv", "--unknown")
    assert list(rows[0]) == [*list(plain[0])[:-1], "unknown_score", "problem"]
    unknown = [bool(row["unknown_score"]) and float(row["unknown_score"]) > threshold(run) for row in rows]
    assert 0 < sum(unknown) < sum(COUNTS.values())
    for row, before, is_unknown in zip(rows, plain, unknown, strict=True):
        named = {"class": "unknown", "english": "unknown", "probability": ""} if is_unknown else {}
        assert {key: row[key] for key in before} == before | named


def test_unknown_false_changes_nothing(run, tree, tmp_path):
    rows = predicted(run, tree, tmp_path / "false.csv", "--unknown", "false", "--top_k", "1")
    assert list(rows[0]) == ["path", "class", "english", "probability", "class_1", "probability_1", "problem"]
    assert {row["class"] for row in rows} <= set(COUNTS)


def test_python_and_the_command_line_agree(run, tree, tmp_path):
    rows = predicted(run, tree, tmp_path / "rows.csv", "--unknown", "true")
    found = run.best.predict([row["path"] for row in rows], unknown=True, num_workers=0)
    known = run.best.predict([row["path"] for row in rows], num_workers=0)
    for row, prediction, plain in zip(rows, found, known, strict=True):
        assert prediction.label == row["class"]
        assert prediction.probability == pytest.approx(float(row["probability"] or 0), abs=1e-6)
        assert prediction.top == plain.top
        assert prediction.top[0][0] == plain.label == row["class_1"]
        assert prediction.unknown_score == plain.unknown_score == pytest.approx(float(row["unknown_score"]), abs=1e-5)


def test_scores_do_not_depend_on_the_prior(run, tree):
    plain, weighted = (load_model(run.best_path, prior=prior).predict(tree, num_workers=0) for prior in (None, "train"))
    assert [one.unknown_score for one in plain] == [one.unknown_score for one in weighted]
    assert [one.probability for one in plain] != [one.probability for one in weighted]


@pytest.mark.parametrize("from_python", [True, False])
def test_a_checkpoint_without_a_threshold_is_refused(run, tree, tmp_path, capsys, from_python):
    old = changed(run, tmp_path / "old.ckpt", unknown_threshold=None)
    message = "unknown=true: the checkpoint has no threshold"
    if from_python:
        assert len(load_model(old).predict(tree, num_workers=0)) == sum(COUNTS.values())
        with pytest.raises(UsageError, match=message):
            load_model(old).predict(tree, unknown=True)
    else:
        output = tmp_path / "out.csv"
        assert main(["predict", str(tree), "--ckpt_path", str(old), "--unknown", "--output", str(output)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert message in line
        assert "Train with validation" in line
        assert not output.exists()


def test_a_class_called_unknown_is_refused(tmp_path):
    tree = write_tree(tmp_path / "images", {"cane": 12, "Unknown": 12})
    data = AnimalsDataModule(str(tree), size=16, num_workers=0)
    run = fit(AnimalClassifier("shallownet"), data, default_root_dir=str(tmp_path), max_epochs=1, **TRAINER)
    with pytest.raises(UsageError, match=r"the model has a class 'Unknown'.*Rename its folder"):
        run.best.predict(tree, unknown=True)
    assert {one.label for one in run.best.predict(tree, num_workers=0)} <= {"cane", "Unknown"}


def test_an_evaluation_has_the_share_of_known_images_called_unknown(run):
    assert main(["test", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    folder = run.folder / "evaluation" / "test"
    share = json.loads((folder / "metrics.json").read_text())["called_unknown"]
    assert share["value"] == pytest.approx(np.mean(energies(run, "test") > threshold(run)))
    assert f"{100 * share['value']:.1f} %" in (folder / "report.html").read_text(encoding="utf-8")


def test_an_evaluation_without_a_threshold_has_no_share(run, tmp_path):
    old = changed(run, tmp_path / "old.ckpt", unknown_threshold=None)
    args = ["--data.root", str(run.data.root), "--data.num_workers", "0"]
    assert main(["validate", "--ckpt_path", str(old), *args]) == 0
    folder = tmp_path / "evaluation" / "val"
    assert json.loads((folder / "metrics.json").read_text())["called_unknown"] is None
    assert "called unknown" not in (folder / "report.html").read_text(encoding="utf-8")


def test_the_exported_file_has_the_score_and_its_threshold(run, tmp_path):
    exported = export(run.best_path, tmp_path / "model.onnx", prior="train")
    session = onnxruntime.InferenceSession(exported.path, providers=["CPUExecutionProvider"])
    images = torch.cat(list(run.best.batches(run.data.catalogs["test"], num_workers=0)))
    (scores,) = session.run(["unknown_score"], {"images": images.numpy()})
    np.testing.assert_allclose(scores, energies(run, "test"), atol=1e-4)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["unknown_threshold"]) == threshold(run)
