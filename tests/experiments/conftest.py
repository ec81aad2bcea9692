"""Study files on a tiny tree, a training that takes no time, and runs written by hand."""

from __future__ import annotations

import csv
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import run_folders

from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10
from animals_pl.experiments import fold_fits


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[[str], Path]:
    """Return a function that writes a study file."""

    def write(content: str) -> Path:
        file = tmp_path / "tiny.yaml"
        file.write_text(content)
        return file

    return write


class FakeTraining:
    """Replaces ``run``: predictions are right where ``is_right(options)``; ``fits`` lists (variant, fold)."""

    def __init__(self) -> None:
        self.fits: list[tuple[str, str]] = []
        self.is_right: Callable[[dict[str, str]], bool] = lambda options: True

    def __call__(self, args: Sequence[str], callbacks: Sequence[fold_fits.SavePredictions]) -> None:
        options = dict(zip(args[1::2], args[2::2], strict=True))
        split = Path(options["--data.split"])
        right = self.is_right(options)
        with split.open() as stream:
            names = [Path(row["path"]).parent.name for row in csv.DictReader(stream) if row["split"] == "val"]
        labels = np.array([list(ANIMALS10).index(name) for name in names])
        np.savez(callbacks[0].file, classes=labels if right else 0 * labels, seconds=1.0)
        self.fits.append((options["--name"], split.stem))


@pytest.fixture
def fake_training(monkeypatch: pytest.MonkeyPatch) -> FakeTraining:
    """Train in no time."""
    fake = FakeTraining()
    monkeypatch.setattr(fold_fits, "run", fake)
    return fake


@pytest.fixture
def write_run(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes a run below ``tmp_path / "runs"`` as fit would."""
    return partial(run_folders.write_run, tmp_path / "runs")


@pytest.fixture
def reported(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Return a function that reports on the runs written by hand and returns what was printed."""

    def run(*args: object, width: int = 200) -> str:
        monkeypatch.setenv("COLUMNS", str(width))
        assert main(["report", *map(str, (tmp_path / "runs", *args))]) == 0
        output = capsys.readouterr()
        assert output.err == ""
        return output.out

    return run
