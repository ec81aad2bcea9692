"""What ``cpu.py`` measures of this project."""
# ruff: noqa: PLC0415 (a subject imports only what it needs: its memory is measured)

from __future__ import annotations

import itertools
import json
import time
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

from scripts.bench.common import (
    BATCH,
    CORES,
    PROJECT,
    SIZE,
    SMALL,
    TIMED,
    WARM_UP,
    BatchEnd,
    Measured,
    Options,
    images_per_second,
    inference_speed,
    onnx_session,
    second_pass_speed,
)

SIZES = (128, 160, 192, 224)
PIXELS = sum(size**2 for size in SIZES) / len(SIZES) / SIZES[-1] ** 2
"""Pixels of training at these sizes, relative to training at the last."""


def fit(options: Options, net: str, *more: object, weights: Path | None = None) -> Measured:
    """Seconds of ``fit`` on the CPU, from its arguments to its best checkpoint, without imports."""
    from animals_pl.lightning_cli import run

    start = time.perf_counter()
    args = ["fit", "--config", PROJECT / "configs" / "mobilenetv3_large_frozen.yaml", "--name", options.subject]
    args += ["--data.root", options.root, "--data.num_workers", CORES, "--trainer.accelerator", "cpu"]
    args += ["--trainer.default_root_dir", options.scratch, "--model.net", net, "--model.weights", weights or "null"]
    run([str(arg) for arg in [*args, *more]])
    return time.perf_counter() - start, ""


def frozen_fit(options: Options) -> Measured:
    """Seconds of training the head of a frozen backbone."""
    return fit(options, options.net, "--trainer.max_epochs", options.epochs, weights=options.weights)


def memory_fit(freeze: str, epochs: int, options: Options) -> Measured:
    """Seconds of a fit whose memory is compared; fine-tuning takes 20 batches per epoch."""
    limits = ["--trainer.limit_train_batches", TIMED, "--trainer.limit_val_batches", 5] if freeze == "false" else []
    return fit(options, SMALL, "--model.freeze", freeze, "--trainer.max_epochs", epochs, *limits)


def export_net(net: str | None, options: Options) -> Measured:
    """Seconds of writing ``NET.onnx`` with random weights, for other subjects."""
    from animals_pl.deploy.export import export

    net = net or options.net
    seconds, _ = fit(
        options,
        *(net, "--trainer.max_epochs", 1, "--cache_features", "false", "--data.batch_size", 8),
        *("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1),
    )
    start = time.perf_counter()
    export(str(options.scratch / options.subject / "version_0" / "last.ckpt"), str(options.scratch / f"{net}.onnx"))
    return seconds + time.perf_counter() - start, ""


def loader(augment: str, options: Options) -> Measured:
    """Images per second of the training batches of all images, with running workers."""
    from animals_pl.data.datamodule import AnimalsDataModule

    data = AnimalsDataModule(str(options.root), SIZE, batch_size=BATCH, augment=augment, num_workers=CORES)
    data.setup("fit")
    data.catalogs["train"] = data.catalog
    data.datasets["train"] = data.dataset("train")
    return second_pass_speed(data.train_dataloader()), ""


def train(options: Options, *more: object) -> list[BatchEnd]:
    """Fine-tune all layers of the small net; the end of each training batch."""
    from animals_pl.training.classifier import AnimalClassifier

    ends = []

    def note(self: AnimalClassifier, outputs: Any, batch: Any, batch_idx: int) -> None:
        ends.append(BatchEnd(time.perf_counter(), self.current_epoch, len(batch[0]), batch[0].shape[-1]))

    with mock.patch.object(AnimalClassifier, "on_train_batch_end", note):
        fit(options, SMALL, "--model.freeze", "false", "--trainer.limit_val_batches", 1, *more)
    return ends


def finetune(options: Options) -> Measured:
    """Images per second of fine-tuning all layers."""
    ends = train(options, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", WARM_UP + TIMED)
    return images_per_second(ends), ""


def progressive(options: Options, rounds: int = 2) -> Measured:
    """Mean time per batch of four sizes that take turns, relative to the largest size."""
    ends = train(
        options,
        *("--trainer.callbacks+", "ProgressiveResizing", "--trainer.callbacks.sizes", json.dumps(SIZES * rounds)),
        *("--trainer.max_epochs", rounds * len(SIZES), "--trainer.limit_train_batches", WARM_UP + TIMED // 2),
    )
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _, group in itertools.groupby(ends, lambda end: end.epoch):
        epoch = list(group)
        times[epoch[0].size].append(BATCH / images_per_second(epoch))
    seconds = {size: median(values) for size, values in times.items()}
    each = ", ".join(f"{value:.3f} s at {size} px" for size, value in seconds.items())
    return sum(seconds.values()) / len(SIZES) / seconds[SIZES[-1]], f"a batch takes {each}; pixels: {PIXELS:.3f}"


def onnx_inference(images: int, options: Options) -> Measured:
    """Speed of the exported file in onnxruntime, as :func:`inference_speed`."""
    session = onnx_session(options.scratch / f"{SMALL}.onnx")
    return inference_speed(lambda batch: session.run(["probabilities"], {"images": batch}), images)


def torch_inference(images: int, options: Options) -> Measured:
    """Speed of the net in eager torch, as :func:`inference_speed`."""
    import torch

    from animals_pl.models import registry

    torch.set_num_threads(CORES)
    net = registry.build_net(SMALL, 10, SIZE).eval()
    with torch.inference_mode():
        return inference_speed(lambda batch: net(torch.from_numpy(batch)), images)
