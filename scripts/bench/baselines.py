"""Baselines for ``cpu.py``: the same work in plain torch, and lower bounds on the time."""
# ruff: noqa: PLC0415 (a benchmark imports only what it needs: its memory is measured)

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, Dataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from animals_pl.data.catalog import scan_folder
from animals_pl.models.openvino import Precision
from scripts.bench import ours
from scripts.bench.ours import BATCH, CORES, SIZE, Measured, Options

RESIZE = (v2.Resize((SIZE, SIZE), antialias=True), v2.PILToTensor())
CROP = (v2.RandomResizedCrop(SIZE, scale=(0.5, 1.0), antialias=True), v2.RandomHorizontalFlip(), v2.PILToTensor())


def folder(options: Options, *steps: nn.Module) -> ImageFolder:
    """The images as a torchvision dataset."""
    return ImageFolder(str(options.root), v2.Compose(steps))


def batches(dataset: Dataset[Any], shuffle: bool = True) -> DataLoader[Any]:
    """A loader with the settings of all baselines."""
    return DataLoader(dataset, BATCH, shuffle, num_workers=CORES, persistent_workers=True)


def loader(transform: str, options: Options) -> Measured:
    """Images per second of torchvision's ImageFolder and transforms."""
    return ours.second_pass_speed(batches(folder(options, *(CROP if transform == "crop" else RESIZE)))), ""


def plain_fit(options: Options) -> Measured:
    """Seconds of a frozen fit that decodes and runs every image in every epoch, extrapolated from two epochs."""
    import lightning as L
    import timm

    class PlainClassifier(L.LightningModule):  # the obvious first version
        backbone: Any  # a timm model: nn.Module with forward_features

        def __init__(self, num_classes: int) -> None:
            super().__init__()
            self.backbone = timm.create_model(options.net, num_classes=0).eval().requires_grad_(False)
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(self.backbone.num_features, num_classes))
            self.ends: list[float] = []

        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                features = self.backbone.forward_features(images / 127.5 - 1).mean((2, 3))
            return self.head(features)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return cross_entropy(self(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", cross_entropy(self(batch[0]), batch[1]))

        def on_train_epoch_end(self) -> None:  # after the epoch's validation
            self.ends.append(time.perf_counter())

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.head.parameters(), lr=1e-3)

    start = time.perf_counter()
    dataset = folder(options, *RESIZE)
    train, val = random_split(dataset, [0.7, 0.3], torch.Generator().manual_seed(42))
    model = PlainClassifier(len(dataset.classes))
    trainer = L.Trainer(
        accelerator="cpu", max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False
    )
    trainer.fit(model, batches(train), batches(val, shuffle=False))
    first, later = model.ends[0] - start, model.ends[1] - model.ends[0]
    return first + (options.epochs - 1) * later, f"{first:.1f} s + {options.epochs - 1} × {later:.1f} s"


def bare_lightning(options: Options) -> Measured:
    """Seconds of Lightning's Trainer for the head alone: features in memory, no loggers, checkpoints or metrics."""
    import lightning as L
    import timm
    from torch.utils.data import TensorDataset

    class Head(L.LightningModule):
        def __init__(self, features: int, num_classes: int) -> None:
            super().__init__()
            self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(features, num_classes))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return cross_entropy(self.head(batch[0]), batch[1])

        def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
            self.log("val_loss", cross_entropy(self.head(batch[0]), batch[1]))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.Adam(self.parameters(), lr=1e-3)

    labels = torch.from_numpy(scan_folder(options.root).labels).long()
    width = cast(int, timm.create_model(options.net, num_classes=0).num_features)
    features = torch.randn(len(labels), width)
    train, val = random_split(TensorDataset(features, labels), [0.7, 0.3], torch.Generator().manual_seed(42))
    torch.set_num_threads(1)  # as animals_pl: quicker for such small tensors
    start = time.perf_counter()
    trainer = L.Trainer(
        accelerator="cpu",
        max_epochs=options.epochs,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(Head(features.shape[1], int(labels.max()) + 1), DataLoader(train, BATCH, True), DataLoader(val, BATCH))
    return time.perf_counter() - start, ""


def loop(options: Options) -> Measured:
    """Images per second of fine-tuning a timm net with a hand-written loop."""
    import timm

    dataset = folder(options, *RESIZE)
    net = timm.create_model(ours.SMALL, num_classes=len(dataset.classes))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)
    ends = []
    for _, (images, labels) in zip(range(ours.WARM_UP + ours.TIMED), batches(dataset), strict=False):
        loss = cross_entropy(net(images / 127.5 - 1), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        ends.append(ours.BatchEnd(time.perf_counter(), 0, len(labels), SIZE))
    return ours.images_per_second(ends), ""


def bare_torch(options: Options) -> Measured:
    """Seconds of decoding every image and running it once through the net, in torch."""
    from animals_pl.models import registry
    from animals_pl.training.malloc import set_malloc_thresholds

    set_malloc_thresholds()
    net = registry.build_net(options.net, 10, SIZE).eval().to(memory_format=torch.channels_last)
    return each_once(options, lambda images: net(images.contiguous(memory_format=torch.channels_last)))


def bare_onnx(options: Options) -> Measured:
    """Seconds of decoding every image and running it once through the net, in onnxruntime."""
    session = ours.onnx_session(options.scratch / f"{options.net}.onnx")
    return each_once(options, lambda images: session.run(["logits"], {"images": images.numpy()}))


def scan(options: Options) -> Measured:
    """Seconds of the scan of a dataset that is not in the cache."""
    from animals_pl.data.loading import load_dataset

    start = time.perf_counter()
    load_dataset(options.root)
    return time.perf_counter() - start, ""


def limit(precision: Precision, options: Options) -> Measured:
    """Seconds of decoding every image with all cores, plus seconds of a forward pass over them with all cores."""
    from animals_pl.models import registry
    from animals_pl.models.openvino import OpenVinoFeatures

    decoding, _ = each_once(options, len)
    images = torch.randint(0, 256, (BATCH, 3, SIZE, SIZE), dtype=torch.uint8)
    net = registry.build_net(options.net, 10, SIZE, freeze=True).eval()
    start = time.perf_counter()
    run = OpenVinoFeatures(net, images[:2], precision)
    conversion = time.perf_counter() - start
    count = -(-len(scan_folder(options.root).paths) // BATCH)
    start = time.perf_counter()
    for _ in run(images for _ in range(count)):
        pass
    forward = time.perf_counter() - start
    return decoding + forward, f"decode {decoding:.1f} s, forward {forward:.1f} s; conversion {conversion:.1f} s"


def each_once(options: Options, predict: Callable[[Tensor], object]) -> Measured:
    """Seconds of decoding every image in two workers and predicting in batches."""
    from animals_pl.data.dataset import AnimalsDataset
    from animals_pl.data.resize import Resize

    start = time.perf_counter()
    with torch.inference_mode():
        for images, _ in batches(AnimalsDataset(scan_folder(options.root), Resize(), SIZE), shuffle=False):
            predict(images)
    return time.perf_counter() - start, ""
