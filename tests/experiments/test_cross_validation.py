"""scripts/cross_validate.py: folds, intervals, and a study on a tiny tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.experiments import cross_validation as cross_validate

PROJECT = Path(__file__).parents[1]
FOLDS = 3


@pytest.fixture
def study(tmp_path) -> Path:
    file = tmp_path / "study.yaml"
    file.write_text(
        "config: configs/lenet.yaml\n"
        "options: {data.size: 16, data.batch_size: 16, data.num_workers: 0, trainer.accelerator: cpu,"
        " trainer.max_epochs: 1}\n"
        "variants:\n  as it is: {}\n  weighted sampling: {data.sampling: weighted, model.class_weights: none}\n"
        "  nothing learnt: {model.lr: 0}\n"
    )
    return file


def test_folds_are_stratified_and_divide_no_copies(tiny_tree):
    data = AnimalsDataModule(str(tiny_tree), num_workers=0)
    data.setup("fit")
    catalog = data.decodable
    catalog.groups[:] = -1
    catalog.groups[[0, 1, 2, 30, 31]] = [7, 7, 7, 9, 9]
    fold_of = cross_validate.draw_folds(catalog, FOLDS, seed=0)
    assert len(set(fold_of[[0, 1, 2]])) == len(set(fold_of[[30, 31]])) == 1
    assert set(fold_of) == set(range(FOLDS))
    again, other = (cross_validate.draw_folds(catalog, FOLDS, seed=seed) for seed in (0, 1))
    assert (fold_of == again).all()
    assert (fold_of != other).any()


def test_recalls_are_scikit_learn_s_of_every_draw():
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [40, 9, 3])
    predicted = np.where(rng.random(52) < 0.7, labels, rng.integers(0, 3, 52))
    draws = cross_validate.bootstrap(labels)
    assert draws.shape == (cross_validate.DRAWS, 52)
    for label in range(3):  # each class keeps its number
        assert (draws[:, labels == label].sum(axis=1) == np.sum(labels == label)).all()
    values = cross_validate.recalls(labels, predicted, draws)
    assert values[0] == pytest.approx(balanced_accuracy_score(labels, predicted))
    for draw in range(5):
        taken = np.repeat(np.arange(52), draws[draw])
        assert values[1 + draw] == pytest.approx(balanced_accuracy_score(labels[taken], predicted[taken]))
    error = np.sqrt(np.mean([p * (1 - p) / n for p, n in recall_of(labels, predicted)]) / 3)
    assert np.std(values[1:]) == pytest.approx(error, rel=0.1)  # of a mean of independent proportions


def recall_of(labels: np.ndarray, predicted: np.ndarray) -> list[tuple[float, int]]:
    return [(np.mean(predicted[labels == c] == c), np.sum(labels == c)) for c in np.unique(labels)]


def test_differences_are_from_the_baseline_and_paired(capsys):
    labels = np.repeat([0, 1], [20, 10])
    better, worse = labels.copy(), labels.copy()
    better[0] = worse[0] = 1  # both are wrong here, and one of them once more
    worse[25] = 0
    outcomes = {"a": cross_validate.Outcome(better, 1.0), "b": cross_validate.Outcome(worse, 1.0)}
    cross_validate.Console(width=150).print(cross_validate.table(outcomes, labels, baseline="b", markdown=True))
    rows = {cells[1].strip(): cells for line in capsys.readouterr().out.splitlines() if (cells := line.split("|"))[1:]}
    assert rows["a"][5].strip() == "+0.0500"  # one in ten of one class of two
    assert rows["a"][6].strip().startswith("+0.0000")  # never below: only the image that differs matters
    assert rows["b"][5].strip() == ""


def test_a_study_predicts_every_image_once_and_does_nothing_twice(study, tiny_tree, tmp_path, capsys):
    args = [str(study), "--root", str(tiny_tree), "--folds", str(FOLDS), "--output", str(tmp_path / "out")]
    assert cross_validate.main(args) == 0
    printed = capsys.readouterr()
    assert printed.err.count("of 3 done") == 3 * FOLDS
    rows = {line.split("  ")[0].strip(): line for line in printed.out.splitlines()}
    assert {"as it is", "weighted sampling", "nothing learnt"} <= rows.keys()
    data = AnimalsDataModule(str(tiny_tree), num_workers=0)
    data.setup("fit")
    fold_of = cross_validate.draw_folds(data.decodable, FOLDS, 0)
    (folder,) = (tmp_path / "out").iterdir()
    outcome = cross_validate.collect("as it is", folder, fold_of)
    assert (outcome.predicted >= 0).all()
    recall = balanced_accuracy_score(data.decodable.labels, outcome.predicted)
    assert f"{recall:.4f}" in rows["as it is"]
    assert {fold: np.load(folder / f"as it is-fold{fold}.npz")["logits"].shape for fold in range(FOLDS)} == {
        fold: (np.sum(fold_of == fold), 10) for fold in range(FOLDS)
    }
    written = {file: file.stat().st_mtime_ns for file in folder.glob("*.npz")}
    assert cross_validate.main([*args, "--only", "as it is", "--markdown"]) == 0
    assert "| as it is" in capsys.readouterr().out
    assert {file: file.stat().st_mtime_ns for file in folder.glob("*.npz")} == written
    study.write_text(study.read_text().replace("as it is: {}", "as it is: {model.lr: 0.01}"))
    assert cross_validate.main([*args, "--only", "as it is"]) == 0  # another variant under its name
    changed = {file for file in folder.glob("*.npz") if file.stat().st_mtime_ns != written[file]}
    assert {file.name for file in changed} == {f"as it is-fold{fold}.npz" for fold in range(FOLDS)}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense: [", "cannot be read"),
        ("config: configs/lenet.yaml", "cannot be read"),
        ("config: configs/absent.yaml\nvariants: {a: {}}", "is not a file"),
        ("config: configs/lenet.yaml\nvariants: {a: {model.nets: 3}}", "'a' failed"),
        ("config: configs/lenet.yaml\nvariants: {a/b: {}}", "leave out / and :"),
        ("config: configs/lenet.yaml\nbaseline: b\nvariants: {a: {}}", "baseline='b' is no variant"),
    ],
    ids=["no YAML", "no variants", "no configuration", "unknown key", "slash", "no baseline"],
)
def test_a_study_that_does_not_work_is_explained(tmp_path, tiny_tree, capsys, content, words):
    file = tmp_path / "study.yaml"
    file.write_text(content)
    assert cross_validate.main([str(file), "--root", str(tiny_tree), "--output", str(tmp_path / "out")]) == 2
    assert words in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("file", sorted((PROJECT / "scripts" / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_can_be_read(file):
    study = cross_validate.read_study(file)
    assert len(study.variants) > 1
