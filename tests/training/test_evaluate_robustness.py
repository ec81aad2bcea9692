"""The command ``test --robustness`` and ``evaluate_robustness``."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from image_trees import write_tree

from animals_pl import AnimalClassifier, AnimalsDataModule, Run, evaluate_robustness, fit, load_classifier
from animals_pl.cli import main
from animals_pl.data.catalog import Catalog
from animals_pl.data.corrupted_dataset import CorruptedDataset
from animals_pl.evaluation.robustness import corruption_errors
from animals_pl.training.robustness import images_digest

COUNTS = {"cane": 16, "gatto": 12, "ragno": 10}
OPTIONS = {"max_epochs": 2, "accelerator": "cpu"}

pytestmark = pytest.mark.usefixtures("small_figures", "wide_screen")


def train(tree: Path, root: Path, seed: int) -> Run:
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.3)
    return fit(AnimalClassifier("shallownet", lr=0.001 * seed), data, default_root_dir=str(root), **OPTIONS)


def evaluated(ckpt_path: Path, *options: str) -> int:
    return main(["test", "--robustness", "--ckpt_path", str(ckpt_path), "--trainer.accelerator", "cpu", *options])


def saved(run: Path, name: str = "test") -> dict[str, Any]:
    return json.loads((run / "evaluation" / name / "robustness.json").read_text())


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> Any:
    """Two runs, both tested on the command line."""
    root = tmp_path_factory.mktemp("robustness")
    tree = write_tree(root / "raw-img", COUNTS)
    first, second = (train(tree, root / "runs", seed) for seed in (1, 2))
    assert evaluated(first.best_path, "--data.num_workers", "0") == 0
    assert evaluated(second.best_path, "--data.num_workers", "0", "--baseline", str(first.folder)) == 0
    return SimpleNamespace(first=first, second=second, tree=tree, root=root)


def test_values_are_those_of_the_model_on_corrupted_images(runs):
    model, catalog = runs.first.best, runs.first.data.catalogs["test"]
    dataset = CorruptedDataset(catalog, model.resize, model.size)
    predicted = np.stack([model.net(dataset[index]).detach().argmax(1).numpy() for index in range(len(dataset))])
    right = (predicted == catalog.labels[:, None]).mean(0).reshape(7, 5)
    values = saved(runs.first.folder)
    for row, found in zip(right, values["corruptions"].values(), strict=True):
        assert found["acc"] == pytest.approx(row)
    metrics = json.loads((runs.first.folder / "evaluation" / "test" / "metrics.json").read_text())
    for key in ("acc", "macro_recall"):
        assert values["clean"][key] == pytest.approx(metrics[key]["value"])


def test_workers_do_not_change_the_values(runs):
    before = saved(runs.first.folder)
    assert evaluated(runs.first.best_path, "--data.num_workers", "2") == 0
    assert saved(runs.first.folder) == before


def test_the_baseline_gives_the_mean_corruption_error(runs, capsys):
    values, baseline = saved(runs.second.folder), saved(runs.first.folder)
    errors = corruption_errors(values, baseline)
    assert {name: found["corruption_error"] for name, found in values["corruptions"].items()} == errors
    assert values["mean_corruption_error"] == pytest.approx(np.mean(list(errors.values())))
    assert values["baseline"] == str(runs.first.folder)
    assert evaluated(runs.second.best_path, "--data.num_workers", "0", "--baseline", str(runs.first.folder)) == 0
    said = capsys.readouterr().out
    assert f"{values['mean_corruption_error']:.1f} % of the errors of {runs.first.folder}" in said
    assert f"{errors['small_subject']:.1f} %" in next(line for line in said.splitlines() if "small subject" in line)


def test_python_gives_the_same_as_the_command_line(runs):
    wanted = saved(runs.second.folder)
    model = load_classifier(runs.second.best_path)
    found = evaluate_robustness(model, runs.second.data, baseline=runs.first.folder, accelerator="cpu")
    assert found == wanted == saved(runs.second.folder)
    assert main(["test", "--ckpt_path", str(runs.second.best_path), "--data.num_workers", "0"]) == 0  # the page


def test_the_page_has_a_section_and_figures(runs):
    folder = runs.second.folder / "evaluation" / "test"
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert '<h2 id="robustness">' in page
    assert f"<td>{saved(runs.second.folder)['corruptions']['jpeg']['mean_acc']:.3f}</td>" in page
    assert (folder / "figures" / "robustness.png").is_file()
    assert (folder / "figures" / "corruptions.png").is_file()


def test_a_later_test_keeps_the_section_of_the_same_model(runs):
    folder = runs.second.folder / "evaluation" / "test"
    args = ["test", "--ckpt_path", str(runs.second.best_path), "--data.num_workers", "0"]
    assert main(args) == 0
    assert '<h2 id="robustness">' in (folder / "report.html").read_text(encoding="utf-8")
    assert main([*args, "--prior", "train"]) == 0
    assert '<h2 id="robustness">' not in (folder / "report.html").read_text(encoding="utf-8")
    assert main(args) == 0


def test_another_dataset(runs):
    other = write_tree(runs.root / "other", {"cane": 3, "ragno": 2}, seed=5)
    assert evaluated(runs.first.best_path, "--data.test_root", str(other), "--data.num_workers", "0") == 0
    assert saved(runs.first.folder, "test-other")["images"] == 5


def test_a_baseline_on_other_images_is_refused(runs, capsys):
    other = write_tree(runs.root / "elsewhere" / "other", {"cane": 2, "ragno": 2}, seed=6)
    assert evaluated(runs.second.best_path, "--data.test_root", str(other), "--data.num_workers", "0") == 0
    shutil.rmtree(other)
    write_tree(other, {"cane": 3, "ragno": 2}, seed=6)
    options = ["--data.test_root", str(other), "--data.num_workers", "0", "--baseline", str(runs.second.folder)]
    capsys.readouterr()
    assert evaluated(runs.first.best_path, *options) == 2
    captured = capsys.readouterr()
    assert f"baseline={str(runs.second.folder)!r} was tested on other images" in captured.err
    assert "acc/test" not in captured.out  # before the test


def test_images_are_compared_by_their_contents(runs):
    first = Catalog(Path("a"), ["cane", "gatto"], ["cane/1.jpg", "gatto/2.jpg"], np.array([0, 1]), sha256=["x", "y"])
    moved = Catalog(Path("b"), ["cane", "gatto"], ["gatto/0.jpg", "cane/7.jpg"], np.array([1, 0]), sha256=["y", "x"])
    assert images_digest(moved) == images_digest(first)
    assert images_digest(replace(first, sha256=["x", "z"])) != images_digest(first)
    assert images_digest(replace(first, labels=np.array([1, 0]))) != images_digest(first)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--robustness", "--baseline", "NOWHERE"], "robustness.json' is missing"),
        (["--baseline", "NOWHERE"], "has no effect without --robustness"),
        (["--robustness", "--trainer.fast_dev_run", "true"], "robustness needs all images"),
    ],
)
def test_wrong_use_is_named(runs, capsys, options, reason):
    args = ["test", "--ckpt_path", str(runs.first.best_path), "--data.num_workers", "0"]
    assert main([*args, *options]) == 2
    assert reason in capsys.readouterr().err


def test_a_run_that_cannot_be_written_is_named(runs, tmp_path, capsys):
    copy = tmp_path / "version_0"
    copy.mkdir()
    for name in ("best.ckpt", "split.csv"):
        shutil.copyfile(runs.first.folder / name, copy / name)
    (copy / "evaluation").write_text("a file where the folder would be")
    assert evaluated(copy / "best.ckpt", "--data.num_workers", "0") == 2
    assert "robustness needs a folder for its files" in capsys.readouterr().err
