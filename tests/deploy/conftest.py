"""A small exported model, and a server of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, running_server

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.deploy.export import export


@pytest.fixture(scope="session")
def model(tiny_tree, tmp_path_factory) -> Path:
    """An exported file. Read only."""
    folder = tmp_path_factory.mktemp("classify")
    data = AnimalsDataModule(str(tiny_tree), size=32, num_workers=0)
    run = fit(AnimalClassifier("shallownet", lr=0.002), data, max_epochs=6, default_root_dir=str(folder))
    return export(run.best_path, folder / "model.onnx").path


@pytest.fixture
def server(model, loopback, tmp_path) -> Iterator[Server]:
    """A server with low limits."""
    limits = ("--max_mb", "5", "--max_requests", "4", "--timeout", "2")
    with running_server(model, *limits, log=tmp_path / "log") as found:
        yield found
