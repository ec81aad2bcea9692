"""The command ``reproduce``: retrain the reference's experiments and compare with its published results."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.table import Table

from animals_pl.configurations import CONFIGS
from animals_pl.errors import UsageError, did_you_mean, one_line
from animals_pl.experiments.reference import REFERENCE
from animals_pl.experiments.study import read_yaml
from animals_pl.files import require_writable, show
from animals_pl.models.registry import FROM_SCRATCH
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics

COLUMNS = ("trainable", "source", "epochs", "best", "train loss", "train acc", "val loss", "val acc", "macro recall")


@dataclass(frozen=True)
class Outcome:
    """Result of one experiment: metrics per epoch, initial weights, and the error message if training failed.

    ``start`` is ``pretrained``, ``scratch`` (no pretrained weights by design) or ``random`` (a timm backbone whose
    weights were not found).
    """

    rows: list[Row]
    start: str
    failure: str = ""


def reproduce(
    root: str,
    names: list[str] | None = None,
    weights: str | None = None,
    epochs: int | None = None,
    output: str = "checkpoints",
) -> None:
    """Retrain the reference's experiments and print its results beside ours.

    Args:
        root: Animals-10: folder with one folder of images per class.
        names: Experiments, named as their files in configs. Default: all.
        weights: Folder with NET.safetensors files. Default: timm downloads them.
        epochs: Maximum number of epochs of each experiment. Default: as in the reference project.
        output: Folder of the runs.

    Raises:
        UsageError: A name is unknown.
    """
    for name in names or []:
        if name not in REFERENCE:
            hint = did_you_mean(name, REFERENCE)
            raise UsageError(f"names={name!r} is not an experiment. {hint}Choose from {', '.join(REFERENCE)}.")
    if epochs is not None and epochs < 1:
        raise UsageError(f"epochs={epochs} is too small. Choose 1 or more.")
    for argument, given in (("root", root), ("weights", weights)):
        if given is not None and not Path(given).is_dir():
            raise UsageError(f"{argument}={given!r} is not a folder. Pass another --{argument}.")
    require_writable(Path(output), folder=True)
    folder = Path(weights) if weights else None
    outcomes = {}
    for name in names or REFERENCE:
        print(f"\n== {name}", flush=True)
        outcomes[name] = train(name, Path(root), folder, epochs, Path(output))
    show(comparison(outcomes), width=200)


def find_weights(net: str, folder: Path | None) -> str | None:
    """Value of model.weights: a file of the folder, ``imagenet`` without a folder, or ``None``."""
    if net in FROM_SCRATCH:
        return None
    if folder is None:
        return "imagenet"
    file = folder / f"{net.partition('.')[0]}.safetensors"
    return str(file) if file.is_file() else None


def train(name: str, root: Path, weights_folder: Path | None, epochs: int | None, output: Path) -> Outcome:
    """Run one experiment and read its metrics. A failure is recorded and does not stop the remaining experiments."""
    from animals_pl.lightning_cli import run

    config = CONFIGS / f"{name}.yaml"
    net = read_yaml(config, "config")["model"]["net"]
    weights = find_weights(net, weights_folder)
    start = "pretrained" if weights else "scratch" if net in FROM_SCRATCH else "random"
    full = REFERENCE[name].epochs
    options = {
        "data.root": root,
        "data.group_duplicates": "false",  # as in the reference's split
        "trainer.default_root_dir": output,
        "trainer.max_epochs": min(epochs or full, full),
        "model.weights": weights or "null",
    }
    args = ["fit", "--config", config, *(part for key, value in options.items() for part in (f"--{key}", value))]
    try:
        trainer = run([str(arg) for arg in args]).trainer
    except Exception as error:  # such as a GPU that is out of memory
        return Outcome([], start, one_line(error))
    return Outcome(read_metrics(Path(trainer.default_root_dir) / "metrics.csv"), start)


def describe(name: str, outcome: Outcome | None) -> list[str]:
    """Cells of one experiment: epochs, best epoch, losses, accuracies, macro recall, remark.

    Metrics of a backbone with random weights are not shown, because they are not comparable.
    """
    full = REFERENCE[name].epochs
    if outcome is None:
        return [""] * 7 + ["not run"]
    if outcome.failure:
        return [""] * 7 + [f"failed: {outcome.failure}"]
    epochs = len(outcome.rows)
    if outcome.start == "random":
        return [str(epochs)] + [""] * 6 + ["no pretrained weights, so no result"]
    best = best_epoch(outcome.rows, "loss/val")
    cells = [f"{best[key]:.4f}" for key in ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val")]
    remark = "" if epochs == full else f"{epochs} of {full} epochs"
    return [str(epochs), str(int(best["epoch"]) + 1), *cells, remark]


def comparison(outcomes: dict[str, Outcome]) -> Table:
    """Markdown table of published and our results per experiment."""
    table = Table(box=box.MARKDOWN)
    for column in ("configuration", *COLUMNS, "remark"):
        table.add_column(column, justify="right" if column in COLUMNS else "left")
    for name, published in REFERENCE.items():
        trainable, *numbers = published.cells()
        table.add_row(name, trainable, "reference", *numbers, "", "")
        table.add_row("", "", "ours", *describe(name, outcomes.get(name)))
    return table
