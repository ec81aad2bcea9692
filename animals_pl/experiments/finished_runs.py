"""Read finished runs from disk: epochs, architecture, size and speed, test metrics, images."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from animals_pl.errors import UsageError, one_line
from animals_pl.experiments.run_evaluation import RunTest, SplitImages, read_split, read_test
from animals_pl.models.registry import FROM_SCRATCH
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics
from animals_pl.training.speed_json import Size, Speed, model_size, read_speed

Result = TypeVar("Result")

CHECKPOINTS = ("best.ckpt", "last.ckpt")
MARKS = {"config.yaml", "metrics.csv", *CHECKPOINTS}
"""A folder with one of these files is a run."""

VERSION = re.compile(r"version_\d+")
REASON_LENGTH = 120
"""Maximum number of characters of a reason."""


@dataclass(frozen=True)
class RunConfig:
    """The part of a run's config.yaml that is reported.

    Attributes:
        monitor: Metric that selects the best epoch.
        architecture: Net and variant in words.
        tta: Test-time augmentation.
    """

    monitor: str
    architecture: str
    tta: str


@dataclass(frozen=True)
class FinishedRun:
    """A run with at least one complete epoch.

    Attributes:
        label: NAME/version_N.
        name: NAME without the folders above it, as in the run's configuration.
        config: What config.yaml says.
        rows: Metrics of each complete epoch.
        best: Metrics of the best epoch by the run's own monitor.
        size: Size of the model; ``None`` without speed.json and without a readable checkpoint.
        speed: Speed of the model; ``None`` without speed.json, as for an interrupted run.
        split: Its validation and test images; ``None`` without a readable split.csv.
        test: Test metrics of best.ckpt with the run's settings on all test images; ``None`` without such a test.
    """

    label: str
    name: str
    config: RunConfig
    rows: list[Row]
    best: Row
    size: Size | None
    speed: Speed | None
    split: SplitImages | None
    test: RunTest | None

    @property
    def seconds(self) -> float | None:
        """Duration of all epochs; ``None`` if it is not known."""
        seconds = [row["seconds"] for row in self.rows if "seconds" in row]
        return sum(seconds) if seconds else None


@dataclass(frozen=True)
class FoundRuns:
    """Runs below a folder.

    Attributes:
        runs: Runs with at least one validated epoch.
        incomplete: Labels of runs without a complete epoch.
        unvalidated: Labels of runs with complete epochs, none of them validated.
        without_checkpoint: Labels of ``runs`` that have no checkpoint.
        other_tests: Labels of ``runs`` whose test was of another checkpoint, with other settings or on part of the
            images, with the reason.
        foreign: Labels of numbered folders without any file of a run.
        unreadable: Files and folders that cannot be read, each with the reason.
    """

    runs: list[FinishedRun] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unvalidated: list[str] = field(default_factory=list)
    without_checkpoint: list[str] = field(default_factory=list)
    other_tests: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_runs(folder: Path) -> FoundRuns:
    """Read all runs below a folder.

    Raises:
        UsageError: The folder does not exist or has no runs.
    """
    root, found = folder.resolve(), FoundRuns()
    candidates = dict(_numbered_folders(root, found))
    unread = root.is_dir() and found.unreadable
    if not unread and not any(MARKS & files for files in candidates.values()):
        raise UsageError(
            f"folder={str(folder)!r} {'has no runs' if folder.is_dir() else 'is not a folder'}. Pass the folder of "
            "your runs, or train a first one with 'python -m animals_pl fit --config quickstart'."
        )
    for path in sorted(candidates, key=lambda path: (path.parent, int(path.name.removeprefix("version_")))):
        files, label = candidates[path], _label(path, root)
        if MARKS & files:
            _read_run(path, files, label, found)
        elif "report.html" not in files:  # a report of analyze
            found.foreign.append(label)
    return found


def _numbered_folders(root: Path, found: FoundRuns) -> Iterator[tuple[Path, set[str]]]:
    """Folders version_N with the names of their files; folders that cannot be read go to ``found.unreadable``."""

    def refuse(error: OSError) -> None:
        found.unreadable.append(f"{_label(Path(error.filename), root)} ({error.strerror})")

    numbered = [root] if VERSION.fullmatch(root.name) else []
    for place, folders, _ in os.walk(root, onerror=refuse):
        numbered += [Path(place, name) for name in folders if VERSION.fullmatch(name)]
    for path in numbered:
        with suppress(OSError):  # listed by the walk
            yield path, {file.name for file in path.iterdir()}


def _label(path: Path, root: Path) -> str:
    """Path below ``root``. For a run, it includes NAME even if ``root`` is the run's own folder or the one above it."""
    fewest = 2 if VERSION.fullmatch(path.name) else 1
    return "/".join(path.parts[-max(fewest, len(path.relative_to(root).parts)) :])


def _read_run(path: Path, files: set[str], label: str, found: FoundRuns) -> None:
    """Append the run to ``found.runs``, or its label to the list that says what is missing."""
    rows = _try(read_metrics, path / "metrics.csv", label, found)
    config = _try(read_config, path / "config.yaml", label, found) if rows or "config.yaml" in files else None
    if rows is None or (config is None and (rows or "config.yaml" in files)):
        return
    best = best_epoch(rows, config.monitor) if config else {}
    if not config or not best:
        (found.unvalidated if rows else found.incomplete).append(label)
        return
    if not files & set(CHECKPOINTS):
        found.without_checkpoint.append(label)
    speed = _try(read_speed, path / "speed.json", label, found) if "speed.json" in files else None
    size = speed or _size_of_checkpoint(path, files, label, found)
    split = _try(read_split, path / "split.csv", label, found)
    test = _test(path, label, found)
    if test and (reason := test.other_model(int(best["epoch"]) + 1, config.tta, split)):
        found.other_tests.append(f"{label} ({reason})")
        test = None
    found.runs.append(FinishedRun(label, path.parent.name, config, rows, best, size, speed, split, test))


def _size_of_checkpoint(path: Path, files: set[str], label: str, found: FoundRuns) -> Size | None:
    sizes = (_try(_read_size, path / name, label, found) for name in CHECKPOINTS if name in files)
    return next((size for size in sizes if size is not None), None)


def _read_size(file: Path) -> Size:
    from animals_pl.training.checkpoint import load_checkpoint  # imports torch

    checkpoint = load_checkpoint(file, mmap=True, verify=False)
    return model_size(checkpoint["state_dict"], frozen=bool(checkpoint["hyper_parameters"].get("freeze")))


def _test(path: Path, label: str, found: FoundRuns) -> RunTest | None:
    file = path / "evaluation" / "test" / "metrics.json"
    return _try(read_test, file, f"{label}/evaluation/test", found) if os.path.lexists(file) else None


def _try(read: Callable[[Path], Result], file: Path, label: str, found: FoundRuns) -> Result | None:
    """``read(file)``, or ``None`` with the reason in ``found.unreadable``."""
    try:
        return read(file)
    except Exception as error:  # csv, yaml and torch may raise any exception
        message = error.strerror or "" if isinstance(error, OSError) else one_line(error)
        reason = message.removeprefix(f"ckpt_path={str(file)!r} ")
        reason = f"{reason[: REASON_LENGTH - 3]}..." if len(reason) > REASON_LENGTH else reason
        kind = "" if isinstance(error, UsageError) else f"{type(error).__name__}: "
        found.unreadable.append(f"{label}/{file.name} ({kind}{reason})")
        return None


def read_config(file: Path) -> RunConfig:
    """Read config.yaml of a run; ValueError if it is not the configuration of a run."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = config if isinstance(config, dict) else {}
    model, data = config.get("model"), config.get("data")
    monitor = config.get("monitor", "loss/val")
    if not isinstance(model, dict) or not isinstance(data, dict) or not isinstance(monitor, str) or "net" not in model:
        raise ValueError("not the configuration of a run")
    return RunConfig(monitor, describe(model, str(data.get("augment", "none"))), str(model.get("tta", "none")))


def describe(model: Mapping[str, Any], augment: str) -> str:
    """Net, head, features, trained part and augmentation in words, from the settings of a configuration."""
    parts = [str(model["net"])]
    if model["net"] not in FROM_SCRATCH:
        parts += [f"{model.get('head', 'linear')} head", f"{model.get('features', 'pooled')} features"]
    if model.get("freeze"):
        parts.append("frozen" if model.get("weights") else "frozen at random weights")
    else:
        parts.append("fine-tuned" if model.get("weights") else "from scratch")
    parts.append("no augmentation" if augment == "none" else f"augmentation {Path(augment).name}")
    return ", ".join(parts)
