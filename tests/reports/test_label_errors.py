"""Label errors of a dataset: features of checkpoints and exported files, and swapped labels of real images."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import precision_score, recall_score

from animals_pl.cli import main
from animals_pl.data.catalog import scan_folder
from animals_pl.deploy.export import export
from animals_pl.errors import UsageError
from animals_pl.reports.label_errors import checkpoint_features, find_label_errors, onnx_features
from animals_pl.training.trained import load_model


def fit(root: Path, folder: Path, *options: object) -> Path:
    """Train for one epoch and return the checkpoint."""
    trainer = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", folder]
    args = ["fit", "--data.root", root, "--data.num_workers", 0, "--name", "run", *trainer, *options]
    assert main([str(arg) for arg in args]) == 0
    return folder / "run" / "version_0" / "best.ckpt"


def test_checkpoint_and_exported_file_give_the_same_features(tiny_tree, tmp_path):
    checkpoint = fit(tiny_tree, tmp_path, "--model.net", "test_resnet", "--model.freeze", "true", "--data.size", 32)
    catalog = scan_folder(tiny_tree)
    features = checkpoint_features(str(checkpoint), catalog)
    model = load_model(checkpoint)
    with torch.no_grad():
        expected = torch.cat([model.net.forward_features(images) for images in model.batches(catalog)]).numpy()
    assert features.shape == (57, 96)
    assert features == pytest.approx(expected, abs=1e-4)
    assert features.std(axis=0).max() > 1e-3
    for tta in ("none", "hflip"):
        file = export(checkpoint, tmp_path / f"{tta}.onnx", tta=tta).path
        assert onnx_features(str(file), catalog) == pytest.approx(features, abs=1e-4)
    resizing = export(checkpoint, tmp_path / "image.onnx", input="image").path
    assert onnx_features(str(resizing), catalog) == pytest.approx(features, abs=0.05)
    int8 = export(checkpoint, tmp_path / "int8.onnx", weights="int8").path
    assert onnx_features(str(int8), catalog) == pytest.approx(features, abs=0.05)


def test_checkpoint_of_a_from_scratch_net_is_refused(tiny_tree, tmp_path, capsys):
    checkpoint = fit(tiny_tree, tmp_path, "--model.net", "shallownet", "--data.size", 16)
    capsys.readouterr()
    assert main(["analyze", str(tiny_tree), "--output", str(tmp_path / "out"), "--ckpt_path", str(checkpoint)]) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "'shallownet'" in last and "timm backbone" in last
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("content", [b"", b"no model"])
def test_file_that_is_not_an_exported_model_is_refused(tiny_tree, tmp_path, content):
    file = tmp_path / "model.onnx"
    file.write_bytes(content)
    with pytest.raises(UsageError, match=r"model='.*model\.onnx' is not a file written by .* export"):
        onnx_features(str(file), scan_folder(tiny_tree))


def test_classes_that_cannot_be_checked_are_named():
    counts = {"alone": 1, "cat": 20, "dog": 20, "frames": 6}
    labels = np.repeat(list(counts), list(counts.values()))
    rng = np.random.default_rng(0)
    features = rng.normal(size=(4, 30)).repeat(list(counts.values()), axis=0) + rng.normal(0, 0.2, (47, 30))
    labels[1] = "dog"
    groups = np.where(labels == "frames", 0, -1)
    paths = [f"{number}.jpg" for number in range(47)]
    found = find_label_errors(pd.DataFrame({"path": paths, "label": labels, "duplicate_group": groups}), features)
    assert found.table[["path", "label", "suggested"]].to_numpy().tolist() == [["1.jpg", "dog", "cat"]]
    assert found.unchecked == [
        "class 'alone' has a single image; label errors need at least 2 per class.",
        "class 'frames': all 6 images are duplicates of each other; labels not checked.",
    ]


def test_a_single_class_is_not_searched():
    images = pd.DataFrame({"path": ["a", "b"], "label": ["cat", "cat"], "duplicate_group": [-1, -1]})
    found = find_label_errors(images, np.eye(2))
    assert found.table.empty
    assert found.unchecked == ["label errors need at least 2 classes; the dataset has only 'cat'."]


def test_unchecked_classes_are_printed_and_on_the_page(make_tree, tmp_path, capsys):
    root = make_tree("images", {"cane": 8, "gatto": 1, "zebra": 8})
    checkpoint = fit(
        make_tree("other", {"cane": 8, "zebra": 8}), tmp_path, "--model.net", "test_resnet", "--data.size", 32
    )
    capsys.readouterr()
    assert main(["analyze", str(root), "--output", str(tmp_path / "out"), "--ckpt_path", str(checkpoint)]) == 0
    reason = "class 'gatto' has a single image; label errors need at least 2 per class."
    assert reason in capsys.readouterr().out
    assert "class &#39;gatto&#39; has a single image" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


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
