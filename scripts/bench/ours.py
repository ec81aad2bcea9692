"""Benchmarks of this project for ``cpu.py``, and helpers shared by all benchmarks."""
# ruff: noqa: PLC0415 (a benchmark imports only what it needs: its memory is measured)

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from scripts.bench.process_memory import PROJECT

SMALL = "tf_mobilenetv3_small_100"
SIZE, BATCH, CORES = 224, 64, 2
"""Image side in pixels, images per batch, and loader processes or threads of all benchmarks."""
WARM_UP, TIMED = 3, 20
"""Warm-up and timed training batches."""

SIZES = (128, 160, 192, 224)
PIXELS = sum(size**2 for size in SIZES) / len(SIZES) / SIZES[-1] ** 2
"""Pixels of training at these sizes, relative to training at the last."""

Options = argparse.Namespace
Measured = tuple[float, str]
"""A number and a remark."""


class BatchEnd(NamedTuple):
    """End of a training batch: time in seconds, epoch, number of images and their side in pixels."""

    time: float
    epoch: int
    images: int
    size: int


def images_per_second(ends: Sequence[BatchEnd]) -> float:
    """Images per second after WARM_UP batches, or after fewer if there are not enough."""
    timed = ends[min(WARM_UP, len(ends) - 1) - 1 :]
    return sum(end.images for end in timed[1:]) / (timed[-1].time - timed[0].time)


def second_pass_speed(batches: Iterable[Any]) -> float:
    """Images per second of a loader's second pass; the first pass starts its workers."""
    for _ in batches:
        pass
    start = time.perf_counter()
    images = sum(len(labels) for _, labels in batches)
    return images / (time.perf_counter() - start)


def inference_speed(predict: Callable[[np.ndarray], object], images: int) -> Measured:
    """Median milliseconds for a single image, or images per second for larger batches."""
    batch = np.random.default_rng(0).integers(0, 256, (images, 3, SIZE, SIZE), np.uint8)
    times = []
    for _ in range(WARM_UP + (200 if images == 1 else TIMED)):
        start = time.perf_counter()
        predict(batch)
        times.append(time.perf_counter() - start)
    seconds = median(times[WARM_UP:])
    return (1000 * seconds if images == 1 else images / seconds), ""


def onnx_session(file: Path) -> Any:
    """Session of an ONNX file with CORES threads."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = CORES
    return onnxruntime.InferenceSession(file, settings)


def fit(
    options: Options, net: str, epochs: int, settings: Mapping[str, object], callbacks: Sequence[Any] = ()
) -> Measured:
    """Seconds of ``fit`` on the CPU, from its arguments to its best checkpoint, without imports."""
    from animals_pl.lightning_cli import run

    start = time.perf_counter()
    settings = {
        "config": PROJECT / "configs" / "mobilenetv3_large_frozen.yaml",
        "name": options.benchmark,
        "data.root": options.root,
        "data.num_workers": CORES,
        "model.net": net,
        "model.weights": "null",
        "trainer.accelerator": "cpu",
        "trainer.default_root_dir": options.scratch,
        "trainer.max_epochs": epochs,
        **settings,
    }
    run(["fit", *(str(part) for key, value in settings.items() for part in (f"--{key}", value))], callbacks)
    return time.perf_counter() - start, ""


def frozen_fit(precision: str, options: Options) -> Measured:
    """Seconds of training the head of a frozen backbone."""
    settings = {"model.weights": options.weights or "null", "extract_precision": precision}
    return fit(options, options.net, options.epochs, settings)


def memory_fit(freeze: bool, epochs: int, options: Options) -> Measured:
    """Seconds of a fit whose memory is compared; fine-tuning takes 20 batches per epoch."""
    limits = {} if freeze else {"trainer.limit_train_batches": TIMED, "trainer.limit_val_batches": 5}
    return fit(options, SMALL, epochs, {"model.freeze": freeze, **limits})


def export_net(net: str | None, options: Options) -> Measured:
    """Seconds of writing ``NET.onnx`` with random weights, for other benchmarks."""
    from animals_pl.deploy.export import export

    net = net or options.net
    limits = {"trainer.limit_train_batches": 1, "trainer.limit_val_batches": 1}
    seconds, _ = fit(options, net, 1, {"cache_features": False, "data.batch_size": 8, **limits})
    start = time.perf_counter()
    export(str(options.scratch / options.benchmark / "version_0" / "last.ckpt"), str(options.scratch / f"{net}.onnx"))
    return seconds + time.perf_counter() - start, ""


def loader(augment: str, options: Options) -> Measured:
    """Images per second of loading all images as training batches, with workers already started."""
    from animals_pl.data.datamodule import AnimalsDataModule

    data = AnimalsDataModule(str(options.root), SIZE, batch_size=BATCH, augment=augment, num_workers=CORES)
    data.setup("fit")
    data.catalogs["train"] = data.catalog
    data.datasets["train"] = data.dataset("train")
    return second_pass_speed(data.train_dataloader()), ""


def train(options: Options, epochs: int, batches: int, callbacks: Sequence[Any] = ()) -> list[BatchEnd]:
    """Fine-tune all layers of the small net, and return the end of each training batch."""
    from lightning.pytorch.callbacks import LambdaCallback

    ends = []

    def note(trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        ends.append(BatchEnd(time.perf_counter(), trainer.current_epoch, len(batch[0]), batch[0].shape[-1]))

    settings = {"model.freeze": False, "trainer.limit_train_batches": batches, "trainer.limit_val_batches": 1}
    fit(options, SMALL, epochs, settings, [*callbacks, LambdaCallback(on_train_batch_end=note)])
    return ends


def finetune(options: Options) -> Measured:
    """Images per second of fine-tuning all layers."""
    return images_per_second(train(options, 1, WARM_UP + TIMED)), ""


def progressive(options: Options, rounds: int = 2) -> Measured:
    """Mean time per batch over four interleaved sizes, relative to the largest size."""
    from animals_pl.training.callbacks import ProgressiveResizing

    ends = train(options, rounds * len(SIZES), WARM_UP + TIMED // 2, [ProgressiveResizing(list(SIZES * rounds))])
    times: dict[int, list[float]] = {size: [] for size in SIZES}
    for _, group in itertools.groupby(ends, lambda end: end.epoch):
        epoch = list(group)
        times[epoch[0].size].append(BATCH / images_per_second(epoch))
    seconds = {size: median(values) for size, values in times.items()}
    each = ", ".join(f"{value:.3f} s at {size} px" for size, value in seconds.items())
    return sum(seconds.values()) / len(SIZES) / seconds[SIZES[-1]], f"a batch takes {each}; pixels: {PIXELS:.3f}"


def onnx_inference(images: int, options: Options) -> Measured:
    """Speed of the exported file in onnxruntime, see :func:`inference_speed`."""
    session = onnx_session(options.scratch / f"{SMALL}.onnx")
    return inference_speed(lambda batch: session.run(["probabilities"], {"images": batch}), images)


def torch_inference(images: int, options: Options) -> Measured:
    """Speed of the net in eager torch, see :func:`inference_speed`."""
    import torch

    from animals_pl.models import registry

    torch.set_num_threads(CORES)
    net = registry.build_net(SMALL, 10, SIZE).eval()
    with torch.inference_mode():
        return inference_speed(lambda batch: net(torch.from_numpy(batch)), images)
