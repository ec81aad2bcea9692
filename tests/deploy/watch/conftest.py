"""A tiny exported model, a receiver of alerts, and short pauses."""

from __future__ import annotations

import _socket
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from watching import Receiver

from animals_pl import AnimalClassifier, AnimalsDataModule, Identifier, fit
from animals_pl.data.catalog import ANIMALS10
from animals_pl.deploy.export import export


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Try again at once, and connect to this machine only."""

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        assert address[0] == "127.0.0.1"
        _socket.socket.connect(self, address)  # what the fixture no_network has replaced

    monkeypatch.setattr(socket.socket, "connect", connect)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setattr("animals_pl.deploy.watch.background.FIRST_PAUSE", 0.02)
    monkeypatch.setattr("animals_pl.deploy.watch.background.LONGEST_PAUSE", 0.1)


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver that is up."""
    receiver = Receiver()
    receiver.up()
    yield receiver
    receiver.down()


@pytest.fixture(scope="session")
def model(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An exported file. Read only."""
    folder = tmp_path_factory.mktemp("watch")
    data = AnimalsDataModule(str(tiny_tree), size=32, num_workers=0)
    run = fit(AnimalClassifier("shallownet", lr=0.002), data, max_epochs=12, default_root_dir=str(folder))
    return export(run.best_path, folder / "model.onnx").path


@pytest.fixture(scope="session")
def identifier(model: Path) -> Identifier:
    """The same, loaded."""
    return Identifier(model)


@pytest.fixture(scope="session")
def certain(tiny_tree: Path, identifier: Identifier) -> dict[str, bytes]:
    """Class → content of the image with the highest probability of it."""
    predictions = identifier.predict(tiny_tree, top_k=10)
    best = {name: max(predictions, key=lambda one: dict(one.top)[name]) for name in ANIMALS10}
    return {name: Path(one.path).read_bytes() for name, one in best.items()}


@pytest.fixture
def card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to watch, in a current folder of its own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "card").mkdir()
    return tmp_path / "card"
