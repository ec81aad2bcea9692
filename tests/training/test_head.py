"""train_head gives the weights of fit, without a Trainer."""

from __future__ import annotations

from pathlib import Path

import lightning as L
import pytest
import torch

from animals_pl import AnimalClassifier, AnimalsDataModule
from animals_pl.training.head import train_head
from animals_pl.training.run import fit
from animals_pl.training.trained import load_classifier

pytestmark = pytest.mark.usefixtures("small_figures")


class KeepFeatures(L.Callback):
    """Keeps the cached features and the initial state of the net."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.dataset = trainer.datamodule.datasets["train"]
        self.initial = {key: value.clone() for key, value in pl_module.net.state_dict().items()}


@pytest.mark.parametrize(
    ("options", "sampling"),
    [
        ({"schedule": "cosine", "loss": "logit_adjusted"}, "shuffle"),
        ({"head": "dense", "class_weights": "balanced", "weight_decay": 0.1, "warmup_epochs": 1}, "weighted_sqrt"),
        ({"optimizer": "sgd", "label_smoothing": 0.1, "head_decay": 0.1}, "weighted"),
    ],
)
def test_the_weights_are_those_of_fit(tiny_tree, tmp_path, options, sampling):
    torch.manual_seed(0)
    data = AnimalsDataModule(str(tiny_tree), size=32, batch_size=16, num_workers=0, seed=3, sampling=sampling)
    model = AnimalClassifier("test_resnet", freeze=True, dropout=0.5, **options)
    kept = KeepFeatures()
    run = fit(model, data, callbacks=[kept], max_epochs=3, default_root_dir=str(tmp_path), accelerator="cpu")
    expected = last_weights(run.last_path)
    again = load_classifier(run.last_path)
    again.set_data(data.info)
    again.net.load_state_dict(kept.initial)
    labels = data.catalogs["train"].labels
    train_head(again, kept.dataset.features, labels, epochs=3, batch_size=16, seed=3)
    assert not torch.equal(
        again.net.head[-1].weight, kept.initial["head.1.weight" if "head" not in options else "head.3.weight"]
    )
    for key, value in again.net.state_dict().items():
        torch.testing.assert_close(value, expected[f"net.{key}"], rtol=0, atol=0, msg=key)


def last_weights(file: Path) -> dict[str, torch.Tensor]:
    return torch.load(file, weights_only=True)["state_dict"]
