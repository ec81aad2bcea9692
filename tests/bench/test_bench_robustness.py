"""The benchmark of robustness over folds: the values of ``test --robustness``, and its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from image_trees import write_tree

from animals_pl import AnimalClassifier, AnimalsDataModule, evaluate_robustness, fit, load_classifier
from animals_pl.evaluation.robustness import corruption_errors, mean_corruption_error
from scripts.bench.robustness import main, spread


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> list[Path]:
    """Folders of two nets with one fold each, laid out as by ``scripts.bench.trust``."""
    root = tmp_path_factory.mktemp("folds")
    tree = write_tree(root / "raw-img", {"cane": 16, "gatto": 12, "ragno": 10})
    found = []
    for name, tta in (("small", "none"), ("large", "hflip")):
        data = AnimalsDataModule(str(tree), size=32, batch_size=16, num_workers=0, test_fraction=0.3)
        model = AnimalClassifier("test_resnet", freeze=True, weights=None, tta=tta)
        options = {"default_root_dir": str(root / name), "max_epochs": 1, "accelerator": "cpu", "name": "fold0"}
        run = fit(model, data, **options)
        shutil.copy(run.folder / "split.csv", root / name / "fold0.csv")
        found.append(root / name)
    return found


def test_values_are_those_of_the_test(folders, capsys):
    main([str(folder) for folder in folders])
    said = capsys.readouterr().out
    values = [json.loads((folder / "fold0-robustness.json").read_text()) for folder in folders]
    for folder, measured in zip(folders, values, strict=True):
        run = folder / "fold0" / "version_0"
        split, tree = str(run / "split.csv"), str(folder.parent / "raw-img")
        data = AnimalsDataModule(tree, size=32, split=split, num_workers=0)
        wanted = evaluate_robustness(load_classifier(run / "best.ckpt"), data, accelerator="cpu")
        assert measured == {key: wanted[key] for key in ("clean", "corruptions", "mean")}
    error = mean_corruption_error(corruption_errors(values[1], values[0]))
    assert f"| mean (mCE) | {error:.0f} ({error:.0f}–{error:.0f}) |" in said


def test_a_measured_fold_is_not_measured_again(folders):
    main([str(folder) for folder in folders])
    file = folders[0] / "fold0-robustness.json"
    marked = file.read_text() + "\n"
    file.write_text(marked)
    main([str(folder) for folder in folders])
    assert file.read_text() == marked


def test_mean_and_range() -> None:
    assert spread([0.8, 0.9, 0.85], 2) == "0.85 (0.80–0.90)"
    assert np.isnan(float(spread([None, 1.0], 1).split()[0]))
