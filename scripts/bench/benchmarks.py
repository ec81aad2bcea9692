"""Tables of the benchmarks that ``cpu.py`` runs."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

from scripts.bench.ours import SMALL, Measured, Options


@dataclass(frozen=True)
class Benchmark:
    """A benchmark: function, arguments, unit and comparison.

    Attributes:
        label: Name in the table.
        unit: Unit of its number.
        function: ``module.function``, imported only in the measured process. Keras runs in its own environment.
        args: Its arguments before the options.
        ratio: ``A ÷ B``: two benchmarks of the table whose medians are divided.
        once: Measured once, whatever the number of repeats.
        own_cache: Starts with an empty cache folder, which it shares with no other benchmark.
    """

    label: str
    unit: str
    function: str
    args: tuple[Any, ...] = ()
    ratio: str = ""
    once: bool = False
    own_cache: bool = False

    def measure(self, options: Options) -> Measured:
        """Run the benchmark in this process."""
        module, _, function = self.function.partition(".")
        return getattr(importlib.import_module(f"scripts.bench.{module}"), function)(*self.args, options)


PARTS = {
    "loader": {
        "ours": Benchmark("ours, no augmentation", "images/s", "ours.loader", ("none",)),
        "torchvision": Benchmark(
            "torchvision: Resize", "images/s", "baselines.loader", ("resize",), "ours ÷ torchvision"
        ),
        "light": Benchmark("ours, augment light", "images/s", "ours.loader", ("light",)),
        "crop": Benchmark("torchvision: crop and flip", "images/s", "baselines.loader", ("crop",), "light ÷ crop"),
    },
    "frozen": {
        "export": Benchmark("(export, for bare_onnx)", "s", "ours.export_net", (None,), once=True),
        "cold": Benchmark("ours, cold: the first run", "s", "ours.frozen_fit", ("float32",)),
        "warm": Benchmark("ours, warm: the next run", "s", "ours.frozen_fit", ("float32",), "cold ÷ warm"),
        "bf16": Benchmark("ours, cold, bf16", "s", "ours.frozen_fit", ("bf16",), "bf16 ÷ cold", own_cache=True),
        "scan": Benchmark("part of the first run: scan", "s", "baselines.scan", own_cache=True),
        "bare_lightning": Benchmark(
            "limit: Lightning, features in memory", "s", "baselines.bare_lightning", (), "warm ÷ bare_lightning"
        ),
        "plain": Benchmark("plain Lightning, extrapolated", "s", "baselines.plain_fit", ratio="plain ÷ cold"),
        "keras": Benchmark(
            "Keras, as in the reference, extrapolated", "s", "keras_reference.main", ratio="keras ÷ cold"
        ),
        "limit": Benchmark("limit: decode + OpenVINO", "s", "baselines.limit", ("float32",), "cold ÷ limit"),
        "limit_bf16": Benchmark(
            "limit: decode + OpenVINO, bf16", "s", "baselines.limit", ("bf16",), "bf16 ÷ limit_bf16"
        ),
        "bare_torch": Benchmark(
            "limit: decode, torch channels_last", "s", "baselines.bare_torch", (), "cold ÷ bare_torch"
        ),
        "bare_onnx": Benchmark("limit: decode, onnxruntime", "s", "baselines.bare_onnx", (), "cold ÷ bare_onnx"),
    },
    "finetune": {
        "finetune": Benchmark("ours", "images/s", "ours.finetune"),
        "loop": Benchmark("plain PyTorch loop", "images/s", "baselines.loop", ratio="finetune ÷ loop"),
        "progressive": Benchmark("ours, mean of 128 to 224 px", "of 224 px", "ours.progressive"),
    },
    "inference": {
        "export_small": Benchmark("(export)", "s", "ours.export_net", (SMALL,), once=True),
        "onnx_1": Benchmark("ours, onnxruntime, 1 image", "ms", "ours.onnx_inference", (1,)),
        "torch_1": Benchmark("torch, 1 image", "ms", "ours.torch_inference", (1,), "torch_1 ÷ onnx_1"),
        "onnx_32": Benchmark("ours, onnxruntime, 32 images", "images/s", "ours.onnx_inference", (32,)),
        "torch_32": Benchmark("torch, 32 images", "images/s", "ours.torch_inference", (32,), "onnx_32 ÷ torch_32"),
    },
    "memory": {
        f"{name}_{count}": Benchmark(f"{label}, {count} epochs", "s", "ours.memory_fit", (freeze, count), ratio, True)
        for name, label, freeze in (("frozen", "frozen", True), ("finetune", "fine-tuning", False))
        for count, ratio in ((3, ""), (12, f"{name}_12 ÷ {name}_3"))
    },
}
"""Table → name → benchmark, in order of execution: a benchmark may use files of earlier ones."""

TITLES = {
    "loader": "Loading images: batches of 64 at 224 px, two workers",
    "frozen": "Training the head of a frozen {net}, {epochs} epochs",
    "finetune": f"Fine-tuning all layers of {SMALL}, batches of 64 at 224 px",
    "inference": f"Inference with {SMALL}, two threads",
    "memory": f"Memory with {{links:,}} images (links) and {SMALL}; the ratio is of memory",
}
BENCHMARKS = {name: benchmark for table in PARTS.values() for name, benchmark in table.items()}
