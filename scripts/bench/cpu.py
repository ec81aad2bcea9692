"""Speed and memory of this project and of baselines on this machine's CPU.

    python -m scripts.bench.cpu --root datasets/animals10/raw-img

Each measurement runs in a separate process, timed after its imports. Implementations are interleaved (A B C, A B C, …)
so that background load affects all equally. Memory is the maximum proportional set size (PSS) of a process with its
children. Linux only.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from statistics import median

from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.data.catalog import scan_folder
from animals_pl.errors import UsageError
from animals_pl.training.cpu import cpu_name, cpu_vectors
from scripts.bench.benchmarks import BENCHMARKS, PARTS, TITLES
from scripts.bench.ours import Options
from scripts.bench.process_memory import PROJECT, link_images, run


@dataclass(frozen=True)
class Result:
    """One measurement, a row of the CSV file; ``failure`` is the reason if there is no value."""

    part: str
    benchmark: str
    repeat: int
    value: float
    unit: str
    peak_mib: float
    note: str = ""
    failure: str = ""


def ratio(names: str, results: Sequence[Result]) -> float:
    """Ratio ``A ÷ B`` of two benchmarks' medians: of memory in the table ``memory``, else of the value."""
    medians = []
    for name in names.split(" ÷ "):
        good = [result for result in results if result.benchmark == name and not result.failure]
        values = [result.peak_mib if result.part == "memory" else result.value for result in good]
        medians.append(median(values) if values else float("nan"))
    return medians[0] / medians[1]


def result_table(title: str, results: Sequence[Result]) -> Table:
    """Table with one row per benchmark: medians over the repeats, and ratios."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "median", "min … max", "peak memory", "ratio of medians"):
        table.add_column(column, justify="left" if column in ("", "ratio of medians") else "right")
    notes = []
    for name in dict.fromkeys(result.benchmark for result in results):
        benchmark, runs = BENCHMARKS[name], [result for result in results if result.benchmark == name]
        failures = [result.failure for result in runs if result.failure]
        good = [result for result in runs if not result.failure]
        notes += [f"{benchmark.label}: {good[-1].note}"] if good and good[-1].note else []
        notes += [f"{benchmark.label}: failed {len(failures)} of {len(runs)} times: {failures[-1]}"] if failures else []
        if not good:
            table.add_row(benchmark.label, "failed")
            continue
        values = [result.value for result in good]
        cells = [f"{median(values):.4g} {benchmark.unit}", f"{min(values):.4g} … {max(values):.4g}"]
        peak = f"{median(result.peak_mib for result in good):,.0f} MiB"
        shown = f"{benchmark.ratio}: {ratio(benchmark.ratio, results):.2f}" if benchmark.ratio else ""
        table.add_row(benchmark.label, *cells, peak, shown)
    table.caption, table.caption_justify = "\n".join(notes), "left"
    return table


def measure(part: str, name: str, repeat: int, options: Options) -> Result:
    """Measure a benchmark in its own process."""
    benchmark = PARTS[part][name]
    root = options.scratch / "links" if part == "memory" else options.root
    if name == "keras":
        command = [options.keras, "-m", "scripts.bench.keras_reference"]
    else:
        command = [sys.executable, "-m", "scripts.bench.cpu", "--benchmark", name, "--scratch", options.scratch]
        command += ["--weights", options.weights] if options.weights else []
    command += ["--root", root, "--net", options.net, "--epochs", options.epochs]
    # The benchmarks of one round share the cache, different rounds do not.
    shared = name if benchmark.once else f"{part} {repeat} {name if benchmark.own_cache else ''}"
    cache = options.scratch / "cache" / shared
    environment = {**os.environ, "ANIMALS_PL_CACHE": str(cache), "NO_ALBUMENTATIONS_UPDATE": "1"}
    outcome = run(list(map(str, command)), environment)
    lines = [line for line in outcome.stdout.splitlines() if line.startswith("[")]
    failed = outcome.exit_code or not lines
    value, note = (float("nan"), "") if failed else json.loads(lines[-1])
    failure = outcome.last_error or f"exit code {outcome.exit_code}" if failed else ""
    return Result(part, name, repeat, value, benchmark.unit, outcome.peak / 2**20, note, failure)


def machine(keras: Path | None) -> str:
    """Cores, processor, its vector instructions, and versions in one line."""
    packages = {name: version(name) for name in ("torch", "onnxruntime", "openvino")}
    if keras and keras.exists():
        code = "from importlib.metadata import *; print(version(packages_distributions()['tensorflow'][0]))"
        answer = subprocess.run([keras, "-c", code], capture_output=True, text=True, check=False)
        packages["tensorflow"] = answer.stdout.strip() or "absent"
    cores = f"{os.cpu_count()} cores, {cpu_name()} ({', '.join(cpu_vectors()) or 'no vector instructions known'})"
    return "; ".join([cores, *(f"{name} {number}" for name, number in packages.items())])


def keras_python(options: Options) -> Path | None:
    """The Python that has Keras; ``.venv-keras`` is created if needed."""
    if options.no_keras or "frozen" not in options.only:
        return None
    if options.keras:
        return Path(options.keras).absolute()
    folder = PROJECT / ".venv-keras"
    if not folder.exists():
        print(f"installing tensorflow-cpu into {folder} (a few minutes)", file=sys.stderr)
        install = ["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "tensorflow-cpu"]
        try:
            subprocess.run([sys.executable, "-m", "venv", folder], check=True)
            subprocess.run([folder / "bin" / "python", *install], check=True)
        except subprocess.CalledProcessError as error:
            shutil.rmtree(folder, ignore_errors=True)  # an incomplete environment would be used next time
            print(f"Keras could not be installed: {error}", file=sys.stderr)
    return folder / "bin" / "python"


def parse(args: Sequence[str] | None) -> Options:
    """Parse the command line; exit with code 2 and a one-line error if it is invalid."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--net", default="tf_mobilenetv3_large_100", help="timm net of the frozen fit")
    parser.add_argument("--weights", type=Path, help="weights file for --net; default: random weights (same speed)")
    parser.add_argument("--repeats", type=int, default=3, help="measurements per benchmark")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--epochs", type=int, default=15, help="epochs of the frozen fit")
    parser.add_argument("--links", type=int, default=26_179, help="number of symlinked images in the memory benchmark")
    parser.add_argument("--csv", type=Path, default=Path("checkpoints/bench.csv"), help="the file to write")
    parser.add_argument("--keras", type=Path, help="a Python with Keras; default: .venv-keras, created if needed")
    parser.add_argument("--no-keras", action="store_true", help="skip Keras")
    parser.add_argument("--benchmark", choices=BENCHMARKS, help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(args)
    for key in ("repeats", "epochs", "links"):
        if getattr(options, key) < 1:
            parser.error(f"--{key}={getattr(options, key)} is too small. Choose 1 or more.")
    for key in ("weights", "keras"):
        if getattr(options, key) and not getattr(options, key).is_file():
            parser.error(f"--{key}={str(getattr(options, key))!r} is not a file. Pass one, or remove the option.")
    if options.benchmark:
        return options
    try:
        catalog = scan_folder(options.root, argument="root")
        options.root = catalog.root.resolve()
        options.weights = options.weights and options.weights.resolve()
        for path in catalog.paths:  # fill the disk cache
            (options.root / path).read_bytes()
        options.csv.parent.mkdir(parents=True, exist_ok=True)
        options.csv.touch()
    except (UsageError, OSError) as error:
        parser.error(str(error))
    return options


def measure_all(options: Options) -> bool:
    """Print a table per part and write the CSV file; return whether every measurement succeeded."""
    console, succeeded = Console(width=110, highlight=False), True
    with options.csv.open("w", newline="", encoding="utf-8", buffering=1) as stream:
        writer = csv.DictWriter(stream, [field.name for field in fields(Result)])
        writer.writeheader()
        for part in options.only:
            results = []
            for repeat in range(options.repeats):
                for name, benchmark in PARTS[part].items():
                    if (repeat and benchmark.once) or (name == "keras" and not options.keras):
                        continue
                    result = measure(part, name, repeat, options)
                    results.append(result)
                    writer.writerow(asdict(result))
                    shown = result.failure or f"{result.value:.4g} {result.unit}"
                    print(f"{part} {repeat + 1}/{options.repeats} {name}: {shown}", file=sys.stderr, flush=True)
            console.print(result_table(TITLES[part].format(**vars(options)), results))
            succeeded &= not any(result.failure for result in results)
    print(machine(options.keras) + f"; {options.csv}")
    return succeeded


def main(args: Sequence[str] | None = None) -> int:
    """Measure; the exit code is 1 if a benchmark failed."""
    options = parse(args)
    if options.benchmark:
        print(json.dumps(BENCHMARKS[options.benchmark].measure(options)), flush=True)
        return 0
    options.keras = keras_python(options)
    with tempfile.TemporaryDirectory() as scratch:
        options.scratch = Path(scratch)
        if "memory" in options.only:
            link_images(options.root, options.scratch / "links", options.links)
        return 0 if measure_all(options) else 1


if __name__ == "__main__":
    sys.exit(main())
