"""What ``cpu.py`` measures: tables of subjects."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from scripts.bench.ours import SMALL, Measured, Options


@dataclass(frozen=True)
class Subject:
    """One thing to measure.

    Attributes:
        label: Name in the table.
        unit: Unit of its number.
        function: ``module.function``, imported only by the process that is measured. Keras has its own Python.
        args: Its arguments before the options.
        ratio: ``A ÷ B``: two subjects of the table whose medians are divided.
        once: Measured once, whatever the number of repeats.
    """

    label: str
    unit: str
    function: str
    args: tuple[Any, ...] = ()
    ratio: str = ""
    once: bool = False

    def measure(self, options: Options) -> Measured:
        """Do the work in this process."""
        module, _, function = self.function.partition(".")
        return getattr(importlib.import_module(f"scripts.bench.{module}"), function)(*self.args, options)


PARTS = {
    "loader": {
        "ours": Subject("ours, no augmentation", "images/s", "ours.loader", ("none",)),
        "torchvision": Subject("torchvision: Resize", "images/s", "rivals.loader", ("resize",), "ours ÷ torchvision"),
        "light": Subject("ours, augment light", "images/s", "ours.loader", ("light",)),
        "crop": Subject("torchvision: crop and flip", "images/s", "rivals.loader", ("crop",), "light ÷ crop"),
    },
    "frozen": {
        "export": Subject("(export, for bare_onnx)", "s", "ours.export_net", (None,), once=True),
        "cold": Subject("ours, cold: the first run", "s", "ours.frozen_fit"),
        "warm": Subject("ours, warm: the next run", "s", "ours.frozen_fit", ratio="cold ÷ warm"),
        "plain": Subject("plain Lightning, scaled up", "s", "rivals.plain_fit", ratio="plain ÷ cold"),
        "keras": Subject("Keras, as the reference, scaled up", "s", "keras_reference.main", ratio="keras ÷ cold"),
        "bare_torch": Subject("limit: decode, torch channels_last", "s", "rivals.bare_torch", (), "cold ÷ bare_torch"),
        "bare_onnx": Subject("limit: decode, onnxruntime", "s", "rivals.bare_onnx", (), "cold ÷ bare_onnx"),
    },
    "finetune": {
        "finetune": Subject("ours", "images/s", "ours.finetune"),
        "loop": Subject("plain PyTorch loop", "images/s", "rivals.loop", ratio="finetune ÷ loop"),
        "progressive": Subject("ours, mean of 128 to 224 px", "of 224 px", "ours.progressive"),
    },
    "inference": {
        "export_small": Subject("(export)", "s", "ours.export_net", (SMALL,), once=True),
        "onnx_1": Subject("ours, onnxruntime, 1 image", "ms", "ours.onnx_inference", (1,)),
        "torch_1": Subject("torch, 1 image", "ms", "ours.torch_inference", (1,), "torch_1 ÷ onnx_1"),
        "onnx_32": Subject("ours, onnxruntime, 32 images", "images/s", "ours.onnx_inference", (32,)),
        "torch_32": Subject("torch, 32 images", "images/s", "ours.torch_inference", (32,), "onnx_32 ÷ torch_32"),
    },
    "memory": {
        f"{name}_{epochs}": Subject(f"{label}, {epochs} epochs", "s", "ours.memory_fit", (freeze, epochs), ratio, True)
        for name, label, freeze in (("frozen", "frozen", True), ("finetune", "fine-tuning", False))
        for epochs, ratio in ((3, ""), (12, f"{name}_12 ÷ {name}_3"))
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
