"""The verb ``report``: every run below a folder in one table, best first, beside what the reference published."""

from __future__ import annotations

import csv
import hashlib
import math
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from animals_pl.errors import UsageError
from animals_pl.evaluation.epoch_rows import Row, best_epoch, read_metrics
from animals_pl.evaluation.reference import REFERENCE

RankBy = Literal["macro_recall", "acc", "loss", "macro_f1"]
RANKED_BY = {"macro_recall": "macro recall", "acc": "accuracy", "loss": "loss", "macro_f1": "macro-F1"}
COLUMNS = ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val", "macro_f1/val")
HEADINGS = (
    "trainable parameters",
    "epochs",
    "best epoch",
    *("train loss", "train acc", "val loss", "val acc", "macro recall", "macro F1"),
)
CHECKPOINTS = ("best.ckpt", "last.ckpt")
OWN_NETS = ("shallownet", "lenet", "minivggnet")
"""Nets that come whole: head, features and freezing have no meaning for them."""
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
OTHER_PHOTOGRAPHS = "†"
ROOMY = 120
"""Columns of a screen, or of a file, from which the numbers stand further apart."""


@dataclass(frozen=True)
class Run:
    """One run that has completed an epoch.

    Attributes:
        label: NAME/version_N.
        name: NAME without folders above it: what the run's configuration calls it.
        architecture: Net and variant in words.
        trainable: Trainable parameters; ``None`` where no checkpoint tells them.
        epochs: Epochs run.
        best: The row of the best epoch by the run's own monitor.
        photographs: Digest of the validation photographs; ``None`` where they are not known.
    """

    label: str
    name: str
    architecture: str
    trainable: int | None
    epochs: int
    best: Row
    photographs: str | None


@dataclass(frozen=True)
class Found:
    """What is below a folder: complete runs, labels of those without a complete epoch, and unreadable files."""

    runs: list[Run] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Line:
    """A row of the report: a run, or what the reference published of it."""

    rank: str
    run: str
    architecture: str
    numbers: list[str]


class UnreadableError(Exception):
    """A file of a run cannot be read; the message names it and says why."""


def report(folder: str = "checkpoints", output: str | None = None, rank_by: RankBy = "macro_recall") -> None:
    """Rank all runs below a folder, each at its best epoch, beside what the reference published.

    Args:
        folder: Where the runs are: FOLDER/NAME/version_N.
        output: A file to write the same table to, as Markdown.
        rank_by: What the runs are ranked by, of the validation photographs; equal ones by trainable parameters.

    Raises:
        UsageError: There are no runs, or the output cannot be written.
    """
    found = find_runs(Path(folder))
    runs = ranked(found.runs, rank_by)
    lines = table_lines(runs)
    notes = [*legend(lines, rank_by), *remarks(found)] if runs else remarks(found)
    console = _console()
    if runs:
        console.print(terminal_table(lines, console.width))
    for note in notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    if output is not None:
        _write(Path(output), markdown(lines, notes))
        console.print(f"{output} written", highlight=False, markup=False, soft_wrap=True)


def find_runs(folder: Path) -> Found:
    """Read every run below a folder.

    Raises:
        UsageError: There is no such folder, or there are no runs below it.
    """
    remedy = (
        "pass the folder that runs were written to, or train a first one with "
        "'python -m animals_pl fit --config configs/quickstart.yaml'"
    )
    if not folder.is_dir():
        raise UsageError(f"folder={str(folder)!r} is not a folder; {remedy}")
    root = folder.resolve()
    candidates = [path for path in (root, *root.rglob("version_*")) if re.fullmatch(r"version_\d+", path.name)]
    folders = [path for path in candidates if _is_run(path)]
    if not folders:
        raise UsageError(f"folder={str(folder)!r} holds no runs; {remedy}")
    found = Found()
    for path in sorted(folders, key=lambda path: (path.parent, int(path.name.removeprefix("version_")))):
        # A run's name is above its version, also where the folder of the name itself was given.
        label = "/".join(path.parts[-max(2, len(path.relative_to(root).parts)) :])
        _read_run(path, label, found)
    return found


def _is_run(path: Path) -> bool:
    """Tell runs from what else is numbered so: the reports of analyze."""
    return any((path / name).exists() for name in ("config.yaml", "metrics.csv", *CHECKPOINTS))


def _read_run(path: Path, label: str, found: Found) -> None:
    """Add a run, or the reason why it cannot be one, to what was found."""
    try:
        with _reading(label, path / "metrics.csv"):
            rows = read_metrics(path / "metrics.csv")
            if any(not row.get("epoch", math.nan).is_integer() for row in rows):
                raise ValueError("a row has no epoch")
        if not rows:
            found.incomplete.append(label)
            return
        with _reading(label, path / "config.yaml"):
            monitor, architecture = read_config(path / "config.yaml")
    except UnreadableError as error:
        found.unreadable.append(str(error))
        return
    best = best_epoch(rows, monitor)
    if not best:
        found.incomplete.append(label)
        return
    trainable = _read_trainable(path, label, found)
    photographs = None
    try:
        with _reading(label, path / "split.csv"):
            photographs = validation_digest(path / "split.csv")
    except UnreadableError as error:
        found.unreadable.append(str(error))
    found.runs.append(Run(label, path.parent.name, architecture, trainable, len(rows), best, photographs))


def _read_trainable(path: Path, label: str, found: Found) -> int | None:
    """Count the trainable parameters in the first checkpoint that can be read."""
    files = [path / name for name in CHECKPOINTS if (path / name).exists()]
    for file in files or [path / CHECKPOINTS[0]]:
        try:
            with _reading(label, file):
                return count_trainable(_load_mapped(file))
        except UnreadableError as error:
            found.unreadable.append(str(error))
    return None


@contextmanager
def _reading(label: str, file: Path) -> Iterator[None]:
    """Turn whatever goes wrong with a file into one line that names it."""
    try:
        yield
    except Exception as error:  # csv, yaml, pickle, zip and torch each raise their own
        reason = " ".join((error.strerror or "" if isinstance(error, OSError) else str(error)).split())
        reason = f"{reason[:117]}..." if len(reason) > 120 else reason
        raise UnreadableError(f"{label}/{file.name} ({type(error).__name__}: {reason})") from error


def read_config(file: Path) -> tuple[str, str]:
    """Return the monitor of a run and its architecture in words.

    Args:
        file: The config.yaml of the run.

    Raises:
        ValueError: It is YAML, but no configuration.
    """
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = config if isinstance(config, dict) else {}
    model, data = config.get("model"), config.get("data")
    monitor = config.get("monitor", "loss/val")
    if not isinstance(model, dict) or not isinstance(data, dict) or not isinstance(monitor, str) or "net" not in model:
        raise ValueError("it is not the configuration of a run")
    return monitor, describe(model, str(data.get("augment", "none")))


def describe(model: Mapping[str, Any], augment: str) -> str:
    """Return net, head, features, what of it was trained, and augmentation in words.

    Args:
        model: The settings below ``model`` in a configuration.
        augment: The setting ``data.augment``.
    """
    parts = [str(model["net"])]
    if model["net"] not in OWN_NETS:
        parts += [f"{model.get('head', 'linear')} head", f"{model.get('features', 'pooled')} features"]
    if model.get("freeze"):
        parts.append("frozen" if model.get("weights") else "frozen at random weights")
    else:
        parts.append("fine-tuned" if model.get("weights") else "from scratch")
    parts.append("no augmentation" if augment == "none" else f"augmentation {Path(augment).name}")
    return ", ".join(parts)


def _load_mapped(file: Path) -> dict[str, Any]:
    import torch

    if not zipfile.is_zipfile(file):
        raise ValueError("it is no checkpoint, or only a part of one")
    # Mapped, a checkpoint of a gigabyte takes no time: the shapes are all that is read.
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


def count_trainable(checkpoint: Mapping[str, Any]) -> int:
    """Return the number of parameters of a checkpoint's net that were trained.

    Buffers (BatchNorm statistics, mean and standard deviation of the pixels) are none, nor is a frozen backbone.

    Args:
        checkpoint: What ``fit`` has saved.

    Raises:
        ValueError: It is not a checkpoint of this project.
    """
    state, settings = checkpoint.get("state_dict"), checkpoint.get("hyper_parameters")
    if not isinstance(state, Mapping) or not isinstance(settings, Mapping) or "net" not in settings:
        raise ValueError("it is not a checkpoint of animals_pl")
    apart = ("net.normalize.", "net.backbone.") if settings.get("freeze") else ("net.normalize.",)
    return sum(
        tensor.numel()
        for key, tensor in state.items()
        if key.startswith("net.") and not key.startswith(apart) and not key.endswith(STATISTICS)
    )


def validation_digest(file: Path) -> str:
    """Return a digest of the validation photographs: of their contents where the file tells them, else their paths.

    Args:
        file: The split.csv of a run.

    Raises:
        ValueError: The file names no validation photographs.
    """
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("split") == "val"]
    names = sorted(row.get("sha256") or row.get("path") or "" for row in rows)
    if not names:
        raise ValueError("it names no validation photographs")
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()


def ranked(runs: list[Run], rank_by: RankBy) -> list[Run]:
    """Order runs, the best first; those that are equal to four decimals by fewer trainable parameters.

    Args:
        runs: The runs.
        rank_by: The metric.
    """

    def place(run: Run) -> tuple[float, float]:
        value = run.best.get(f"{rank_by}/val", math.nan)
        badness = math.inf if math.isnan(value) else round(value, 4) * (1 if rank_by == "loss" else -1)
        return badness, math.inf if run.trainable is None else run.trainable

    return sorted(runs, key=place)


def table_lines(runs: list[Run]) -> list[Line]:
    """Return the rows of the report; under a run of one of the reference's experiments stands what it published.

    Args:
        runs: The runs in the order of their ranks.
    """
    lines = []
    for rank, run in enumerate(runs, 1):
        comparable = run.photographs is not None and run.photographs == runs[0].photographs
        mark = "" if comparable or len(runs) == 1 else f" {OTHER_PHOTOGRAPHS}"
        trainable = "" if run.trainable is None else f"{run.trainable:,}"
        numbers = [trainable, str(run.epochs), str(int(run.best["epoch"]) + 1)]
        numbers += [f"{run.best[key]:.4f}" if key in run.best else "" for key in COLUMNS]
        lines.append(Line(str(rank), run.label + mark, run.architecture, numbers))
        if published := REFERENCE.get(run.name):
            lines.append(Line("", "reference", published.title, [*published.cells(), "", ""]))
    return lines


def legend(lines: list[Line], rank_by: RankBy) -> list[str]:
    """Return what has to be known to read the table.

    Args:
        lines: The rows of the table.
        rank_by: What they are ranked by.
    """
    notes = [
        f"Ranked by {RANKED_BY[rank_by]} on the validation photographs at each run's best epoch; "
        "equal ones by fewer trainable parameters.",
        "Runs are comparable only where they were judged on the same validation photographs.",
    ]
    if any(line.run.endswith(OTHER_PHOTOGRAPHS) for line in lines):
        notes.append(f"{OTHER_PHOTOGRAPHS} judged on other validation photographs than rank 1, or on unknown ones.")
    if any(not line.rank for line in lines):
        notes.append("reference: as published, on validation photographs of its own.")
    return notes


def remarks(found: Found) -> list[str]:
    """Return one line for each run without a complete epoch and for each file that cannot be read."""
    return [
        *(f"not complete: {label}" for label in found.incomplete),
        *(f"not readable: {reason}" for reason in found.unreadable),
    ]


def _console() -> Console:
    console = Console()
    # In a file or a pipe there is no width to keep to, and rich's 80 columns are too few.
    return console if console.is_terminal or "COLUMNS" in os.environ else Console(width=ROOMY)


def terminal_table(lines: list[Line], width: int) -> Table:
    """Return the table for the screen: the architecture stands under the run, so that 100 columns are enough.

    Args:
        lines: The rows.
        width: Columns of the screen.
    """
    gap = 1 if width >= ROOMY else 0  # beside the one of the box
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False, collapse_padding=True, padding=(0, gap))
    table.add_column("#", justify="right", vertical="top")
    table.add_column("run,\narchitecture", overflow="fold", ratio=1)
    for heading in HEADINGS:
        table.add_column("\n".join(heading.split()), justify="right", no_wrap=True)
    for index, line in enumerate(lines):
        if line.rank and index:
            table.add_row()
        if line.rank:
            table.add_row(line.rank, Text.assemble((line.run, "bold"), "\n", line.architecture), *line.numbers)
        else:
            table.add_row("", Text(f"{line.run}: {line.architecture}"), *line.numbers, style="dim")
    return table


def markdown(lines: list[Line], notes: list[str]) -> str:
    """Return the table and the notes as GitHub Markdown.

    Args:
        lines: The rows of the table; none: there is no table.
        notes: What stands below it.
    """
    headings = ["rank", "model architecture", "run", *HEADINGS]
    rules = ["---:", "---", "---", *["---:"] * len(HEADINGS)]
    body = [[line.rank, line.architecture, line.run, *line.numbers] for line in lines]
    rows = [headings, rules, *([_escape(cell) for cell in cells] for cells in body)] if lines else []
    table = "".join(f"| {' | '.join(cells)} |\n" for cells in rows)
    return "\n".join(filter(None, [table, "".join(f"- {_escape(note)}\n" for note in notes)]))


def _escape(text: str) -> str:
    """Keep what a name holds from being taken for Markdown."""
    return re.sub(r"[\\`*<>\[\]|~]|(?<!\w)_|_(?!\w)", r"\\\g<0>", " ".join(text.split()))


def _write(file: Path, text: str) -> None:
    """Write a file, whole or not at all."""
    try:
        partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            partial.write_text(text, encoding="utf-8", errors="replace")
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)
    except (OSError, ValueError) as error:  # ValueError: there is no name
        reason = error.strerror if isinstance(error, OSError) else error
        raise UsageError(
            f"output={str(file)!r} cannot be written ({reason}); choose another file with --output FILE.md"
        ) from error
