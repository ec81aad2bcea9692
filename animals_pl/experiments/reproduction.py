"""Train the reference's experiments one after another and print its table beside ours.

python scripts/reproduce.py --root DIR [--weights FOLDER] [--epochs N] [NAME ...]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.experiments.reference import REFERENCE
from animals_pl.models import registry
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics

PROJECT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Outcome:
    """What became of one experiment.

    Attributes:
        rows: The epochs that were run, as in metrics.csv.
        start: ``pretrained``, ``scratch`` (as meant) or ``random`` (a backbone without its weights).
        failure: The last line of a run that did not end well.
    """

    rows: list[Row]
    start: str
    failure: str = ""


def find_weights(net: str, folder: Path | None) -> str | None:
    """Return the value for model.weights: a file of the folder, ``imagenet`` where no folder is given, or ``None``."""
    if net in registry.FROM_SCRATCH:
        return None
    if folder is None:
        return "imagenet"
    file = folder / f"{net.partition('.')[0]}.safetensors"
    return str(file) if file.is_file() else None


def train(name: str, root: Path, weights_folder: Path | None, epochs: int | None, output: Path) -> Outcome:
    """Run one experiment in a process of its own and read its metrics."""
    config = PROJECT / "configs" / f"{name}.yaml"
    net = yaml.safe_load(config.read_text())["model"]["net"]
    weights = find_weights(net, weights_folder)
    options = {
        "--data.root": root,
        "--data.group_duplicates": "false",  # as in the reference's split
        "--trainer.default_root_dir": output,
        "--trainer.max_epochs": min(epochs or sys.maxsize, REFERENCE[name].epochs),
        "--model.weights": weights or "null",
    }
    command = [sys.executable, "-m", "animals_pl", "fit", "--config", config]
    for option, value in options.items():
        command += [option, value]
    before = set((output / name).glob("version_*"))
    result = subprocess.run(
        [str(part) for part in command], cwd=PROJECT, stderr=subprocess.PIPE, text=True, check=False
    )
    start = "pretrained" if weights else "scratch" if net in registry.FROM_SCRATCH else "random"
    made = set((output / name).glob("version_*")) - before
    rows = read_metrics(made.pop() / "metrics.csv") if made else []
    if result.returncode or not rows:
        return Outcome(rows, start, (result.stderr.strip().splitlines() or ["no output"])[-1])
    return Outcome(rows, start)


def describe(name: str, outcome: Outcome | None) -> list[str]:
    """Return our row of one experiment: epochs, best epoch, losses, accuracies, macro recall, a remark.

    Accuracies of a backbone with random weights are never shown: they say nothing about the method.
    """
    full = REFERENCE[name].epochs
    if outcome is None:
        return [""] * 7 + ["not run"]
    if outcome.failure:
        return [""] * 7 + [f"failed: {outcome.failure}"]
    epochs = len(outcome.rows)
    if outcome.start == "random":
        return [str(epochs)] + [""] * 6 + ["ran, but there are no pretrained weights here: no result"]
    best = best_epoch(outcome.rows, "loss/val")
    cells = [f"{best[key]:.4f}" for key in ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val")]
    remark = "" if epochs == full else f"{epochs} of {full} epochs"
    return [str(epochs), str(int(best["epoch"]) + 1), *cells, remark]


def table(outcomes: dict[str, Outcome]) -> Table:
    """Return the reference's numbers and ours, experiment by experiment, as Markdown."""
    result = Table(box=box.MARKDOWN)
    columns = ("trainable", "whose", "epochs", "best", "train loss", "train acc", "val loss", "val acc", "macro recall")
    for column in ("configuration", *columns, "remark"):
        result.add_column(column, justify="right" if column in columns else "left")
    for name, published in REFERENCE.items():
        trainable, *numbers = published.cells()
        result.add_row(name, trainable, "reference", *numbers, "", "")
        result.add_row("", "", "ours", *describe(name, outcomes.get(name)))
    return result


def main() -> None:
    """Run the experiments that were named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"default: all of {', '.join(REFERENCE)}")
    parser.add_argument("--root", type=Path, required=True, help="Animals-10: one folder of images per class")
    parser.add_argument("--weights", type=Path, help="folder with NET.safetensors files; default: timm downloads them")
    parser.add_argument("--epochs", type=int, help="at most this many epochs each")
    parser.add_argument("--output", type=Path, default=PROJECT / "checkpoints", help="where the runs are written")
    options = parser.parse_args()
    unknown = [name for name in options.names if name not in REFERENCE]
    if unknown:
        parser.error(f"unknown experiment {unknown[0]!r}; choose from {', '.join(REFERENCE)}")
    paths = [path and path.resolve() for path in (options.root, options.weights, options.output)]
    root, weights, output = paths
    outcomes = {}
    for name in options.names or REFERENCE:
        print(f"\n== {name}", flush=True)
        outcomes[name] = train(name, root, weights, options.epochs, output)
    Console(width=200).print(table(outcomes))


if __name__ == "__main__":
    main()
