"""Metrics on corrupted images."""

from __future__ import annotations

import json

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, balanced_accuracy_score

from animals_pl.errors import UsageError
from animals_pl.evaluation.robustness import (
    corruption_errors,
    mean_corruption_error,
    read_robustness,
    robustness_values,
    saved_robustness,
)
from animals_pl.evaluation.robustness_figure import corruption_sheet, robustness_curves

NAMES = ["blur", "noise"]


@pytest.fixture
def values() -> dict:
    labels = np.repeat([0, 1, 2], [10, 6, 4])
    rng = np.random.default_rng(0)
    clean = np.where(rng.random(20) < 0.9, labels, 0)
    corrupted = np.where(rng.random((20, 2, 5)) < 0.6, labels[:, None, None], rng.integers(0, 3, (20, 2, 5)))
    return {**robustness_values(labels, clean, corrupted, NAMES, 4), "inputs": (labels, clean, corrupted)}


def with_accuracies(**accuracies: list[float]) -> dict:
    return {"corruptions": {name: {"acc": values} for name, values in accuracies.items()}}


def test_metrics_are_those_of_scikit_learn(values):
    labels, clean, corrupted = values["inputs"]
    assert values["clean"]["acc"] == pytest.approx(accuracy_score(labels, clean))
    for column, name in enumerate(NAMES):
        found = values["corruptions"][name]
        acc = [accuracy_score(labels, corrupted[:, column, severity]) for severity in range(5)]
        recall = [balanced_accuracy_score(labels, corrupted[:, column, severity]) for severity in range(5)]
        assert found["acc"] == pytest.approx(acc)
        assert found["macro_recall"] == pytest.approx(recall)
        assert found["mean_acc"] == pytest.approx(sum(acc) / 5)
    assert values["mean"]["macro_recall"] == pytest.approx(
        np.mean([values["corruptions"][name]["mean_macro_recall"] for name in NAMES])
    )


def test_mean_corruption_error_by_hand():
    """CE_c = Σ_s E_s / Σ_s E_s of the baseline. Blur: 1.5 / 3.0 errors, noise: 3.0 / 2.0; their mean is 100 %."""
    own = with_accuracies(blur=[0.9, 0.8, 0.7, 0.6, 0.5], noise=[0.6, 0.5, 0.4, 0.3, 0.2])
    baseline = with_accuracies(blur=[0.6, 0.5, 0.4, 0.3, 0.2], noise=[0.8, 0.7, 0.6, 0.5, 0.4])
    errors = corruption_errors(own, baseline)
    assert errors == pytest.approx({"blur": 50.0, "noise": 150.0})
    assert mean_corruption_error(errors) == pytest.approx(100.0)


def test_a_run_has_100_percent_of_its_own_errors(values):
    errors = corruption_errors(values, values)
    assert errors == pytest.approx({"blur": 100.0, "noise": 100.0})


def test_a_baseline_without_errors_gives_no_ratio():
    errors = corruption_errors(with_accuracies(blur=[0.9], noise=[0.5]), with_accuracies(blur=[1.0], noise=[0.0]))
    assert errors == {"blur": None, "noise": pytest.approx(50.0)}
    assert mean_corruption_error(errors) is None


def test_files_of_another_model_are_not_used(tmp_path):
    facts = {"checkpoint": "best.ckpt", "epoch": 3, "images": 20}
    metrics = {**facts, "acc": {"value": 0.75}}
    pair = {"acc": 0.75, "macro_recall": 0.7}
    blur = {"acc": [0.5] * 5, "macro_recall": [0.4] * 5, "mean_acc": 0.5, "mean_macro_recall": 0.4}
    values = {**facts, "clean": pair, "mean": pair, "corruptions": {"blur": blur}}
    (tmp_path / "robustness.json").write_text(json.dumps(values))
    assert saved_robustness(tmp_path, metrics) == values
    assert saved_robustness(tmp_path, {**metrics, "epoch": 4}) is None
    assert saved_robustness(tmp_path, {**metrics, "acc": {"value": 0.8}}) is None
    assert saved_robustness(tmp_path / "nowhere", metrics) is None


@pytest.mark.parametrize("blur", [{}, {"acc": "x"}, {"acc": [0.5]}, {"acc": [float("nan")] * 5}])
def test_a_damaged_file_is_ignored_with_a_warning(tmp_path, blur):
    pair = {"acc": 0.75, "macro_recall": 0.7}
    whole = {"acc": [0.5] * 5, "macro_recall": [0.4] * 5, "mean_acc": 0.5, "mean_macro_recall": 0.4}
    values = {"clean": pair, "mean": pair, "corruptions": {"blur": {**whole, **blur} if blur else {}}}
    (tmp_path / "robustness.json").write_text(json.dumps(values))
    with pytest.warns(UserWarning, match="robustness.json' cannot be read"):
        assert saved_robustness(tmp_path, {"acc": {"value": 0.75}}) is None


@pytest.mark.parametrize(("text", "reason"), [(None, "is missing"), ("{", "cannot be read"), ("[]", "cannot be read")])
def test_unusable_files_are_named(tmp_path, text, reason):
    file = tmp_path / "robustness.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UsageError, match=f"robustness.json' {reason}. Run 'python -m animals_pl test --robustness"):
        read_robustness(file)


def test_curves_start_at_the_clean_images(values):
    for axes, metric in zip(robustness_curves(values).axes, ("acc", "macro_recall"), strict=True):
        for line, name in zip(axes.lines, NAMES, strict=True):
            assert list(line.get_ydata()) == [values["clean"][metric], *values["corruptions"][name][metric]]


def test_the_sheet_has_a_row_for_each_corruption():
    versions = np.zeros((2, 5, 8, 8, 3), np.uint8)
    versions[1, 2] = 255
    (axes,) = corruption_sheet(versions, ["blur", "small_subject"]).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["blur", "small subject"]
    picture = axes.images[0].get_array()
    assert picture.shape == (16, 40, 3)
    assert (picture[8:, 16:24] == 255).all()
    assert picture.sum() == 255 * 8 * 8 * 3
