"""Speed and memory of this project beside its rivals, on this machine's CPU.

    python scripts/bench.py --root datasets/animals10/raw-img

Every measurement is a process of its own, whose clock starts after its imports. Rivals take turns (A B C, A B C, …), so
that what else the machine does meets all alike. Memory is the largest proportional set size (PSS) of a process with its
children. Linux only.
"""
# ruff: noqa: PLC0415
# A subject imports what it needs and no more: its memory is measured, and what this process has loaded would be shared.

from __future__ import annotations

import argparse
import csv
import importlib
import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import scan_folder
from animals_pl.errors import UsageError
from scripts.bench.process_memory import link_images, run

PROJECT = Path(__file__).resolve().parents[1]
SMALL = "tf_mobilenetv3_small_100"
SIZE, BATCH, CORES = 224, 64, 2
"""Side of the images in pixels, images per batch, and loader processes or threads, the same for all."""
WARM_UP, TIMED = 3, 20
"""Training batches before and under the clock."""
SIZES = (128, 160, 192, 224)
PIXELS = sum(size**2 for size in SIZES) / len(SIZES) / SIZES[-1] ** 2
"""Part of the pixels, and so about of the time, that training at these sizes takes of training at the last."""

Options = argparse.Namespace
Measured = tuple[float, str]
"""A number and a remark on it."""


class Mark(NamedTuple):
    """The end of a training batch: when (seconds), in which epoch, how many images of which size in pixels."""

    time: float
    epoch: int
    images: int
    size: int


def fit(options: Options, net: str, *more: object, weights: Path | None = None) -> None:
    """Train as a person does, with the command line, on the CPU."""
    from animals_pl.cli import main as animals_pl

    args = ["fit", "--config", PROJECT / "configs" / "mobilenetv3_large_frozen.yaml", "--name", options.subject]
    args += ["--data.root", options.root, "--data.num_workers", CORES, "--trainer.accelerator", "cpu"]
    args += ["--trainer.default_root_dir", options.scratch, "--model.net", net, "--model.weights", weights or "null"]
    if animals_pl([str(arg) for arg in [*args, *more]]):
        sys.exit(2)


def timed_fit(options: Options, net: str, *more: object, weights: Path | None = None) -> Measured:
    """Return the seconds that a fit takes, from its command line to its best checkpoint."""
    importlib.import_module("animals_pl.lightning_cli")
    began = time.perf_counter()
    fit(options, net, *more, weights=weights)
    return time.perf_counter() - began, ""


def frozen_fit(options: Options) -> Measured:
    """Return the seconds of a fit of the head on a frozen backbone."""
    return timed_fit(options, options.net, "--trainer.max_epochs", options.epochs, weights=options.weights)


def memory_fit(freeze: str, epochs: int, options: Options) -> Measured:
    """Return the seconds of a fit whose memory is wanted; one that fine-tunes takes 20 batches an epoch."""
    limits = ["--trainer.limit_train_batches", TIMED, "--trainer.limit_val_batches", 5]
    return timed_fit(
        options, SMALL, "--model.freeze", freeze, "--trainer.max_epochs", epochs, *(limits if freeze == "false" else [])
    )


def export_net(net: str | None, options: Options) -> Measured:
    """Write ``NET.onnx`` with random weights, for other subjects; return the seconds that it takes."""
    net = net or options.net
    seconds, _ = timed_fit(
        options,
        *(net, "--trainer.max_epochs", 1, "--cache_features", "false", "--data.batch_size", 8),
        *("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1),
    )
    from animals_pl.deploy.export import export

    began = time.perf_counter()
    export(str(options.scratch / options.subject / "version_0" / "last.ckpt"), str(options.scratch / f"{net}.onnx"))
    return seconds + time.perf_counter() - began, ""


def loader(augment: str, options: Options) -> Measured:
    """Return the images per second of the training batches of all images, once the workers run."""
    from animals_pl.data.datamodule import AnimalsDataModule

    data = AnimalsDataModule(str(options.root), SIZE, batch_size=BATCH, augment=augment, num_workers=CORES)
    data.setup("fit")
    data.catalogs["train"] = data.catalog
    data.datasets["train"] = data.dataset("train")
    return whole_pass(data.train_dataloader()), ""


def whole_pass(batches: Iterable[Any]) -> float:
    """Return the images per second of a loader's second pass; the first one starts its workers."""
    for _ in batches:
        pass
    began = time.perf_counter()
    images = sum(len(labels) for _, labels in batches)
    return images / (time.perf_counter() - began)


def train(options: Options, *more: object) -> list[Mark]:
    """Fine-tune all layers of the small net and return the ends of the training batches."""
    from animals_pl.training.classifier import AnimalClassifier

    marks = []

    def note(self: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        marks.append(Mark(time.perf_counter(), self.current_epoch, len(batch[0]), batch[0].shape[-1]))

    with mock.patch.object(AnimalClassifier, "on_train_batch_end", note):
        fit(options, SMALL, "--model.freeze", "false", "--trainer.limit_val_batches", 1, *more)
    return marks


def images_per_second(marks: Sequence[Mark]) -> float:
    """Return the speed after the first batches, as few of them as there are."""
    timed = marks[min(WARM_UP, len(marks) - 1) - 1 :]
    return sum(mark.images for mark in timed[1:]) / (timed[-1].time - timed[0].time)


def finetune(options: Options) -> Measured:
    """Return the images per second of fine-tuning all layers."""
    marks = train(options, "--trainer.max_epochs", 1, "--trainer.limit_train_batches", WARM_UP + TIMED)
    return images_per_second(marks), ""


def progressive(options: Options, rounds: int = 2) -> Measured:
    """Return the time per batch, averaged over four sizes that take turns, as a part of the largest one's."""
    resizing = "animals_pl.training.callbacks.progressive_resizing.ProgressiveResizing"
    marks = train(
        options,
        *("--trainer.callbacks+", resizing, "--trainer.callbacks.sizes", json.dumps(SIZES * rounds)),
        *("--trainer.max_epochs", rounds * len(SIZES), "--trainer.limit_train_batches", WARM_UP + TIMED // 2),
    )
    taken: dict[int, list[float]] = {size: [] for size in SIZES}
    for _, epoch in itertools.groupby(marks, lambda mark: mark.epoch):
        ends = list(epoch)
        taken[ends[0].size].append(BATCH / images_per_second(ends))
    seconds = {size: median(times) for size, times in taken.items()}
    each = ", ".join(f"{value:.3f} s at {size} px" for size, value in seconds.items())
    return sum(seconds.values()) / len(SIZES) / seconds[SIZES[-1]], f"a batch takes {each}; pixels: {PIXELS:.3f}"


def onnx_inference(images: int, options: Options) -> Measured:
    """Measure the exported file in onnxruntime: see :func:`inference`."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = CORES
    session = onnxruntime.InferenceSession(options.scratch / f"{SMALL}.onnx", settings)
    return inference(lambda batch: session.run(["probabilities"], {"images": batch}), images)


def torch_inference(images: int, options: Options) -> Measured:
    """Measure the net in torch as it comes: see :func:`inference`."""
    import torch

    from animals_pl.models import registry

    torch.set_num_threads(CORES)
    net = registry.build_net(SMALL, 10, SIZE).eval()
    with torch.inference_mode():
        return inference(lambda batch: net(torch.from_numpy(batch)), images)


def inference(predict: Callable[[np.ndarray], object], images: int) -> Measured:
    """Return the median milliseconds for one image, or the images per second of larger batches."""
    batch = np.random.default_rng(0).integers(0, 256, (images, 3, SIZE, SIZE), np.uint8)
    times = []
    for _ in range(WARM_UP + (200 if images == 1 else TIMED)):
        began = time.perf_counter()
        predict(batch)
        times.append(time.perf_counter() - began)
    seconds = median(times[WARM_UP:])
    return (1000 * seconds if images == 1 else images / seconds), ""


def rival(name: str, *args: Any) -> Callable[[Options], Measured]:
    """Return a function of ``bench_rivals``, which is imported when it runs."""
    return lambda options: getattr(importlib.import_module("bench_rivals"), name)(*args, options)


@dataclass(frozen=True)
class Subject:
    """One thing that is measured.

    Attributes:
        label: What it is, for a person.
        unit: Of its number.
        measure: Does the work; ``None``: ``bench_keras.py`` does.
        ratio: Two subjects of the same table: the first one's median divided by the second one's is told.
        once: However often the others are repeated.
    """

    label: str
    unit: str
    measure: Callable[[Options], Measured] | None
    ratio: str = ""
    once: bool = False


PARTS = {
    "loader": {
        "ours": Subject("ours, no augmentation", "images/s", partial(loader, "none")),
        "torchvision": Subject("torchvision: Resize", "images/s", rival("loader", "resize"), "ours ÷ torchvision"),
        "light": Subject("ours, augment light", "images/s", partial(loader, "light")),
        "crop": Subject("torchvision: crop and flip", "images/s", rival("loader", "crop"), "light ÷ crop"),
    },
    "frozen": {
        "export": Subject("(export, for bare_onnx)", "s", partial(export_net, None), once=True),
        "cold": Subject("ours, cold: the first run", "s", frozen_fit),
        "warm": Subject("ours, warm: the next run", "s", frozen_fit, "cold ÷ warm"),
        "plain": Subject("plain Lightning, scaled up", "s", rival("plain_fit"), "plain ÷ cold"),
        "keras": Subject("Keras, as the reference, scaled up", "s", None, "keras ÷ cold"),
        "bare_torch": Subject("limit: decode, torch channels_last", "s", rival("bare_torch"), "cold ÷ bare_torch"),
        "bare_onnx": Subject("limit: decode, onnxruntime", "s", rival("bare_onnx"), "cold ÷ bare_onnx"),
    },
    "finetune": {
        "finetune": Subject("ours", "images/s", finetune),
        "loop": Subject("plain PyTorch loop", "images/s", rival("loop"), "finetune ÷ loop"),
        "progressive": Subject("ours, mean of 128 to 224 px", "of 224 px", progressive),
        "same_results": Subject("same losses, channels_last", "apart", rival("same_results"), once=True),
    },
    "inference": {
        "export_small": Subject("(export)", "s", partial(export_net, SMALL), once=True),
        "onnx_1": Subject("ours, onnxruntime, 1 image", "ms", partial(onnx_inference, 1)),
        "torch_1": Subject("torch, 1 image", "ms", partial(torch_inference, 1), "torch_1 ÷ onnx_1"),
        "onnx_32": Subject("ours, onnxruntime, 32 images", "images/s", partial(onnx_inference, 32)),
        "torch_32": Subject("torch, 32 images", "images/s", partial(torch_inference, 32), "onnx_32 ÷ torch_32"),
    },
    "memory": {
        f"{name}_{epochs}": Subject(
            *(f"{label}, {epochs} epochs", "s", partial(memory_fit, freeze, epochs)),
            *(f"{name}_12 ÷ {name}_3" if epochs == 12 else "", True),
        )
        for name, label, freeze in (("frozen", "frozen", "true"), ("finetune", "fine-tuning", "false"))
        for epochs in (3, 12)
    },
}
"""Table → name → subject, in the order in which they are measured: one may use what one before it has left."""

TITLES = {
    "loader": "Loading images: batches of 64 at 224 px, two workers",
    "frozen": "Training the head of a frozen {net}, {epochs} epochs",
    "finetune": f"Fine-tuning all layers of {SMALL}, batches of 64 at 224 px",
    "inference": f"Inference with {SMALL}, two threads",
    "memory": f"Memory with {{links:,}} images (links) and {SMALL}; the ratio is one of memory",
}
SUBJECTS = {name: subject for subjects in PARTS.values() for name, subject in subjects.items()}


@dataclass(frozen=True)
class Result:
    """One measurement, a row of the CSV file; ``failure`` says why there is none."""

    part: str
    subject: str
    repeat: int
    value: float
    unit: str
    peak_mib: float
    note: str = ""
    failure: str = ""


def measure(part: str, name: str, repeat: int, options: Options) -> Result:
    """Run a subject in a process of its own."""
    subject = PARTS[part][name]
    root = options.scratch / "links" if part == "memory" else options.root
    given = ["--root", root, "--net", options.net, "--epochs", options.epochs]
    if subject.measure:
        command = [sys.executable, __file__, "--subject", name, "--scratch", options.scratch, *given]
        command += ["--weights", options.weights] if options.weights else []
    else:
        command = [options.keras, PROJECT / "scripts" / "bench_keras.py", *given]
    # What is known of the images is shared by the subjects of one round, but by no more.
    cache = options.scratch / "cache" / (name if subject.once else f"{part} {repeat}")
    environment = {**os.environ, "ANIMALS_PL_CACHE": str(cache), "NO_ALBUMENTATIONS_UPDATE": "1"}
    outcome = run(list(map(str, command)), environment)
    value, note, failure = float("nan"), "", ""
    lines = [line for line in outcome.printed.splitlines() if line.startswith("[")]
    if outcome.exit_code or not lines:
        failure = outcome.complaint or f"exit code {outcome.exit_code}"
    else:
        value, note = json.loads(lines[-1])
    return Result(part, name, repeat, value, subject.unit, outcome.peak / 2**20, note, failure)


def ratio(names: str, results: Sequence[Result]) -> float:
    """Return one subject's median divided by another's: of the memory in that part, else of the number.

    Args:
        names: The two, ``A ÷ B``.
        results: Those of their part.
    """
    middle = []
    for name in names.split(" ÷ "):
        good = [result for result in results if result.subject == name and not result.failure]
        values = [result.peak_mib if result.part == "memory" else result.value for result in good]
        middle.append(median(values) if values else float("nan"))
    return middle[0] / middle[1]


def table(title: str, results: Sequence[Result]) -> Table:
    """Return one row per subject: medians over the repeats, and the ratios."""
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "median", "min … max", "peak memory", "ratio of medians"):
        result.add_column(column, justify="left" if column in ("", "ratio of medians") else "right")
    notes = []
    for name in dict.fromkeys(each.subject for each in results):
        subject, runs = SUBJECTS[name], [each for each in results if each.subject == name]
        failures = [each.failure for each in runs if each.failure]
        good = [each for each in runs if not each.failure]
        notes += [f"{subject.label}: {good[-1].note}"] if good and good[-1].note else []
        notes += [f"{subject.label}: failed {len(failures)} of {len(runs)} times: {failures[-1]}"] if failures else []
        if not good:
            result.add_row(subject.label, "failed")
            continue
        values = [each.value for each in good]
        cell = f"{subject.ratio}: {ratio(subject.ratio, results):.2f}" if subject.ratio else ""
        peak = f"{median(each.peak_mib for each in good):,.0f} MiB"
        result.add_row(
            subject.label, f"{median(values):.4g} {subject.unit}", f"{min(values):.4g} … {max(values):.4g}", peak, cell
        )
    result.caption, result.caption_justify = "\n".join(notes), "left"
    return result


def machine(keras: Path | None) -> str:
    """Return cores, processor and versions, in one line."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), "")
    packages = {name: version(name) for name in ("torch", "onnxruntime")}
    if keras and keras.exists():
        ask = "from importlib.metadata import *; print(version(packages_distributions()['tensorflow'][0]))"
        asked = subprocess.run([keras, "-c", ask], capture_output=True, text=True, check=False)
        packages["tensorflow"] = asked.stdout.strip() or "absent"
    cores = f"{os.cpu_count()} cores, {model.partition(': ')[2] or platform.machine()}"
    return "; ".join([cores, *(f"{name} {number}" for name, number in packages.items())])


def keras_python(options: Options) -> Path | None:
    """Return the Python that has Keras; that of the project's own environment for it is made where it is absent."""
    if options.no_keras or "frozen" not in options.only:
        return None
    if options.keras:
        return options.keras
    folder = PROJECT / ".venv-keras"
    if not folder.exists():
        print(f"installing tensorflow-cpu into {folder}, which takes some minutes", file=sys.stderr)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "tensorflow-cpu"]
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin" / "python", *install], check=True)
        except subprocess.CalledProcessError as error:  # half of an environment would be taken for a whole one
            shutil.rmtree(folder, ignore_errors=True)
            print(f"Keras could not be installed: {error}", file=sys.stderr)
    return folder / "bin" / "python"


def parse(args: Sequence[str] | None) -> Options:
    """Read the command line; wrong use ends with exit code 2 and one sentence."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--net", default="tf_mobilenetv3_large_100", help="timm net of the frozen fit")
    parser.add_argument("--weights", type=Path, help="its weights; default: random ones, which take as long")
    parser.add_argument("--repeats", type=int, default=3, help="measurements of each subject")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the frozen fit")
    parser.add_argument("--links", type=int, default=26_179, help="images of the memory part, by links")
    parser.add_argument("--csv", type=Path, default=Path("checkpoints/bench.csv"), help="the file to write")
    parser.add_argument("--keras", type=Path, help="a Python with Keras; default: .venv-keras, which is made")
    parser.add_argument("--no-keras", action="store_true", help="leave Keras out")
    parser.add_argument("--subject", choices=SUBJECTS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    for key in ("repeats", "epochs", "links"):
        if getattr(options, key) < 1:
            parser.error(f"--{key}={getattr(options, key)} is too small; choose 1 or more")
    for key in ("weights", "keras"):
        if getattr(options, key) and not getattr(options, key).is_file():
            parser.error(f"--{key}={str(getattr(options, key))!r} is not a file; pass one, or leave it out")
    if not options.subject:
        try:
            catalog = scan_folder(options.root, argument="root")
            options.root = catalog.root.resolve()
            for path in catalog.paths:  # so that nobody meets a cold disk
                (options.root / path).read_bytes()
            options.csv.parent.mkdir(parents=True, exist_ok=True)
            options.csv.touch()
        except (UsageError, OSError) as error:
            parser.error(str(error))
    return options


def main(args: Sequence[str] | None = None) -> int:
    """Measure, print a table per part and write the CSV file; return 1 if a subject failed."""
    options = parse(args)
    if options.subject:
        subject = SUBJECTS[options.subject]
        assert subject.measure is not None
        print(json.dumps(subject.measure(options)), flush=True)
        return 0
    options.keras = keras_python(options)
    console, failed = Console(width=110, highlight=False), False
    with (
        tempfile.TemporaryDirectory() as scratch,
        options.csv.open("w", newline="", encoding="utf-8", buffering=1) as stream,
    ):
        options.scratch = Path(scratch)
        writer = csv.DictWriter(stream, [field.name for field in fields(Result)])
        writer.writeheader()
        if "memory" in options.only:
            link_images(options.root, options.scratch / "links", options.links)
        for part in options.only:
            results = []
            for repeat in range(options.repeats):
                for name, subject in PARTS[part].items():
                    if (repeat and subject.once) or (name == "keras" and not options.keras):
                        continue
                    results.append(measure(part, name, repeat, options))
                    writer.writerow(asdict(results[-1]))
                    said = results[-1].failure or f"{results[-1].value:.4g} {results[-1].unit}"
                    print(f"{part} {repeat + 1}/{options.repeats} {name}: {said}", file=sys.stderr, flush=True)
            console.print(table(TITLES[part].format(**vars(options)), results))
            failed |= any(result.failure for result in results)
    console.print(machine(options.keras) + f"; {options.csv}", soft_wrap=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
