"""What ``cpu.py`` measures: tables of subjects."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from scripts.bench import ours
from scripts.bench.common import SMALL, Measured, Options


def rival(name: str, *args: Any) -> Callable[[Options], Measured]:
    """A function of ``rivals.py``, which imports torch and is therefore imported only when it runs."""
    return lambda options: getattr(importlib.import_module("scripts.bench.rivals"), name)(*args, options)


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        label: Name in the table.
        unit: Unit of its number.
        measure: Does the work. ``None``: ``keras_reference.py`` does.
        ratio: ``A ÷ B``: two subjects of the table whose medians are divided.
        once: Measured once, whatever the number of repeats.
    """

    label: str
    unit: str
    measure: Callable[[Options], Measured] | None
    ratio: str = ""
    once: bool = False


PARTS = {
    "loader": {
        "ours": Subject("ours, no augmentation", "images/s", partial(ours.loader, "none")),
        "torchvision": Subject("torchvision: Resize", "images/s", rival("loader", "resize"), "ours ÷ torchvision"),
        "light": Subject("ours, augment light", "images/s", partial(ours.loader, "light")),
        "crop": Subject("torchvision: crop and flip", "images/s", rival("loader", "crop"), "light ÷ crop"),
    },
    "frozen": {
        "export": Subject("(export, for bare_onnx)", "s", partial(ours.export_net, None), once=True),
        "cold": Subject("ours, cold: the first run", "s", ours.frozen_fit),
        "warm": Subject("ours, warm: the next run", "s", ours.frozen_fit, "cold ÷ warm"),
        "plain": Subject("plain Lightning, scaled up", "s", rival("plain_fit"), "plain ÷ cold"),
        "keras": Subject("Keras, as the reference, scaled up", "s", None, "keras ÷ cold"),
        "bare_torch": Subject("limit: decode, torch channels_last", "s", rival("bare_torch"), "cold ÷ bare_torch"),
        "bare_onnx": Subject("limit: decode, onnxruntime", "s", rival("bare_onnx"), "cold ÷ bare_onnx"),
    },
    "finetune": {
        "finetune": Subject("ours", "images/s", ours.finetune),
        "loop": Subject("plain PyTorch loop", "images/s", rival("loop"), "finetune ÷ loop"),
        "progressive": Subject("ours, mean of 128 to 224 px", "of 224 px", ours.progressive),
        "same_results": Subject("loss difference, channels_last", "relative", rival("same_results"), once=True),
    },
    "inference": {
        "export_small": Subject("(export)", "s", partial(ours.export_net, SMALL), once=True),
        "onnx_1": Subject("ours, onnxruntime, 1 image", "ms", partial(ours.onnx_inference, 1)),
        "torch_1": Subject("torch, 1 image", "ms", partial(ours.torch_inference, 1), "torch_1 ÷ onnx_1"),
        "onnx_32": Subject("ours, onnxruntime, 32 images", "images/s", partial(ours.onnx_inference, 32)),
        "torch_32": Subject("torch, 32 images", "images/s", partial(ours.torch_inference, 32), "onnx_32 ÷ torch_32"),
    },
    "memory": {
        f"{name}_{epochs}": Subject(
            *(f"{label}, {epochs} epochs", "s", partial(ours.memory_fit, freeze, epochs)),
            *(f"{name}_12 ÷ {name}_3" if epochs == 12 else "", True),
        )
        for name, label, freeze in (("frozen", "frozen", "true"), ("finetune", "fine-tuning", "false"))
        for epochs in (3, 12)
    },
}
"""Table → name → subject, in the order of measurement: a subject may use files of those before it."""

TITLES = {
    "loader": "Loading images: batches of 64 at 224 px, two workers",
    "frozen": "Training the head of a frozen {net}, {epochs} epochs",
    "finetune": f"Fine-tuning all layers of {SMALL}, batches of 64 at 224 px",
    "inference": f"Inference with {SMALL}, two threads",
    "memory": f"Memory with {{links:,}} images (links) and {SMALL}; the ratio is of memory",
}
SUBJECTS = {name: subject for subjects in PARTS.values() for name, subject in subjects.items()}
