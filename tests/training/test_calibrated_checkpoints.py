"""Calibration: the prior of a model, its temperature in checkpoints, priors expected in use."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

from animals_pl import AnimalClassifier, AnimalsDataModule, Run, evaluate, export, fit, load_model
from animals_pl.cli import main
from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import expected_calibration_error
from animals_pl.training.calibration import calibration_of, model_prior, read_prior
from animals_pl.training.trained import load_classifier

COUNTS = {"cane": 40, "gatto": 24, "ragno": 12}
NAMES = sorted(COUNTS)
QUIET = {"enable_progress_bar": False, "accelerator": "cpu", "max_epochs": 3}

pytestmark = pytest.mark.usefixtures("small_figures")


def hparams(**values: Any) -> dict[str, Any]:
    return dict(AnimalClassifier("shallownet", **values).hparams)


# ---------------------------------------------------------------- the prior of a model


@pytest.mark.parametrize(
    ("settings", "sampling", "power"),
    [
        ({}, "shuffle", 1),
        ({}, "weighted", 0),
        ({}, "weighted_sqrt", 0.5),
        ({"loss": "logit_adjusted"}, "shuffle", 0),
        ({"loss": "logit_adjusted", "logit_tau": 0.5}, "shuffle", 0.5),
        ({"loss": "logit_adjusted", "logit_tau": 0.5}, "weighted_sqrt", 0),
        ({"class_weights": "balanced"}, "shuffle", 0),
        ({"class_weights": "balanced"}, "weighted_sqrt", -0.5),
    ],
)
def test_model_prior_is_a_power_of_the_counts(settings, sampling, power):
    counts = np.array([300, 20, 80])
    expected = counts**power / (counts**power).sum()
    np.testing.assert_allclose(model_prior(counts, hparams(**settings), sampling), expected, rtol=1e-12)


def test_model_prior_of_class_weights_is_counts_times_weights():
    counts = np.array([300, 20, 80])
    found = model_prior(counts, hparams(class_weights="effective", effective_beta=0.99), "shuffle")
    products = counts * (1 - 0.99) / (1 - 0.99**counts)
    np.testing.assert_allclose(found, products / products.sum(), rtol=1e-12)


def test_a_class_without_images_keeps_a_positive_prior():
    assert (model_prior(np.array([5, 0]), hparams(), "shuffle") > 0).all()


def test_shifted_logits_of_a_weighted_fit_are_those_of_a_plain_fit():
    """Logistic regression on Gaussians, whose posterior is known: the formula turns one prior into the other."""
    rng = np.random.default_rng(0)
    counts = np.array([30_000, 6_000])
    labels = np.repeat([0, 1], counts)
    x = rng.normal(labels * 1.5, 1)[:, None]
    weights = counts.sum() / (2 * counts)
    weighted = LogisticRegression(C=1e6).fit(x, labels, sample_weight=weights[labels])
    prior = model_prior(counts, hparams(class_weights="balanced"), "shuffle")
    logit = weighted.decision_function([[0.4]])[0] + np.diff(np.log(counts / counts.sum()) - np.log(prior))[0]
    exact = 1.5 * 0.4 - 1.5**2 / 2 + np.log(counts[1] / counts[0])
    assert logit == pytest.approx(exact, abs=0.05)


# ---------------------------------------------------------------- a run


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from image_trees import write_tree

    return write_tree(tmp_path_factory.mktemp("calibration") / "raw-img", COUNTS)


def trained(tree: Path, folder: Path, **options: Any) -> Run:
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.3, val_fraction=0.3)
    model = AnimalClassifier("shallownet", loss="logit_adjusted", lr=0.003)
    return fit(model, data, default_root_dir=str(folder), **QUIET | options)


@pytest.fixture(scope="module")
def run(tree: Path, tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> Run:
    return trained(tree, tmp_path_factory.mktemp("runs"))


def outputs(run: Run, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels of a split, from the net alone."""
    catalog = run.data.catalogs[split]
    with torch.no_grad():
        logits = torch.cat([run.best.net(images) for images in run.best.batches(catalog, num_workers=0)])
    return logits.double().numpy(), catalog.labels


def state(file: Path) -> dict[str, Any]:
    return torch.load(file, weights_only=True)["calibration"]


def test_the_checkpoint_has_the_temperature_of_its_own_validation_logits(run):
    logits, labels = outputs(run, "val")
    shift = np.log(np.bincount(labels) / len(labels)) - np.log(1 / 3)

    def loss(log_temperature: np.ndarray) -> float:
        scores = log_softmax(logits / np.exp(log_temperature) + shift, axis=1)
        return -scores[np.arange(len(labels)), labels].mean()

    start = min(np.linspace(-2.3, 2.3, 50), key=loss)
    best = float(np.exp(minimize(loss, start, method="Nelder-Mead", options={"xatol": 1e-7, "fatol": 1e-12}).x[0]))
    found = state(run.best_path)
    assert found["temperature"] == pytest.approx(np.clip(best, 0.1, 10), rel=1e-3)
    assert found["temperature"] != 1
    assert found["model_prior"] == pytest.approx([1 / 3] * 3)
    assert found["train_counts"] == list(run.data.catalogs["train"].counts().values())


def test_ece_val_in_the_table_is_uncalibrated(run):
    logits, labels = outputs(run, "val")
    best = min(run.metrics, key=lambda row: row["loss/val"])
    assert best["ece/val"] == pytest.approx(expected_calibration_error(softmax(logits, axis=1), labels), abs=1e-5)


def test_probabilities_are_calibrated_and_classes_unchanged(run):
    logits, _ = outputs(run, "test")
    found = run.best.probabilities(run.data.catalogs["test"], num_workers=0)
    temperature = state(run.best_path)["temperature"]
    np.testing.assert_allclose(found, softmax(logits / temperature, axis=1), atol=1e-5)
    assert (found.argmax(1) == logits.argmax(1)).all()


def test_a_resumed_run_keeps_its_calibration(tree, tmp_path):
    run = trained(tree, tmp_path, max_epochs=1)
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.3, val_fraction=0.3)
    model = AnimalClassifier("shallownet", loss="logit_adjusted", lr=0.003)
    again = fit(model, data, ckpt_path=run.last_path, **QUIET | {"max_epochs": 2})
    assert state(again.last_path)["train_counts"] == state(run.last_path)["train_counts"]
    assert state(again.best_path)["temperature"] != 1


def test_an_old_checkpoint_has_the_temperature_1(run, tmp_path):
    checkpoint = torch.load(run.best_path, weights_only=True)
    del checkpoint["calibration"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    logits, _ = outputs(run, "test")
    found = load_model(tmp_path / "old.ckpt").probabilities(run.data.catalogs["test"], num_workers=0)
    np.testing.assert_allclose(found, softmax(logits, axis=1), atol=1e-5)
    with pytest.raises(UsageError, match="does not say which class frequencies"):
        load_model(tmp_path / "old.ckpt", prior="uniform")
    with pytest.raises(UsageError, match="prior=train: the checkpoint has no counts"):
        load_model(tmp_path / "old.ckpt", prior="train")


# ---------------------------------------------------------------- other priors


@pytest.fixture
def frequencies(tmp_path: Path) -> Callable[[str], str]:
    def write(rows: str) -> str:
        (tmp_path / "field.csv").write_text(f"class,frequency\n{rows}")
        return str(tmp_path / "field.csv")

    return write


def expected(run: Run, prior: np.ndarray, split: str = "test") -> np.ndarray:
    """Calibrated probabilities of a model with a uniform prior, for other frequencies."""
    logits, _ = outputs(run, split)
    weighted = softmax(logits / state(run.best_path)["temperature"], axis=1) * prior
    return weighted / weighted.sum(1, keepdims=True)


def test_prior_train_weights_probabilities_by_the_training_counts(run):
    counts = np.array(state(run.best_path)["train_counts"])
    found = load_model(run.best_path, prior="train").probabilities(run.data.catalogs["test"], num_workers=0)
    np.testing.assert_allclose(found, expected(run, counts), atol=1e-5)


def test_prior_uniform_is_the_own_prior_of_a_logit_adjusted_model(run):
    found = load_model(run.best_path, prior="uniform").probabilities(run.data.catalogs["test"], num_workers=0)
    np.testing.assert_allclose(found, expected(run, np.ones(3)), atol=1e-5)


def test_predict_takes_a_file_of_frequencies(run, tree, tmp_path, frequencies):
    prior = frequencies("spider,0.7\ncat,0.3\nCane,0\n")
    output = tmp_path / "out.csv"
    args = ["--ckpt_path", str(run.best_path), "--output", str(output), "--prior", prior, "--data.num_workers", "0"]
    assert main(["predict", str(tree / "ragno"), str(tree / "gatto"), *args]) == 0
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    paths = [row["path"] for row in rows]
    wanted = load_model(run.best_path).predict(paths, num_workers=0)
    for row, plain in zip(rows, wanted, strict=True):
        weighted = {
            name: probability * {"ragno": 0.7, "gatto": 0.3, "cane": 0}[name] for name, probability in plain.top
        }
        total = sum(weighted.values())
        for k in (1, 2, 3):
            assert float(row[f"probability_{k}"]) == pytest.approx(weighted[row[f"class_{k}"]] / total, abs=2e-5)


def test_test_uses_the_prior_for_all_of_its_numbers(run, capsys):
    assert main(["test", "--ckpt_path", str(run.best_path), "--prior", "train", "--data.num_workers", "0"]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if "/test " in line)
    metrics = json.loads((run.folder / "evaluation" / "test" / "metrics.json").read_text())
    found = expected(run, np.array(state(run.best_path)["train_counts"]))
    labels = run.data.catalogs["test"].labels
    assert metrics["acc"]["value"] == pytest.approx((found.argmax(1) == labels).mean())
    assert float(printed["acc/test"]) == pytest.approx(metrics["acc"]["value"], abs=5e-5)
    assert metrics["log_loss"]["value"] == pytest.approx(
        -np.log(found[np.arange(len(labels)), labels]).mean(), rel=1e-4
    )
    assert metrics["prior"] == "train"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("cane,1\ngatto,1\n", "has no row for ragno"),
        ("cane,1\ngatto,1\nragno,x\n", "frequency 'x'. Write a number"),
        ("cane,1\ngatto,-1\nragno,1\n", "frequency '-1'. Write a number"),
        ("cane,1\ngatto,1\nragno,1\nlupo,1\n", "'lupo', which is not a class"),
        ("cane,0\ngatto,0\nragno,0\n", "only zeros"),
    ],
)
def test_wrong_frequencies_are_refused(run, frequencies, rows, message):
    with pytest.raises(UsageError, match=message):
        load_classifier(run.best_path, prior=frequencies(rows))


def test_a_prior_that_excludes_a_class_with_images_is_refused_and_nothing_is_replaced(run, frequencies, capsys):
    folder = run.folder / "evaluation" / "test"
    assert main(["test", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    before = {file.name: file.read_bytes() for file in folder.glob("*.*")}
    prior = frequencies("cane,0\ngatto,0.3\nragno,0.7\n")
    capsys.readouterr()
    args = ["--ckpt_path", str(run.best_path), "--data.num_workers", "0", "--prior", prior]
    assert main(["test", *args]) == 2
    assert "has the frequency 0 for classes with images: cane" in capsys.readouterr().err
    assert {file.name: file.read_bytes() for file in folder.glob("*.*")} == before


def test_large_frequencies_do_not_overflow(run, frequencies):
    found = load_model(run.best_path, prior=frequencies("cane,1e308\ngatto,1e308\nragno,1e308\n"))
    expected = load_model(run.best_path, prior="uniform")
    np.testing.assert_allclose(found.calibration.log_shift, expected.calibration.log_shift)


def test_evaluate_says_which_prior_it_used(run):
    evaluate(load_classifier(run.best_path, prior="uniform"), run.data, "test")
    assert json.loads((run.folder / "evaluation" / "test" / "metrics.json").read_text())["prior"] == "uniform"
    assert not (run.folder / "evaluation" / "test" / "report.html").exists()  # that of an earlier evaluation


def test_a_prior_that_is_no_file_is_refused(capsys, run, tree):
    assert main(["predict", str(tree), "--ckpt_path", str(run.best_path), "--prior", "field"]) == 2
    assert "prior='field' is not a file" in capsys.readouterr().err


def test_read_prior_names():
    np.testing.assert_array_equal(read_prior("uniform", NAMES, None), [1, 1, 1])
    np.testing.assert_array_equal(read_prior("train", NAMES, np.array([4, 2, 1])), [4, 2, 1])
    assert calibration_of({"hyper_parameters": {}}).temperature == 1


# ---------------------------------------------------------------- export


@pytest.mark.parametrize("prior", [None, "train"])
def test_the_exported_file_gives_calibrated_probabilities(run, tmp_path, prior):
    import onnxruntime

    exported = export(run.best_path, tmp_path / "model.onnx", prior=prior)
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    images = torch.cat(list(run.best.batches(run.data.catalogs["test"], num_workers=0)))
    probabilities, logits = session.run(["probabilities", "logits"], {"images": images.numpy()})
    counts = np.array(state(run.best_path)["train_counts"]) if prior else np.ones(3)
    np.testing.assert_allclose(probabilities, expected(run, counts), atol=1e-4)
    np.testing.assert_allclose(logits, outputs(run, "test")[0], atol=1e-3)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["temperature"]) == state(run.best_path)["temperature"]
    shift = np.log(counts / counts.sum() * 3)
    np.testing.assert_allclose(json.loads(metadata["log_shift"]), shift, atol=1e-9)
