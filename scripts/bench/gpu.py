"""Training speed on one CUDA GPU by precision, memory layout and compilation, with and without data loading.

    python -m scripts.bench.gpu --root datasets/animals10/raw-img

The limit is the speed on a batch that is already in GPU memory; if the speed with data loading is lower, the GPU waits.
Medians of three measurements; all layers are trained, with torch's defaults otherwise.
"""

from __future__ import annotations

import argparse
import itertools
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from animals_pl.data.catalog import scan_folder
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError
from animals_pl.models import registry

PRECISIONS = {"32-true": None, "bf16-mixed": torch.bfloat16}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
MODES = ("eager", "compiled")


Step = Callable[[Tensor, Tensor], None]


def train_step(name: str, precision: str, layout: str, mode: str, options: argparse.Namespace) -> Step:
    """A function that runs one training step on uint8 images (B, 3, S, S) and labels (B,)."""
    device, dtype, memory_format = options.device, PRECISIONS[precision], LAYOUTS[layout]
    net: nn.Module = registry.build_net(name, options.num_classes, options.size)
    net = net.to(device, memory_format=memory_format)  # type: ignore[call-overload]
    if mode == "compiled":
        net.compile()
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-3)

    def step(images: Tensor, labels: Tensor) -> None:
        images = images.to(device, non_blocking=True, memory_format=memory_format)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            loss = nn.functional.cross_entropy(net(images), labels.to(device, non_blocking=True))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def speed(step: Step, batches: Iterator[Any], options: argparse.Namespace) -> float:
    """Median images per second over the repeats; the first one is warm-up and not counted."""
    wait = torch.cuda.synchronize if options.device.type == "cuda" else lambda: None
    found = []
    for _ in range(options.repeats + 1):
        wait()
        start, images = time.perf_counter(), 0
        for batch in itertools.islice(batches, options.batches):
            step(*batch)
            images += len(batch[0])
        wait()
        found.append(images / (time.perf_counter() - start))
    return median(found[1:])


def real_batches(options: argparse.Namespace) -> Iterator[Any]:
    """Yield training batches over endless epochs, loaded as in ``fit``."""
    data = AnimalsDataModule(str(options.root), options.size, batch_size=options.batch_size, augment="light")
    data.setup("fit")
    loader = data.train_dataloader()
    loader.pin_memory = options.device.type == "cuda"  # as in a trainer
    while True:
        yield from loader


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line; exit with code 2 and a one-line error if it is invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with one folder of images per class; default: no loader")
    parser.add_argument("--net", nargs="+", default=["tf_mobilenetv3_small_100", "resnetv2_50"], help="timm nets")
    parser.add_argument("--size", type=int, default=224, help="side of the images in pixels")
    parser.add_argument("--batch-size", type=int, default=64, help="images per batch")
    parser.add_argument("--batches", type=int, default=30, help="batches per measurement")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="device; cpu is for smoke tests only")
    parser.add_argument("--quick", action="store_true", help="smoke test with a few tiny batches")
    options = parser.parse_args(args)
    options.repeats, options.device = 3, torch.device(options.device)
    for key in ("size", "batch_size", "batches"):
        if getattr(options, key) < 2:
            parser.error(f"--{key.replace('_', '-')}={getattr(options, key)} is too small. Choose 2 or more.")
    if options.quick:
        options.size, options.batch_size, options.batches, options.repeats = 64, 4, 2, 1
    if options.device.type == "cuda" and not torch.cuda.is_available():
        parser.error(
            "no CUDA GPU is available. Use a machine with one, python -m scripts.bench.cpu for the CPU, or "
            "--device cpu --quick for a smoke test"
        )
    try:
        options.num_classes = len(scan_folder(options.root, argument="root").class_names) if options.root else 10
        for name in options.net:
            registry.build_net(name, options.num_classes, options.size)
    except UsageError as error:
        parser.error(str(error))
    return options


def main(args: Sequence[str] | None = None) -> None:
    """Measure every variant and print a table."""
    options = parse(args)
    cuda = options.device.type == "cuda"
    table = Table(title="images/s in training", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(
        ("net", "precision", "layout", "mode", "limit", "loaded", "÷ limit", "peak memory")
    ):
        table.add_column(column, justify="left" if number < 4 else "right", no_wrap=True)
    batch = torch.randint(0, 256, (options.batch_size, 3, options.size, options.size), dtype=torch.uint8)
    labels = torch.arange(options.batch_size) % options.num_classes
    synthetic = [(batch.to(options.device), labels.to(options.device))]
    real = real_batches(options) if options.root else None
    for variant in itertools.product(options.net, PRECISIONS, LAYOUTS, MODES):
        print(*variant, file=sys.stderr, flush=True)
        torch.compiler.reset()
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(options.device)
        step = train_step(*variant, options)
        limit = speed(step, itertools.cycle(synthetic), options)
        loaded = speed(step, real, options) if real else None
        peak = f"{torch.cuda.max_memory_allocated(options.device) / 2**20:,.0f} MiB" if cuda else ""
        cells = [f"{loaded:,.0f}", f"{loaded / limit:.2f}"] if loaded else ["", ""]
        table.add_row(*variant, f"{limit:,.0f}", *cells, peak)
        del step  # frees the net
    Console(width=110, highlight=False).print(table)
    device = torch.cuda.get_device_name(options.device) if cuda else "CPU, not a measurement"
    print(f"{device}; {os.cpu_count()} cores; torch {torch.__version__}; batches of {options.batch_size}")


if __name__ == "__main__":
    main()
