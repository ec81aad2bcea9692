"""Measure the model's inference time per image."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median

import lightning as L
import torch

from animals_pl.models.layers import evaluation_mode
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.cpu import cpu_name
from animals_pl.training.speed_json import Speed, model_size, write_speed

WARM_UP, TIMED = 3, 10
"""Forward passes."""

MOST_SECONDS = 0.8
"""Time after which no further pass starts, except for a first timed one."""


class MeasureSpeed(L.Callback):
    """Writes speed.json at the end of a training run that was not interrupted.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Measure and write."""
        if not trainer.is_global_zero or not isinstance(pl_module, AnimalClassifier):
            return
        size = model_size(pl_module.state_dict(), frozen=pl_module.hparams["freeze"])
        on_cpu = pl_module.device.type == "cpu"
        with trainer.precision_plugin.forward_context():
            milliseconds = milliseconds_per_image(pl_module)
        speed = Speed(
            **asdict(size),
            ms_per_image=milliseconds,
            device=device_name(pl_module.device),
            threads=torch.get_num_threads() if on_cpu else None,
            precision=str(trainer.precision),
        )
        write_speed(self.folder / "speed.json", speed)


def milliseconds_per_image(model: AnimalClassifier) -> float:
    """Median milliseconds for the logits of one image, on the model's device, without torch.compile.

    The model and the global random states stay as they are.
    """
    size = model.hparams["input_size"]
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(256, (1, 3, size, size), dtype=torch.uint8, generator=generator)
    # A compiled net would be compiled again, for this batch size.
    with evaluation_mode(model), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        return _median_ms(lambda: model(image.to(model.device)).cpu())


def device_name(device: torch.device) -> str:
    """Name of a processor or GPU, such as ``NVIDIA H100 80GB HBM3``."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return cpu_name() if device.type == "cpu" else device.type


def _median_ms(run: Callable[[], object]) -> float:
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < 2 or (len(times) < WARM_UP + TIMED and time.perf_counter() - began < MOST_SECONDS):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return 1000 * median(times[min(WARM_UP, len(times) // 2) :])
