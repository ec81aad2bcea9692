"""A small exported model."""

from __future__ import annotations

from pathlib import Path

import pytest

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.deploy.export import export


@pytest.fixture(scope="session")
def model(tiny_tree, tmp_path_factory) -> Path:
    """An exported file. Read only."""
    folder = tmp_path_factory.mktemp("classify")
    data = AnimalsDataModule(str(tiny_tree), size=32, num_workers=0)
    run = fit(AnimalClassifier("shallownet", lr=0.002), data, max_epochs=6, default_root_dir=str(folder))
    return export(run.best_path, folder / "model.onnx").path
