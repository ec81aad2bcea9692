"""Precompute the features of a frozen backbone."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning as L
import PIL
import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import Dataset

from animals_pl.data.resize import PREPROCESSING
from animals_pl.data.sampling import SampleKey
from animals_pl.errors import UsageError
from animals_pl.files import atomic_write, cache_dir, track
from animals_pl.models.openvino import Precision, computes_in_bf16
from animals_pl.training.callbacks.compilation import Compilation
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.extraction import Extractor
from animals_pl.training.processes import gather

_FORMAT = 4
"""Cache format version. Bump when the features of an unchanged image change."""

SMALL_HEAD = 2**20
"""Parameters up to which a head is trained with one thread. More threads are slower with such small tensors, and much
slower while another program uses a core, since the threads wait for each other in every operation."""


class FeatureDataset(Dataset[tuple[Tensor, Tensor]]):
    """Precomputed features, indexed by the same keys as the images.

    Args:
        features: (N, F), or (N, 2, F) with those of the horizontally flipped images, for test-time augmentation.
        labels: Class indices (N,).
    """

    def __init__(self, features: Tensor, labels: Tensor) -> None:
        self.features = features
        self.labels = labels

    def __len__(self) -> int:
        """Number of images."""
        return len(self.labels)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, Tensor]:
        """Features (F,) or (2, F) of an image, and its label ()."""
        index = key.index if isinstance(key, SampleKey) else key
        return self.features[index], self.labels[index]

    def __getitems__(self, keys: Sequence[SampleKey | int]) -> tuple[Tensor, Tensor]:
        """Batch of features and labels (B,); torch calls it if it exists. Already collated, see :attr:`collate_fn`."""
        indices = [key.index if isinstance(key, SampleKey) else key for key in keys]
        return self.features[indices], self.labels[indices]

    @staticmethod
    def collate_fn(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the batch: stacking samples one by one takes as long as a training step of a head."""
        return batch


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
        """Add features (N, F) under names of 32 bytes."""
        self.features = torch.cat([self.features, features]) if self.rows else features
        self.rows |= {name: len(self.features) - len(names) + position for position, name in enumerate(names)}

    def save(self) -> None:
        """Write the file."""
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
    another head, another split or a dataset with a few new images reuses them. With several processes, each computes a
    share of the missing features and receives those of the others.

    Args:
        precision: Precision of the backbone on a CPU with OpenVINO, see :class:`Extractor`.

    Attributes:
        extractor: Computes the features of this run; ``None`` before training, and with a trainable backbone.
        trains_on_features: Whether the training images are replaced, too.

    Raises:
        UsageError: ``precision`` or torch.compile has no effect.
    """

    def __init__(self, precision: Precision = "float32") -> None:
        self.precision = precision
        self.extractor: Extractor | None = None
        self.trains_on_features = False
        self._threads = torch.get_num_threads()

    def on_fit_start(self, trainer: L.Trainer, pl_module: AnimalClassifier) -> None:  # type: ignore[override]
        """Compute missing features and replace the datasets."""
        data = trainer.datamodule  # type: ignore[attr-defined]
        if not getattr(pl_module.net, "freeze", False):
            if self.precision != "float32":
                raise UsageError(
                    f"extract_precision={self.precision} has no effect: it is for the cached features of a frozen "
                    "backbone. Remove it, or set model.freeze=true."
                )
            return
        self.extractor = extractor = self._extractor(trainer, pl_module)
        sizes = {data.size_schedule(epoch) for epoch in range(max(1, trainer.max_epochs or 1))}
        if data.hparams["augment"] == "none" and pl_module.mixup_cutmix is None and sizes == {data.size}:
            if any(isinstance(callback, Compilation) for callback in trainer.callbacks):  # type: ignore[attr-defined]
                raise UsageError(
                    "compile=true has no effect: the frozen backbone runs once, to compute its features. "
                    "Remove it, or set cache_features=false."
                )
            _replace(data, "train", extractor)
            self.trains_on_features = True
        if "val" in data.catalogs:  # not in a refit
            _replace(data, "val", extractor, hflip=pl_module.hparams["tta"] == "hflip")

    def on_train_start(self, trainer: L.Trainer, pl_module: AnimalClassifier) -> None:  # type: ignore[override]
        """Use one thread for a small head."""
        self._threads = torch.get_num_threads()
        head = sum(parameter.numel() for parameter in pl_module.parameters() if parameter.requires_grad)
        if self.trains_on_features and head <= SMALL_HEAD:
            torch.set_num_threads(1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Restore the number of threads."""
        torch.set_num_threads(self._threads)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Restore the number of threads."""
        torch.set_num_threads(self._threads)

    def _extractor(self, trainer: L.Trainer, module: AnimalClassifier) -> Extractor:
        context = None if trainer.precision == "32-true" else trainer.precision_plugin.forward_context
        extractor = Extractor(module.net, module.device, self.precision, context)
        if self.precision == "bf16" and not (extractor.uses_openvino and computes_in_bf16()):
            raise UsageError(
                "extract_precision=bf16 needs OpenVINO (pip install 'animals_pl[openvino]'), a CPU with bfloat16 "
                "instructions, trainer.accelerator=cpu and trainer.precision=32-true. Remove it."
            )
        return extractor


def _replace(data: Any, split: str, extractor: Extractor, hflip: bool = False) -> None:
    """Replace a split's dataset with its features."""
    features = split_features(data, split, extractor, hflip)
    data.datasets[split] = FeatureDataset(features, torch.tensor(data.catalogs[split].labels, dtype=torch.int64))


def split_features(data: Any, split: str, extractor: Extractor, hflip: bool = False) -> Tensor:
    """Features (N, F) of a split's images, from the cache where possible.

    With ``hflip``, (N, 2, F): also those of the horizontally flipped images.
    """
    began = time.perf_counter()
    file = FeatureFile(cache_dir() / "features" / _file_name(data, extractor))
    known = len(file.rows)
    names = [bytes.fromhex(sha256) for sha256 in data.catalogs[split].sha256]
    _complete(file, data, split, names, extractor)
    features = file.take(names)
    if hflip:
        flipped = [hashlib.sha256(name + b"hflip").digest() for name in names]
        _complete(file, data, split, flipped, extractor, hflip=True)
        features = torch.stack([features, file.take(flipped)], dim=1)
    new = len(file.rows) - known
    how = f", {time.perf_counter() - began:.1f} s, {extractor.engine}" if new else ""
    if data.trainer.is_global_zero:
        print(f"{split}: {len(names) * (1 + hflip):,} feature vectors ({new:,} new{how}), {file}")
    return features


def _complete(
    file: FeatureFile, data: Any, split: str, names: list[bytes], extractor: Extractor, hflip: bool = False
) -> None:
    """Compute the features whose names the file does not have, and add them to it."""
    trainer = data.trainer
    lacking = [index for index, name in enumerate(names) if name not in file.rows]
    missing = sorted(set().union(*gather(lacking)))  # the caches of several machines may differ
    if not missing:
        return
    mine = missing[trainer.global_rank :: trainer.world_size]
    loader = data.inference_loader(split, mine)
    rows: list[Tensor] = []
    parts: list[tuple[list[int], Tensor]] = []
    try:
        batches = extractor(images.flip(3) if hflip else images for images, _ in loader)
        rows.extend(track(batches, f"{split}: computing features", len(loader)))
        parts = gather((mine, torch.cat(rows) if rows else torch.empty(0)))
    finally:
        if rows and not parts:  # keep what an interrupted run has computed
            computed = torch.cat(rows)
            parts = [(mine[: len(computed)], computed)]
        indices = [index for indices, _ in parts for index in indices]
        if indices:
            file.add([names[index] for index in indices], torch.cat([part for _, part in parts if len(part)]))
            if trainer.local_rank == 0:
                file.save()


def _file_name(data: Any, extractor: Extractor) -> str:
    """Cache key: hash of everything the features depend on except the images."""
    net = extractor.net
    facts = [_FORMAT, net.name, net.pooled, extractor.engine, data.trainer.precision, timm.__version__, PIL.__version__]
    facts += [data.hparams[key] for key in PREPROCESSING]
    digest = hashlib.sha256(repr(facts).encode())
    for part in (net.normalize, net.backbone):
        for name, tensor in part.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{net.name}-{data.size}-{digest.hexdigest()[:16]}.safetensors"
