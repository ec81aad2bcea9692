"""The verb cross-validate: the comparison table, and a study on a tiny tree."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from sklearn.metrics import balanced_accuracy_score

from animals_pl.errors import UsageError
from animals_pl.experiments.cross_validation import comparison, cross_validate
from animals_pl.experiments.fold_fits import load_outcome, prepare_folds
from animals_pl.experiments.folds import Outcome
from animals_pl.experiments.study import read_study

STUDY = (
    "config: lenet\n"
    "options: {data.size: 16, data.batch_size: 16, data.num_workers: 0, trainer.accelerator: cpu,"
    " trainer.max_epochs: 1}\n"
    "variants:\n  as it is: {}\n  weighted sampling: {data.sampling: weighted, model.class_weights: none}\n"
)


def table_rows(text: str) -> dict[str, list[str]]:
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines() if "|" in line]
    return {cells[1]: cells[2:] for cells in rows}


def modified(folder: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in folder.glob("*.npz")}


def test_differences_are_paired_and_from_the_baseline(capsys):
    labels = np.repeat([0, 1], [20, 10])
    better, worse = labels.copy(), labels.copy()
    better[0] = worse[0] = 1  # both are wrong here, and one of them once more
    worse[25] = 0
    outcomes = {"a": Outcome(better, 1.0), "b": Outcome(worse, 1.0)}
    Console(width=150).print(comparison(outcomes, labels, baseline="b", markdown=True))
    rows = table_rows(capsys.readouterr().out)
    assert rows["a"][3] == "+0.0500"  # one in ten of one class of two
    assert rows["a"][4].startswith("+0.0000")  # never below: only the image that differs counts
    assert rows["b"][3] == ""


def test_a_study_trains_every_variant_and_pools_its_predictions(write_study, tiny_tree, tmp_path, capsys):
    file = write_study(STUDY)
    cross_validate(str(file), str(tiny_tree), folds=2, output=str(tmp_path / "out"), markdown=True)
    printed = capsys.readouterr()
    assert printed.err.count("of 2 done") == 4
    rows = table_rows(printed.out)
    assert {"as it is", "weighted sampling"} <= rows.keys()
    folds = prepare_folds(read_study(file), tiny_tree, 2, 0, tmp_path / "out")
    for variant in ("as it is", "weighted sampling"):
        outcome = load_outcome(variant, folds, 2)
        assert (outcome.predicted >= 0).all()
        expected = balanced_accuracy_score(folds.catalog.labels, outcome.predicted)
        assert float(rows[variant][0]) == pytest.approx(expected, abs=6e-5)
        for fold in range(2):
            logits = np.load(folds.folder / f"{variant}-fold{fold}.npz")["logits"]
            assert logits.shape == (np.sum(folds.fold_of == fold), 10)


def test_results_are_kept_until_their_settings_change(write_study, tiny_tree, tmp_path, fake_training):
    arguments = {"root": str(tiny_tree), "folds": 2, "output": str(tmp_path / "out")}
    cross_validate(str(write_study(STUDY)), **arguments)
    assert len(fake_training.fits) == 4
    (folder,) = (tmp_path / "out").iterdir()
    before = modified(folder)
    cross_validate(str(tmp_path / "tiny.yaml"), only=["as it is"], **arguments)
    assert modified(folder) == before
    changed = write_study(STUDY.replace("as it is: {}", "as it is: {model.lr: 0.01}"))
    cross_validate(str(changed), **arguments)
    after = modified(folder)
    assert {name for name in after if after[name] != before[name]} == {f"as it is-fold{fold}.npz" for fold in range(2)}


def test_an_interrupted_study_continues(write_study, tiny_tree, tmp_path, fake_training):
    arguments = {"study": str(write_study(STUDY)), "root": str(tiny_tree), "folds": 2, "output": str(tmp_path / "out")}

    def interrupt(options: dict[str, str]) -> bool:
        if len(fake_training.fits) == 3:
            raise KeyboardInterrupt
        return True

    fake_training.is_right = interrupt
    with pytest.raises(KeyboardInterrupt):
        cross_validate(**arguments)
    fake_training.is_right = lambda options: True
    cross_validate(**arguments)
    assert len(set(fake_training.fits)) == len(fake_training.fits) == 4


def test_a_failing_variant_is_named(write_study, tiny_tree, tmp_path):
    file = write_study("config: lenet\nvariants: {a: {model.nets: 3}}")
    with pytest.raises(UsageError, match=r"variant 'a' failed: unknown key 'model\.nets'"):
        cross_validate(str(file), str(tiny_tree), output=str(tmp_path / "out"))


def test_an_unknown_variant_is_refused(write_study, tiny_tree):
    with pytest.raises(UsageError, match="only='c' is not a variant of tiny"):
        cross_validate(str(write_study(STUDY)), str(tiny_tree), only=["c"])
