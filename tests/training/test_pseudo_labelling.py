"""fit --data.unlabelled: the teacher, the images added, exact resuming, and what is refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from image_trees import write_tree

from animals_pl import AnimalClassifier, AnimalsDataModule
from animals_pl.cli import main
from animals_pl.data.tables import read_rows
from animals_pl.evaluation.unknown import unknown_scores
from animals_pl.experiments.same_result import compare_runs
from animals_pl.lightning_cli import run as cli
from animals_pl.training.calibration import calibration_of
from animals_pl.training.callbacks.feature_cache import FeatureDataset
from animals_pl.training.head import train_head
from animals_pl.training.pseudo_labels import PseudoLabels, at_estimated_frequencies, pseudo_labels
from animals_pl.training.run import fit
from animals_pl.training.trained import load_classifier

pytestmark = pytest.mark.usefixtures("small_figures")

CLASSES = {"a": 30, "b": 20, "c": 10}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Labelled images, and unlabelled images of the same classes and of another one in a flat folder."""
    root = tmp_path_factory.mktemp("images")
    labelled = write_tree(root / "labelled", CLASSES)
    tree = write_tree(root / "tree", {"a": 40, "b": 30, "c": 20, "elsewhere": 10}, seed=5)
    unlabelled = root / "unlabelled"
    unlabelled.mkdir()
    for file in tree.rglob("*.jpg"):
        shutil.copy(file, unlabelled / file.name)
    return labelled, unlabelled


def options(folders: tuple[Path, Path], root: Path, *more: object) -> list[str]:
    labelled, unlabelled = folders
    data = ["--data.root", labelled, "--data.unlabelled", unlabelled, "--data.size", 32, "--data.batch_size", 16]
    model = ["--model.net", "test_resnet", "--model.freeze", "true", "--model.lr", 0.02, "--data.num_workers", 0]
    model += ["--model.loss", "logit_adjusted", "--model.schedule", "cosine", "--model.tta", "hflip"]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 6]
    return ["fit", *map(str, [*data, *model, *trainer, *more])]


def read(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)


def pseudo_labelled(run: Path) -> list[dict[str, str]]:
    return read_rows(run / "pseudo_labels.csv", "file", "path", "sha256", "label", "probability", "left_out")


class KeepState(L.Callback):
    """Keeps the initial weights and the training features."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.initial = {key: value.clone() for key, value in pl_module.net.state_dict().items()}
        self.features: FeatureDataset = trainer.datamodule.datasets["train"]


@pytest.fixture(scope="module")
def whole(folders: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run; to be copied, not changed."""
    root = tmp_path_factory.mktemp("whole")
    assert main(options(folders, root)) == 0
    return root / "run" / "version_0"


def test_every_image_is_labelled_or_has_a_reason(whole, folders):
    rows = pseudo_labelled(whole)
    assert sorted(row["path"] for row in rows) == sorted(file.name for file in folders[1].iterdir())
    assert all(bool(row["label"]) != bool(row["left_out"]) for row in rows)
    labelled = [row for row in rows if row["label"]]
    assert len(labelled) > 60
    known = [row for row in labelled if not row["path"].startswith("elsewhere")]
    assert np.mean([row["path"].startswith(row["label"] + "_") for row in known]) > 0.9


def test_the_teacher_is_the_run_without_unlabelled_images(whole, folders, tmp_path):
    """Its best epoch, applied to all unlabelled images, gives the same pseudo-labels."""
    assert main([*options(folders, tmp_path), "--data.unlabelled", "null"]) == 0
    file = tmp_path / "run" / "version_0" / "best.ckpt"
    teacher, calibration = load_classifier(file).eval(), calibration_of(read(file))
    data = AnimalsDataModule(str(folders[0]), size=32, predict_paths=[str(folders[1])], num_workers=0)
    data.setup("predict")
    with torch.no_grad():
        images = torch.stack([image for image, _ in (data.datasets["predict"][i] for i in range(100))])
        logits = teacher(images).numpy()
    rows = {row["path"]: row for row in pseudo_labelled(whole)}
    ordered = [rows[Path(path).name] for path in data.catalogs["predict"].paths]
    val = AnimalsDataModule(str(folders[0]), size=32, num_workers=0)
    val.setup("validate")
    images = torch.stack([image for image, _ in (val.datasets["val"][i] for i in range(len(val.datasets["val"])))])
    probabilities, prior, counts = calibration.probabilities(logits), calibration.model_prior, calibration.train_counts
    at_frequencies = replace(calibration, train_counts=at_estimated_frequencies(probabilities, prior, counts).mean(0))
    with torch.no_grad():
        known_scores = np.sort(unknown_scores(teacher(images).numpy(), at_frequencies))
    is_unknown = unknown_scores(logits, at_frequencies) > known_scores[[16, 17]].mean()  # ceil(0.9 * 18) = 17
    assert [row["left_out"] == "unknown" for row in ordered] == is_unknown.tolist()
    assert 0 < is_unknown.sum() < 50
    labels, best = pseudo_labels(probabilities[~is_unknown], prior, counts)
    known = [row for row in ordered if row["left_out"] != "unknown"]
    for row, label, probability in zip(known, labels, best, strict=True):
        assert row["label"] == ("" if label < 0 else "abc"[label])
        assert float(row["probability"]) == pytest.approx(probability, abs=2e-4)


def test_the_weights_are_those_of_a_fit_on_both(folders, tmp_path):
    torch.manual_seed(0)
    data = AnimalsDataModule(str(folders[0]), size=32, batch_size=16, num_workers=0, unlabelled=str(folders[1]))
    model = AnimalClassifier("test_resnet", freeze=True, lr=0.02, loss="logit_adjusted")
    kept = KeepState()
    run = fit(model, data, callbacks=[kept], max_epochs=3, default_root_dir=str(tmp_path), accelerator="cpu")
    rows = [row for row in pseudo_labelled(run.folder) if row["label"]]
    labels = np.concatenate([data.catalog.select(data.split.train).labels, ["abc".index(row["label"]) for row in rows]])
    assert kept.features.labels.tolist() == labels.tolist()
    assert read(run.last_path)["calibration"]["train_counts"] == np.bincount(labels).tolist()
    again = load_classifier(run.last_path)
    again.set_data(data.info)
    again.net.load_state_dict(kept.initial)
    train_head(again, kept.features.features, labels, epochs=3, batch_size=16, seed=42)
    for key, value in again.net.state_dict().items():
        torch.testing.assert_close(value, read(run.last_path)["state_dict"][f"net.{key}"], rtol=0, atol=0)
    # The features of an added image are those of its file.
    image, _ = data.dataset("train")[len(labels) - 1]
    with torch.no_grad():
        expected = again.net.eval().forward_features(image[None])[0]
    torch.testing.assert_close(kept.features.features[-1], expected, rtol=1e-3, atol=1e-4)


def test_another_fit_with_the_same_datamodule_starts_from_the_labelled_images(folders, tmp_path):
    data = AnimalsDataModule(str(folders[0]), size=32, num_workers=0, unlabelled=str(folders[1]))
    counts = []
    for _ in range(2):
        model = AnimalClassifier("test_resnet", freeze=True, lr=0.02)
        torch.manual_seed(3)
        run = fit(model, data, max_epochs=2, default_root_dir=str(tmp_path), accelerator="cpu")
        counts.append(read(run.best_path)["calibration"]["train_counts"])
    assert counts[0] == counts[1]


@pytest.mark.parametrize("more", [[], ["--refit", "true"]], ids=["", "refit"])
def test_an_interrupted_run_equals_the_uninterrupted_one(folders, tmp_path, more):
    middle = tmp_path / "middle" / "version_0"

    class Snapshot(L.Callback):
        def on_train_batch_start(self, trainer: L.Trainer, *args: Any) -> None:
            if trainer.current_epoch == 2 and not middle.exists():
                shutil.copytree(trainer.default_root_dir, middle)

    cli(options(folders, tmp_path / "whole", *more), [Snapshot()])
    assert main(["fit", "--config", str(middle / "config.yaml"), "--ckpt_path", str(middle / "last.ckpt")]) == 0
    whole = tmp_path / "whole" / "run" / "version_0"
    assert compare_runs(whole, middle).differences == []
    if more:
        refitted = read(whole / "refit.ckpt")["calibration"]["train_counts"]
        best = read(whole / "best.ckpt")["calibration"]["train_counts"]
        assert sum(refitted) == sum(best) + 18  # 30 % of 60 images


@pytest.mark.parametrize("fault", ["missing", "changed", "null"])
def test_a_run_is_not_resumed_with_other_pseudo_labels(whole, tmp_path, capsys, fault):
    run = shutil.copytree(whole, tmp_path / "version_0")
    file, more = run / "pseudo_labels.csv", []
    if fault == "missing":
        file.unlink()
    elif fault == "changed":
        file.write_text(file.read_text().replace(",a,", ",b,", 1))
    else:
        more = ["--data.unlabelled", "null"]
    before = {path.name: path.read_bytes() for path in run.glob("*.ckpt")}
    args = ["fit", "--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 8, *more]
    assert main([*map(str, args)]) == 2
    error = capsys.readouterr().err
    assert "without unlabelled" in error or "with unlabelled" in error if more else "pseudo_labels.csv" in error
    assert "Traceback" not in error
    assert {path.name: path.read_bytes() for path in run.glob("*.ckpt")} == before


@pytest.mark.parametrize(
    "more",
    [
        ["--model.freeze", "false"],
        ["--data.augment", "light"],
        ["--model.mixup", "0.2"],
        ["--cache_features", "false"],
        ["--trainer.callbacks", "[{class_path: ProgressiveResizing, init_args: {sizes: [16, 32]}}]"],
        ["--trainer.max_epochs", "-1", "--trainer.max_time", "00:00:01:00", "--model.schedule", "constant"],
        ["--trainer.max_steps", "7"],
        ["--tune", "lr"],
        ["--data.unlabelled", "n" * 300],
        ["--data.unlabelled", "nowhere"],
        ["--data.unlabelled", " "],
    ],
    ids=lambda more: more[0].lstrip("-") + more[1][:10],
)
def test_what_cannot_use_unlabelled_images_is_refused(folders, tmp_path, capsys, more):
    assert main(options(folders, tmp_path / "runs", *more)) == 2
    error = capsys.readouterr().err
    assert "data.unlabelled" in error
    assert not list((tmp_path / "runs").rglob("version_*"))


def test_excluded_images_get_new_labels(folders, tmp_path):
    """Suspected label errors, listed in exclude.csv, are used without their labels."""
    labelled = shutil.copytree(folders[0], tmp_path / "labelled")
    (labelled / "a" / "a_0.jpg").rename(labelled / "b" / "wrong.jpg")
    (tmp_path / "exclude.csv").write_text("path\nb/wrong.jpg\n")
    args = options((labelled, labelled), tmp_path, "--data.exclude", tmp_path / "exclude.csv")
    assert main(args) == 0
    rows = pseudo_labelled(tmp_path / "run" / "version_0")
    assert [(row["path"], row["label"]) for row in rows if not row["left_out"].startswith("near")] == [
        ("b/wrong.jpg", "a")
    ]


def test_a_run_that_is_worse_than_its_teacher_says_so(folders, tmp_path, monkeypatch):
    label = "animals_pl.training.callbacks.pseudo_labelling.label_images"
    wrong = PseudoLabels(np.arange(100) % 3, np.ones(100), np.zeros(100, bool))
    monkeypatch.setattr(label, lambda *_: wrong)
    with pytest.warns(UserWarning, match=r"did not help: the lowest validation loss is .* Train without"):
        assert main(options(folders, tmp_path, "--trainer.max_epochs", 30)) == 0


def test_a_run_without_any_pseudo_label_warns(folders, tmp_path, monkeypatch):
    label = "animals_pl.training.callbacks.pseudo_labelling.label_images"
    none = PseudoLabels(np.full(100, -1), np.full(100, np.nan), np.ones(100, bool))
    monkeypatch.setattr(label, lambda *_: none)
    with pytest.warns(UserWarning, match="no unlabelled image gets a pseudo-label"):
        assert main(options(folders, tmp_path)) == 0
    assert not any(row["label"] for row in pseudo_labelled(tmp_path / "run" / "version_0"))


@pytest.mark.parametrize("change", ["missing", "changed", "folder", "other"])
def test_images_that_changed_since_the_run_was_started_are_refused(folders, tmp_path, capsys, change):
    unlabelled = shutil.copytree(folders[1], tmp_path / "unlabelled")
    assert main(options((folders[0], unlabelled), tmp_path)) == 0
    run, more = tmp_path / "run" / "version_0", []
    first = next(row["path"] for row in pseudo_labelled(run) if row["label"])
    if change == "missing":
        (unlabelled / first).unlink()
    elif change == "changed":
        shutil.copy(folders[0] / "a" / "a_1.jpg", unlabelled / first)
    elif change == "folder":
        unlabelled.rename(tmp_path / "moved")
    else:
        more = ["--data.unlabelled", str(folders[0])]
    args = ["fit", "--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 8, *more]
    capsys.readouterr()
    assert main([*map(str, args)]) == 2
    error = capsys.readouterr().err
    assert "data.unlabelled=" in error
    words = {"missing": f"{first!r} is missing since", "changed": f"{first!r} has changed since", "other": "is missing"}
    assert words.get(change, "is not a folder") in error


def test_images_in_the_group_of_a_labelled_one_are_left_out(folders, tmp_path):
    """Excluded images of a camera whose other images are labelled."""
    table = "path,camera\n" + "".join(f"a/a_{index}.jpg,{index // 10}\n" for index in range(30))
    (tmp_path / "cameras.csv").write_text(table)
    (tmp_path / "exclude.csv").write_text("path\n" + "".join(f"a/a_{index}.jpg\n" for index in [0, *range(10, 20)]))
    more = ["--data.exclude", tmp_path / "exclude.csv", "--data.group_by", f"{tmp_path / 'cameras.csv'}:camera"]
    assert main(options((folders[0], folders[0]), tmp_path, *more)) == 0
    rows = {row["path"]: row for row in pseudo_labelled(tmp_path / "run" / "version_0")}
    assert rows["a/a_0.jpg"]["left_out"] == "in the group (data.group_by) of a labelled image"
    assert {rows[f"a/a_{index}.jpg"]["left_out"].partition(" ")[0] for index in range(10, 20)} <= {
        "",
        "unknown",
        "below",
    }


def test_no_file_is_left_with_fast_dev_run(folders, tmp_path):
    assert main(options(folders, tmp_path, "--trainer.fast_dev_run", "true")) == 0
    assert not list(tmp_path.rglob("pseudo_labels.csv"))
