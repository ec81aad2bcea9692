"""Precompute the features of a frozen backbone."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import PIL
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.resize import PREPROCESSING
from animals_pl.data.sampling import SampleKey
from animals_pl.errors import UsageError
from animals_pl.files import atomic_write, cache_dir, track
from animals_pl.training.callbacks.compilation import Compilation
from animals_pl.training.classifier import AnimalClassifier

_FORMAT = 2
"""Cache format version. Bump when the features of an unchanged image change."""

_CHECKED = 2
"""Images on which the fused backbone is compared with the original."""


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """Precomputed features, indexed by the same keys as the images.

    Args:
        features: (N, F), or (N, 2, F) with those of the horizontally flipped images, for test-time augmentation.
        labels: N class indices.
    """

    def __init__(self, features: Tensor, labels: list[int]) -> None:
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, int]:
        """Features (F,) or (2, F) of an image, and its label."""
        index = key.index if isinstance(key, SampleKey) else key
        return self.features[index], self.labels[index]


class FeatureFile:
    """Feature vectors in one file, each named by a 32-byte digest of its image.

    Args:
        file: A .safetensors file. A missing or damaged one counts as empty.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self.features = torch.empty(0, 0)
        self.rows: dict[bytes, int] = {}
        try:
            kept = load_file(file)
            names, self.features = kept["names"].numpy(), kept["features"]
            self.rows = {name.tobytes(): row for row, name in enumerate(names)}
        except (OSError, SafetensorError, KeyError):
            pass

    def take(self, names: Sequence[bytes]) -> Tensor:
        """Features (N, F) of known names."""
        return self.features[[self.rows[name] for name in names]]

    def add(self, names: Sequence[bytes], features: Tensor) -> None:
        """Add features (N, F) under names of 32 bytes and write the file."""
        self.features = torch.cat([self.features, features]) if self.rows else features
        self.rows |= {name: len(self.features) - len(names) + position for position, name in enumerate(names)}
        kept = {
            "names": torch.frombuffer(bytearray(b"".join(self.rows)), dtype=torch.uint8).reshape(-1, 32),
            "features": self.take(list(self.rows)),
        }
        try:
            with atomic_write(self.file) as partial:
                save_file(kept, partial)
        except (OSError, SafetensorError) as error:  # not fatal: the next run computes them again
            warnings.warn(
                f"the features cannot be cached in {str(self.file.parent)!r} ({error}). "
                "Set ANIMALS_PL_CACHE to a writable folder.",
                stacklevel=2,
            )

    def __str__(self) -> str:
        """Where the features are cached, and the size of the file."""
        return (
            f"cached in {self.file}, {self.file.stat().st_size / 1e6:.1f} MB" if self.file.is_file() else "not cached"
        )


class FeatureCache(L.Callback):
    """Replace a split's images with precomputed features of a frozen backbone.

    Validation features are always cached, training features unless images are augmented, mixed or resized
    progressively. Metrics are the same as without the cache. With a trainable backbone the callback does nothing.

    Features are stored in the cache folder, one file per backbone, weights and preprocessing, keyed by image content:
    another head, another split or a dataset with a few new images reuses them.
    """

    def on_fit_start(self, trainer: L.Trainer, pl_module: AnimalClassifier) -> None:  # type: ignore[override]
        """Compute missing features and replace the datasets."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not getattr(pl_module.net, "freeze", False) or trainer.world_size > 1:
            return
        sizes = {data.size_schedule(epoch) for epoch in range(max(1, trainer.max_epochs or 1))}
        if data.hparams["augment"] == "none" and pl_module.mixup_cutmix is None and sizes == {data.size}:
            if any(isinstance(callback, Compilation) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                raise UsageError(
                    "compile=true has no effect: the frozen backbone runs once, to compute its features. "
                    "Remove it, or set cache_features=false."
                )
            self._replace("train", trainer, pl_module)
        self._replace("val", trainer, pl_module)

    def _replace(self, split: str, trainer: L.Trainer, module: AnimalClassifier) -> None:
        """Replace a split's dataset with features."""
        began = time.perf_counter()
        data = trainer.datamodule  # type: ignore[attr-defined]
        file = FeatureFile(cache_dir() / "features" / _file_name(trainer, module))
        known = len(file.rows)
        names = [bytes.fromhex(sha256) for sha256 in data.catalogs[split].sha256]
        self._complete(file, split, names, trainer, module)
        features = file.take(names)
        if flips := split == "val" and module.hparams["tta"] == "hflip":
            flipped = [hashlib.sha256(name + b"hflip").digest() for name in names]
            self._complete(file, split, flipped, trainer, module, flip=True)
            features = torch.stack([features, file.take(flipped)], dim=1)
        data.datasets[split] = FeatureDataset(features, data.catalogs[split].labels.tolist())
        seconds = time.perf_counter() - began
        print(
            f"{split}: {len(names) * (1 + flips):,} feature vectors ({len(file.rows) - known:,} new, "
            f"{seconds:.1f} s), {file}",
        )

    def _complete(
        self,
        file: FeatureFile,
        split: str,
        names: list[bytes],
        trainer: L.Trainer,
        module: AnimalClassifier,
        flip: bool = False,
    ) -> None:
        """Compute the features that are missing in the file, and add them."""
        missing = [index for index, name in enumerate(names) if name not in file.rows]
        if not missing:
            return
        loader = trainer.datamodule.loader(split, missing)  # type: ignore[attr-defined]
        rows: list[Tensor] = []
        try:
            batches = _extract(loader, trainer, module, flip)
            rows.extend(track(batches, f"{split}: computing features", len(loader)))
        finally:  # keep what an interrupted run has computed
            if rows:
                computed = torch.cat(rows)
                file.add([names[index] for index in missing[: len(computed)]], computed)


def _file_name(trainer: L.Trainer, module: AnimalClassifier) -> str:
    """Cache key: hash of everything the features depend on except the images."""
    net, data = module.net, trainer.datamodule  # type: ignore[attr-defined]
    facts = [_FORMAT, net.name, net.pooled, trainer.precision, timm.__version__, PIL.__version__]
    facts += [data.hparams[key] for key in PREPROCESSING]
    digest = hashlib.sha256(repr(facts).encode())
    for part in (net.normalize, net.backbone):
        for name, tensor in part.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{net.name}-{data.size}-{digest.hexdigest()[:16]}.safetensors"


@torch.no_grad()
def _extract(loader: DataLoader[Any], trainer: L.Trainer, module: AnimalClassifier, flip: bool) -> Iterator[Tensor]:
    """Yield the features (B, F) of each batch, or of its horizontal flips, with the fused backbone."""
    net = None
    module.eval()
    for batch, _ in loader:
        images = batch.to(module.device, non_blocking=True)
        images = images.flip(3) if flip else images
        if net is None:
            net = module.net.for_inference(images[:_CHECKED]) if trainer.precision == "32-true" else module.net
        with trainer.precision_plugin.forward_context():
            yield net.forward_features(images).float().cpu()
    module.train()
