"""Run every photograph through a frozen backbone once, then train the head on the features."""

from __future__ import annotations

import time
from typing import Any

import lightning as L
import torch
from rich.console import Console
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.sampling import SampleKey


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """Features in place of photographs, asked for by the same keys.

    Args:
        features: (N, F), one row per photograph of the fold.
        labels: N class indices.
    """

    def __init__(self, features: Tensor, labels: list[int]) -> None:
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.labels)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, int]:
        """Return the features (F,) and the label of a photograph."""
        index = key.index if isinstance(key, SampleKey) else key
        return self.features[index], self.labels[index]


class FeatureCache(L.Callback):
    """Replaces the datamodule's datasets by features where that changes nothing but the time.

    That is, with a frozen backbone: always for validation, and for training where photographs are not augmented
    and their size stays the same. With a backbone that learns, the callback does nothing.

    Args:
        console: Where the time that it took is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compute the features and put them in place of the photographs."""
        data = trainer.datamodule
        if not getattr(pl_module.net, "freeze", False) or trainer.world_size > 1:
            return
        sizes = {data.size_schedule(epoch) for epoch in range(max(1, trainer.max_epochs))}
        always_same = data.hparams["augment"] == "none" and sizes == {data.size}
        for fold in ("train", "val") if always_same else ("val",):
            began = time.perf_counter()
            features = self._extract(data.evaluation_loader(fold), trainer, pl_module)
            data.datasets[fold] = FeatureDataset(features, data.folds[fold].labels.tolist())
            seconds = time.perf_counter() - began
            self.console.print(f"{fold}: features of {len(features):,} photographs computed once in {seconds:.1f} s")

    @torch.no_grad()
    def _extract(self, loader: DataLoader[Any], trainer: Any, module: Any) -> Tensor:
        """Return the features (N, F) of a loader's photographs."""
        module.eval()
        with trainer.precision_plugin.forward_context():
            rows = [module.net.forward_features(images.to(module.device)).cpu() for images, _ in loader]
        module.train()
        return torch.cat(rows)
