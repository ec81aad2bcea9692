"""Files for TensorBoard's embedding projector, and columns of its HPARAMS tab."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from image_trees import write_tree
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from animals_pl import AnimalClassifier, AnimalsDataModule, fit, load_model
from animals_pl.cli import main
from animals_pl.reports import projector
from animals_pl.training.board import TEST_GROUP


def run_of(tmp_path: Path, net: str) -> Any:
    tree = write_tree(tmp_path / "images", {"cane": 20, "a\tb": 12})
    data = AnimalsDataModule(str(tree), size=32, batch_size=16, num_workers=0, val_fraction=0.5, test_fraction=0.2)
    return fit(AnimalClassifier(net), data, default_root_dir=str(tmp_path / "runs"), max_epochs=1, accelerator="cpu")


@pytest.mark.parametrize(("net", "wide"), [("test_resnet", False), ("shallownet", True)])
def test_the_projector_has_the_features_of_the_validation_images(tmp_path, monkeypatch, net, wide):
    monkeypatch.setattr(projector, "MAX_IMAGES", 10)
    run = run_of(tmp_path, net)
    assert main(["validate", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    folder = run.folder / "evaluation" / "val"
    catalog, model = run.data.catalogs["val"], load_model(run.best_path)
    shown = np.linspace(0, len(catalog.paths) - 1, 10).astype(int)
    images = torch.cat(list(model.batches(catalog, num_workers=0)))[shown]
    with torch.inference_mode():
        features = model.net(images) if wide else model.net.forward_features(images)
    assert np.loadtxt(folder / "features.tsv", delimiter="\t") == pytest.approx(features.numpy(), rel=1e-3, abs=1e-4)
    header, *rows = [line.split("\t") for line in (folder / "labels.tsv").read_text().splitlines()]
    assert header == ["class", "prediction", "path"]
    names = ["a\\tb", "dog"]
    assert [row[0] for row in rows] == [names[label] for label in catalog.labels[shown]]
    assert [row[2].replace("\\t", "\t") for row in rows] == [catalog.paths[index] for index in shown]
    sprite = np.asarray(Image.open(folder / "sprite.png"))
    assert sprite.shape == (4 * 64, 4 * 64, 3)  # the smallest square for 10 thumbnails
    second = sprite[:64, 64:128].mean((0, 1))
    assert second == pytest.approx(images[1].float().mean((1, 2)).numpy(), abs=3)
    assert (sprite[-64:, -64:] == 255).all()


def test_test_metrics_are_in_the_group_that_the_experiment_names(tmp_path):
    run = run_of(tmp_path, "shallownet")
    metadata = EventAccumulator(str(run.folder)).Reload().summary_metadata
    experiment = HParamsPluginData.FromString(metadata["_hparams_/experiment"].plugin_data.content).experiment
    tested = {info.name.tag for info in experiment.metric_infos if info.name.group == TEST_GROUP}
    assert tested == {"acc/test", "macro_recall/test", "macro_f1/test"}
    started = HParamsPluginData.FromString(metadata["_hparams_/session_start_info"].plugin_data.content)
    assert started.session_start_info.group_name == "run/version_0"
    assert main(["test", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    events = EventAccumulator(str(run.folder / TEST_GROUP)).Reload()
    found = {tag: events.Scalars(tag)[0].value for tag in tested}
    expected = run.test()
    assert found == pytest.approx({tag: expected[tag] for tag in tested}, abs=1e-6)
