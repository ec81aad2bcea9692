"""Run every photograph through a frozen backbone once, then train the head on the features."""

from __future__ import annotations

import hashlib
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import albumentations
import lightning as L
import PIL
import timm
import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.manifest import cache_folder
from animals_pl.data.sampling import SampleKey
from animals_pl.errors import UsageError

_FORMAT = 1
"""To be raised when the same photograph comes to have other features: older files are then left alone."""

_CHECKED = 2
"""Photographs on which a quicker backbone is compared with the net's own."""


class FeatureDataset(Dataset[tuple[Tensor, int]]):
    """Features in place of photographs, asked for by the same keys.

    Args:
        features: (V, N, F): V views of each photograph of the fold. Epoch e, and the r-th time that it draws a
            photograph again, take view (e + r) mod V: with as many views as epochs, each what it would have been.
        labels: N class indices.
        mirrored: (N, F) features of the mirror images, to be given beside those of the photographs.
    """

    def __init__(self, features: Tensor, labels: list[int], mirrored: Tensor | None = None) -> None:
        self.features = features
        self.labels = labels
        self.mirrored = mirrored

    def __len__(self) -> int:
        """Return the number of photographs."""
        return len(self.labels)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, int]:
        """Return the features (F,), or (2, F) with the mirror image's, and the label of a photograph."""
        index, view = (key.index, key.epoch + key.repeat) if isinstance(key, SampleKey) else (key, 0)
        features = self.features[view % len(self.features), index]
        if self.mirrored is not None:
            features = torch.stack([features, self.mirrored[index]])
        return features, self.labels[index]


class FeatureFile:
    """Features of photographs, each under its name, in one file that grows with every run that needs others.

    Args:
        file: A .safetensors file; one that is absent or damaged counts as empty.
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
        """Return the features (N, F) of photographs that are all known."""
        return self.features[[self.rows[name] for name in names]]

    def add(self, names: Sequence[bytes], features: Tensor) -> None:
        """Add features (N, F) under names of 32 bytes, and write the file, whole or not at all."""
        self.features = torch.cat([self.features, features]) if self.rows else features
        self.rows |= {name: len(self.features) - len(names) + position for position, name in enumerate(names)}
        order = sorted(self.rows, key=self.rows.__getitem__)
        kept = {
            "names": torch.frombuffer(bytearray(b"".join(order)), dtype=torch.uint8).reshape(-1, 32),
            "features": self.take(order),
        }
        partial = self.file.with_name(f"{self.file.name}.{os.getpid()}.partial")
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file(kept, partial)
            partial.replace(self.file)
        except (OSError, SafetensorError) as error:  # the next run computes them again, which is no reason to stop
            with suppress(OSError):
                partial.unlink()
            warnings.warn(
                f"the features cannot be kept in {str(self.file.parent)!r} ({error}); "
                "set ANIMALS_PL_CACHE to a folder that can be written",
                stacklevel=2,
            )

    def __str__(self) -> str:
        """Return where the file is and how large."""
        return f"{self.file}, {self.file.stat().st_size / 1e6:.1f} MB" if self.file.is_file() else "not kept"


class FeatureCache(L.Callback):
    """Replaces the datamodule's datasets by features where that changes nothing but the time.

    That is, with a frozen backbone: always for validation, and for training where photographs are not augmented
    and their size stays the same. With a backbone that learns, the callback does nothing.

    Features are kept in ``features`` in the cache folder, one file per backbone, weights and transform, by the
    photographs' contents: another head, another split and a dataset with some new photographs find theirs there.

    Args:
        console: Where the time that it took is printed.
        views: With augmentation: that many augmented views of each training photograph pass the backbone, in whose
            features the epochs take turns. 0: new ones in every epoch, each through the backbone.
    """

    def __init__(self, console: Console, views: int = 0) -> None:
        self.console = console
        self.views = views

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Compute the features that are not known yet and put them in place of the photographs.

        Raises:
            UsageError: There are no augmented views of constant size to keep, or several processes to share them.
        """
        data, net = trainer.datamodule, pl_module.net
        frozen = getattr(net, "freeze", False)
        augmented = data.hparams["augment"] != "none"
        blended = pl_module.mixing is not None  # pairs of images, which no features of one can replace
        constant = {data.size_schedule(epoch) for epoch in range(max(1, trainer.max_epochs))} == {data.size}
        if self.views and not (frozen and augmented and constant and trainer.world_size == 1 and not blended):
            raise UsageError(
                f"cached_views={self.views} has no effect: it needs one process, model.freeze=true, an augmentation "
                "(data.augment; neither mixup nor cutmix) and one image size; leave it out"
            )
        if not frozen or trainer.world_size > 1:
            return
        if constant and (self.views or not augmented) and not blended:
            self._replace("train", self.views, trainer, pl_module)
        self._replace("val", 0, trainer, pl_module)

    def _replace(self, fold: str, views: int, trainer: Any, module: Any) -> None:
        """Put the features of a fold's photographs, or of augmented views of each, in place of the photographs."""
        began = time.perf_counter()
        data = trainer.datamodule
        file = FeatureFile(cache_folder() / "features" / _file_name(trainer, module, views > 0))
        known = len(file.rows)
        keys, names = _samples(data, fold, views)
        self._complete(file, fold, keys, names, trainer, module)
        mirrored_names = []
        if fold == "val" and module.hparams["flips"]:
            mirrored_names = [hashlib.sha256(name + b"mirrored").digest() for name in names]
            self._complete(file, fold, keys, mirrored_names, trainer, module, mirror=True)
        labels = data.folds[fold].labels.tolist()
        features = file.take(names).reshape(max(1, views), len(labels), -1)
        data.datasets[fold] = FeatureDataset(features, labels, file.take(mirrored_names) if mirrored_names else None)
        kind = f" in {views} views" if views else " and their mirror images" if mirrored_names else ""
        self.console.print(
            f"{fold}: features of {len(labels):,} photographs{kind}, "
            f"{len(file.rows) - known:,} computed in {time.perf_counter() - began:.1f} s; {file}",
            highlight=False,
            soft_wrap=True,
        )

    def _complete(
        self, file: FeatureFile, fold: str, keys: list[Any], names: list[bytes], trainer: Any, module: Any, **how: bool
    ) -> None:
        """Compute the features of those samples whose names the file does not know, and add them to it."""
        absent = [position for position, name in enumerate(names) if name not in file.rows]
        if not absent:
            return
        loader = trainer.datamodule.loader(fold, [keys[position] for position in absent])
        rows: list[Tensor] = []
        try:
            for features in track(
                _extract(loader, trainer, module, **how),
                f"{fold}: photographs through the backbone",
                len(loader),
                console=self.console,
                transient=True,
                disable=not self.console.is_terminal,
            ):
                rows.append(features)
        finally:  # what an interrupted run has done is there for the next one
            if rows:
                computed = torch.cat(rows)
                file.add([names[position] for position in absent[: len(computed)]], computed)


def _samples(data: Any, fold: str, views: int) -> tuple[list[Any], list[bytes]]:
    """Return the keys of a fold's photographs, or of augmented views of them, and a name of 32 bytes for each."""
    contents = [bytes.fromhex(content) for content in data.folds[fold].contents]
    if not views:
        return list(range(len(contents))), contents
    keys = [SampleKey(index, view, 0, data.size) for view in range(views) for index in range(len(contents))]
    # What the augmentation does depends on the photograph's number, too.
    return keys, [hashlib.sha256(contents[key.index] + f"{key.index} {key.epoch}".encode()).digest() for key in keys]


def _file_name(trainer: Any, module: Any, augmented: bool) -> str:
    """Return a name that tells all that features depend on, apart from the photographs."""
    net, data = module.net, trainer.datamodule
    facts = [_FORMAT, net.name, net.pooled, trainer.precision, timm.__version__, PIL.__version__]
    facts += [data.hparams[key] for key in ("size", "resize", "interpolation", "crop_fraction")]
    if augmented:
        policy = data.augmentation.file
        facts += [data.hparams[key] for key in ("augment", "seed")]
        facts += [albumentations.__version__, policy and policy.read_text()]
    digest = hashlib.sha256(repr(facts).encode())
    for part in (net.normalize, net.backbone):
        for name, tensor in part.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
    return f"{net.name}-{data.size}-{digest.hexdigest()[:16]}.safetensors"


@torch.no_grad()
def _extract(loader: DataLoader[Any], trainer: Any, module: Any, mirror: bool = False) -> Iterator[Tensor]:
    """Yield the features (B, F) of each batch, or of its mirror images, from the quickest backbone that gives the same.

    Measured on two cores at 224 px with MobileNetV3-Large, images per second: 27 in plain eager torch, 112
    channels-last with freed memory kept (see ``allocator``), 160 with BatchNorm folded, too, which is what this does.
    onnxruntime reaches 210 and torch.compile 190, after 8 and 40 seconds of preparation that do not pay below some
    6,000 and 50,000 photographs.
    """
    net = None
    module.eval()
    for batch, _ in loader:
        images = batch.to(module.device, non_blocking=True)
        images = images.flip(3) if mirror else images
        if net is None:
            net = module.net.for_extraction(images[:_CHECKED]) if trainer.precision == "32-true" else module.net
        with trainer.precision_plugin.forward_context():
            yield net.forward_features(images).float().cpu()
    module.train()
