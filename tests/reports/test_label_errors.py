"""Suspected label errors: the rule, the folds, the features, and swapped labels among real images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_score, recall_score

from animals_pl.cli import main
from animals_pl.data.catalog import scan_folder
from animals_pl.errors import UsageError
from animals_pl.reports import label_errors


def fit(root: Path, folder: Path, *options: object) -> Path:
    """Train a little and return the checkpoint."""
    trainer = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", folder]
    args = ["fit", "--data.root", root, "--data.num_workers", 0, "--name", "run", *trainer, *options]
    assert main([str(arg) for arg in args]) == 0
    return folder / "run" / "version_0" / "best.ckpt"


def test_suspects_are_firmly_contradicted_and_the_least_likely_label_comes_first():
    probabilities = np.array(
        [[0.9, 0.1, 0.0], [0.3, 0.6, 0.1], [0.1, 0.7, 0.2], [0.2, 0.0, 0.8], [0.24, 0.75, 0.01], [0.0, 0.5, 0.5]]
    )
    labels = np.array([0, 0, 0, 1, 0, 2])
    assert label_errors.suspects(probabilities, labels).tolist() == [3, 2, 4]


def test_no_image_is_judged_by_a_classifier_that_has_seen_it_or_its_duplicate(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], 30)
    features = rng.normal(size=(90, 4)) + labels[:, None]
    features[:, 0] = np.arange(90)  # tells the images apart
    groups = np.full(90, -1)
    groups[[3, 40, 70]], groups[[4, 5]] = 0, 1
    seen: list[tuple[set[int], set[int]]] = []
    learn, evaluate = LogisticRegression.fit, LogisticRegression.predict_proba
    monkeypatch.setattr(label_errors, "StandardScaler", lambda: "passthrough")

    def record_fit(self, x, y, **options):
        self.learnt_from = set(x[:, 0].astype(int))
        return learn(self, x, y, **options)

    def record_judgement(self, x):
        seen.append((self.learnt_from, set(x[:, 0].astype(int))))
        return evaluate(self, x)

    monkeypatch.setattr(LogisticRegression, "fit", record_fit)
    monkeypatch.setattr(LogisticRegression, "predict_proba", record_judgement)
    probabilities = label_errors.out_of_sample_probabilities(features, labels, groups)
    assert probabilities.shape == (90, 3)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(90))
    assert len(seen) == label_errors.FOLDS
    assert sorted(index for _, evaluated in seen for index in evaluated) == list(range(90))
    for learnt_from, evaluated in seen:
        assert learnt_from | evaluated == set(range(90))
        assert not learnt_from & evaluated
        for group in ({3, 40, 70}, {4, 5}):
            assert group <= learnt_from or group <= evaluated


def test_planted_errors_among_separable_features_are_the_suspects():
    rng = np.random.default_rng(1)
    truth = np.repeat([0, 1, 2, 3], [60, 40, 20, 12])
    features = rng.normal(size=(4, 200))[truth] + rng.normal(0, 0.5, (len(truth), 200))
    labels = truth.copy()
    wrong = [0, 61, 105, 121]
    labels[wrong] = (labels[wrong] + 1) % 4
    probabilities = label_errors.out_of_sample_probabilities(features, labels, np.full(len(truth), -1))
    assert sorted(label_errors.suspects(probabilities, labels)) == wrong


def test_both_sources_of_features_agree(tiny_tree, tmp_path):
    checkpoint = fit(tiny_tree, tmp_path, "--model.net", "test_resnet", "--model.freeze", "true", "--data.size", 48)
    assert main(["export", "--ckpt_path", str(checkpoint), "--output", str(tmp_path / "model.onnx")]) == 0
    catalog = scan_folder(tiny_tree)
    from_checkpoint = label_errors.checkpoint_features(str(checkpoint), catalog)
    assert from_checkpoint.shape[0] == len(catalog.paths)
    assert from_checkpoint.std(axis=0).max() > 0
    assert label_errors.onnx_features(str(tmp_path / "model.onnx"), catalog) == pytest.approx(from_checkpoint, abs=1e-4)


def test_a_net_from_scratch_is_refused(tiny_tree, tmp_path, capsys):
    checkpoint = fit(tiny_tree, tmp_path, "--model.net", "shallownet", "--data.size", 16)
    capsys.readouterr()
    assert main(["analyze", str(tiny_tree), "--output", str(tmp_path / "out"), "--ckpt_path", str(checkpoint)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'shallownet'" in last and "timm backbone" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_a_file_that_is_no_exported_model_is_refused(tiny_tree, tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"model='.*model\.onnx' is no file that .* export"):
        label_errors.onnx_features(str(file), scan_folder(tiny_tree))


@pytest.mark.slow
def test_swapped_labels_of_real_images_are_found(animals10_root, weights_folder, tmp_path):
    """Five in a hundred labels are swapped; the dataset's own errors count against the precision."""
    catalog = scan_folder(animals10_root)
    rng = np.random.default_rng(0)
    swapped = set(rng.choice(len(catalog.paths), len(catalog.paths) // 20, replace=False).tolist())
    wrong = set()
    for index, (path, label) in enumerate(zip(catalog.paths, catalog.labels.tolist(), strict=True)):
        others = [other for other in range(10) if other != label]
        name = catalog.class_names[rng.choice(others) if index in swapped else label]
        link = tmp_path / "images" / name / f"{index}{Path(path).suffix}"
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(animals10_root.resolve() / path)
        wrong |= {link.relative_to(tmp_path / "images").as_posix()} if index in swapped else set()
    weights = weights_folder / "tf_mobilenetv3_small_100.safetensors"
    net = ["--model.net", "tf_mobilenetv3_small_100.in1k", "--model.freeze", "true", "--model.weights", weights]
    brief = ["--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1, "--cache_features", "false"]
    checkpoint = fit(tmp_path / "images", tmp_path, *net, *brief)
    args = ["analyze", tmp_path / "images", "--output", tmp_path / "report", "--ckpt_path", checkpoint]
    assert main([str(arg) for arg in args]) == 0
    with (tmp_path / "report" / "tables" / "label_errors.csv").open(newline="") as stream:
        found = {row["path"] for row in csv.DictReader(stream)}
    paths = sorted(file.relative_to(tmp_path / "images").as_posix() for file in tmp_path.glob("images/*/*"))
    truth, claim = [path in wrong for path in paths], [path in found for path in paths]
    assert recall_score(truth, claim) >= 0.7
    assert precision_score(truth, claim) >= 0.5
