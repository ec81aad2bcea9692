"""The main job on real images: the reference's small frozen network, with and without class weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from animals_pl.cli import main
from animals_pl.training.metrics_csv import Row, read_metrics

CONFIG = Path(__file__).parents[1] / "configs" / "mobilenetv3_small_frozen.yaml"


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> None:
    """Not here: batches of real images are worth every core."""


def best_epoch(output: Path, root: Path, weights: Path, *options: str) -> Row:
    command = ["fit", "--config", str(CONFIG), "--data.root", str(root), "--trainer.default_root_dir", str(output)]
    command += ["--model.weights", str(weights), "--trainer.max_epochs", "15", *options]
    assert main(command) == 0
    return min(
        read_metrics(output / "mobilenetv3_small_frozen" / "version_0" / "metrics.csv"), key=lambda r: r["loss/val"]
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_class_weights_find_the_rare_animals(tmp_path: Path, animals10_root: Path, weights_folder: Path) -> None:
    weights = weights_folder / "tf_mobilenetv3_small_100.safetensors"
    weighted = best_epoch(tmp_path / "weighted", animals10_root, weights)
    plain = best_epoch(tmp_path / "plain", animals10_root, weights, "--model.class_weights", "none")
    assert weighted["acc/val"] >= 0.90
    assert weighted["macro_recall/val"] >= 0.83
    assert plain["macro_recall/val"] <= weighted["macro_recall/val"] - 0.03
