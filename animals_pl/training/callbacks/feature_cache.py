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

    That is: the backbone is frozen, photographs are not augmented, and their size stays the same. In every other
    case the callback does nothing.

    Args:
        console: Where the time it took is printed.
    """

    def __init__(self, console: Console) -> None:
        self.console = console

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compute the features and put them in place of the photographs."""
        data = trainer.datamodule
        sizes = {data.size_schedule(epoch) for epoch in range(max(1, trainer.max_epochs))}
        exact = getattr(pl_module.net, "freeze", False) and data.hparams["augment"] == "none" and sizes == {data.size}
        if not exact or trainer.world_size > 1:
            return
        began = time.perf_counter()
        loaders = {fold: data.evaluation_loader(fold) for fold in ("train", "val")}
        for fold, loader in loaders.items():
            features = self._extract(loader, trainer, pl_module)
            data.datasets[fold] = FeatureDataset(features, data.folds[fold].labels.tolist())
        data.num_workers = 0
        self.console.print(f"features of all photographs computed once in {time.perf_counter() - began:.1f} s\n")

    @torch.no_grad()
    def _extract(self, loader: DataLoader[Any], trainer: Any, module: Any) -> Tensor:
        """Return the features (N, F) of a loader's photographs."""
        module.eval()
        with trainer.precision_plugin.forward_context():
            rows = [module.net.forward_features(images.to(module.device)).cpu() for images, _ in loader]
        module.train()
        return torch.cat(rows)
