"""Constants, types and helpers of all benchmarks."""
# ruff: noqa: PLC0415 (a subject imports only what it needs: its memory is measured)

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np

PROJECT = Path(__file__).resolve().parents[2]
SMALL = "tf_mobilenetv3_small_100"
SIZE, BATCH, CORES = 224, 64, 2
"""Image side in pixels, images per batch, and loader processes or threads, the same for all."""
WARM_UP, TIMED = 3, 20
"""Training batches before and under the clock."""

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
    """Speed after the first WARM_UP batches, or fewer if there are no more."""
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
