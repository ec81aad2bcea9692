"""The command cross-validate: the comparison table, and a study on a tiny tree."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score

from animals_pl.errors import UsageError
from animals_pl.experiments.cross_validation import comparison, cross_validate
from animals_pl.experiments.fold_fits import load_outcome, prepare_folds
from animals_pl.experiments.folds import Outcome
from animals_pl.experiments.study import read_study
from animals_pl.files import show

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
    show(comparison(outcomes, labels, baseline="b", markdown=True), width=150)
    rows = table_rows(capsys.readouterr().out)
    assert rows["a"][3] == "+0.0500"  # one in ten of one class of two
    assert rows["a"][4].startswith("+0.0000")  # never below: only the image that differs counts
    assert rows["b"][3] == ""


@pytest.mark.usefixtures("wide_screen")
def test_a_variant_is_trained_on_every_fold_and_its_predictions_are_pooled(write_study, tiny_tree, tmp_path, capsys):
    file = write_study(STUDY)
    variant, output = "weighted sampling", tmp_path / "out"
    cross_validate(str(file), str(tiny_tree), only=[variant], folds=2, output=str(output), markdown=True)
    printed = capsys.readouterr()
    assert printed.err.count("of 2 done") == 2
    folds = prepare_folds(read_study(file), tiny_tree, 2, 0, output)
    outcome = load_outcome(variant, folds, 2)
    assert (outcome.predicted >= 0).all()
    expected = balanced_accuracy_score(folds.catalog.labels, outcome.predicted)
    assert float(table_rows(printed.out)[variant][0]) == pytest.approx(expected, abs=6e-5)
    for fold in range(2):
        file = folds.folder / f"{variant}-fold{fold}.npz"
        kept = np.load(file)
        np.testing.assert_array_equal(kept["classes"], outcome.predicted[folds.fold_of == fold])
        np.savez(file, logits=np.eye(10)[kept["classes"]], seconds=kept["seconds"])  # as older results
    np.testing.assert_array_equal(load_outcome(variant, folds, 2).predicted, outcome.predicted)


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


def test_a_refit_of_a_fold_is_refused(write_study, tiny_tree, tmp_path):
    file = write_study(STUDY.replace("as it is: {}", "as it is: {refit: true}"))
    with pytest.raises(UsageError, match="variant 'as it is': refit=true has no effect in cross-validation"):
        cross_validate(str(file), str(tiny_tree), folds=2, output=str(tmp_path))


def test_refit_of_the_configuration_is_for_fit_only(write_study, tiny_tree, tmp_path):
    """Folds have no checkpoints, without which fit refuses it."""
    config = tmp_path / "config.yaml"
    config.write_text("refit: true\nmodel: {net: lenet}\n")
    file = write_study(STUDY.replace("config: lenet", f"config: {config}"))
    cross_validate(str(file), str(tiny_tree), only=["as it is"], folds=2, output=str(tmp_path / "out"))
    assert len(list((tmp_path / "out").rglob("*.npz"))) == 2


def test_help_of_the_experiments_loads_no_torch():
    code = (
        "import sys\nfrom jsonargparse import ArgumentParser\n"
        "from animals_pl.experiments import cross_validation, reproduction, run_table, search\n"
        "for verb in (cross_validation.cross_validate, reproduction.reproduce, run_table.report, search.search):\n"
        "    parser = ArgumentParser()\n    parser.add_function_arguments(verb)\n    parser.format_help()\n"
        "assert not {'torch', 'optuna', 'sklearn', 'pandas'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_variant_is_refused(write_study, tiny_tree):
    with pytest.raises(UsageError, match="only='c' is not a variant of tiny"):
        cross_validate(str(write_study(STUDY)), str(tiny_tree), only=["c"])
