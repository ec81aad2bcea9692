"""Fixtures of all tests: a tiny ten-class tree of JPEG files, a cache of their own, no network."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"

import lightning  # noqa: F401 - before rich, see animals_pl/files.py
import pytest
import rich
import timm
import torch
from image_trees import write_tree
from matplotlib.figure import Figure
from safetensors.torch import save_file
from selenium.webdriver import Chrome, ChromeOptions, ChromeService

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10
from animals_pl.deploy.export import export

COUNTS = dict(zip(ANIMALS10, [8, 6, 5, 5, 6, 5, 5, 5, 7, 5], strict=True))
"""Images per class in the tiny tree: unequal on purpose."""


@pytest.fixture(scope="session")
def tiny_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A read-only tree of 57 images in Animals-10's ten folders."""
    return write_tree(tmp_path_factory.mktemp("tiny") / "raw-img", COUNTS)


@pytest.fixture
def make_tree(tmp_path: Path) -> Callable[..., Path]:
    """Return a function (name, counts, seed=0) that writes a tree of the test's own below ``tmp_path``."""
    return lambda name, counts, seed=0: write_tree(tmp_path / name, counts, seed)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Let tiny batches run on one core: beside other work, threads that wait for each other are slow."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def evaluated_run(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The read-only folder of an evaluated run, with an exported file."""
    data = AnimalsDataModule(str(tiny_tree), size=16, num_workers=0, test_fraction=0.2)
    root = tmp_path_factory.mktemp("runs")
    folder = fit(AnimalClassifier("shallownet"), data, max_epochs=2, default_root_dir=str(root)).folder
    assert folder is not None
    assert main(["validate", "--ckpt_path", str(folder / "best.ckpt")]) == 0
    export(folder / "best.ckpt", folder / "model.onnx")
    return folder


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what tests and shared fixtures compute out of the user's cache; the tests of one process share it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIMALS_PL_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        yield


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """Refuse every connection to another machine."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: object) -> None:
        if self.family == getattr(socket, "AF_UNIX", None):
            return connect(self, address)
        raise OSError(f"the tests have no network: {address}")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow connections again, to servers and browsers that a test starts."""
    monkeypatch.setattr(socket.socket, "connect", super(socket.socket, socket.socket).connect)


@pytest.fixture
def browser(tmp_path: Path, loopback: None) -> Iterator[Chrome]:
    """A headless browser, which saves downloads in ``tmp_path``."""
    program = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("there is no browser to drive; on Debian and Ubuntu: apt install chromium chromium-driver")
    options = ChromeOptions()
    options.binary_location = program
    for argument in ("headless", "no-sandbox", "disable-gpu", "disable-background-networking", "window-size=1300,1000"):
        options.add_argument(f"--{argument}")
    for argument in ("use-fake-device-for-media-stream", "use-fake-ui-for-media-stream"):  # a camera, permitted
        options.add_argument(f"--{argument}")
    mouse = "primaryHoverType=2,availableHoverTypes=2,primaryPointerType=4,availablePointerTypes=4"
    options.add_argument(f"--blink-settings={mouse}")
    options.add_experimental_option("prefs", {"download.default_directory": str(tmp_path)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with Chrome(options=options, service=ChromeService(driver)) as chrome:
        yield chrome


def shared_folder(variable: str, name: str) -> Path:
    """Return a folder beside the project that only some machines have, or skip the test."""
    folder = Path(os.environ.get(variable, Path(__file__).parents[2] / "shared" / name))
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent; set {variable} to a folder to run this test")
    return folder


@pytest.fixture(scope="session")
def animals10_root() -> Path:
    """Real Animals-10 images."""
    return shared_folder("ANIMALS10_ROOT", "animals10/raw-img")


@pytest.fixture(scope="session")
def weights_folder() -> Path:
    """Pretrained weights in timm's key layout."""
    return shared_folder("ANIMALS10_WEIGHTS", "weights")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file of random weights with a classifier of ImageNet's classes."""
    torch.manual_seed(8)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    return str(file)


@pytest.fixture(scope="module")
def small_figures() -> Iterator[None]:
    """Draw empty figures during training: the real ones take half of a short run's time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("animals_pl.training.callbacks.epoch_table.curves", lambda rows: Figure((1, 1)))
        patch.setattr("animals_pl.training.callbacks.tensorboard.confusion_matrix", lambda *args: Figure((1, 1)))
        yield


@pytest.fixture(scope="module")
def wide_screen() -> Iterator[None]:
    """Print on a screen that is wide enough for every line."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("COLUMNS", "400")
        rich.reconfigure()
        yield
    rich.reconfigure()
