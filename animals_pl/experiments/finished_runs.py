"""Read finished runs from disk: best epoch, architecture, trainable parameters, validation images."""

from __future__ import annotations

import csv
import hashlib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from animals_pl.errors import UsageError, one_line
from animals_pl.models.registry import FROM_SCRATCH
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics

Result = TypeVar("Result")

CHECKPOINTS = ("best.ckpt", "last.ckpt")
BATCH_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
REASON_LENGTH = 120
"""Maximum number of characters of a reason."""


@dataclass(frozen=True)
class FinishedRun:
    """A run with at least one complete epoch.

    Attributes:
        label: NAME/version_N.
        name: NAME without the folders above it, as in the run's configuration.
        architecture: Net and variant in words.
        trainable: Number of trainable parameters; ``None`` without a readable checkpoint.
        epochs: Number of complete epochs.
        best: Metrics of the best epoch by the run's own monitor.
        images: Digest of the validation images; ``None`` without a readable split.csv.
    """

    label: str
    name: str
    architecture: str
    trainable: int | None
    epochs: int
    best: Row
    images: str | None


@dataclass(frozen=True)
class FoundRuns:
    """Runs below a folder.

    Attributes:
        runs: Runs with at least one validated epoch.
        incomplete: Labels of runs without a complete epoch.
        unvalidated: Labels of runs with complete epochs, none of them validated.
        without_checkpoint: Labels of ``runs`` that have no checkpoint.
        unreadable: Files that cannot be read, each with the reason.
    """

    runs: list[FinishedRun] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unvalidated: list[str] = field(default_factory=list)
    without_checkpoint: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_runs(folder: Path) -> FoundRuns:
    """Read all runs below a folder.

    Raises:
        UsageError: The folder does not exist or has no runs.
    """
    root = folder.resolve()
    candidates = [path for path in (root, *root.rglob("version_*")) if re.fullmatch(r"version_\d+", path.name)]
    marks = ("config.yaml", "metrics.csv", *CHECKPOINTS)  # the numbered reports of analyze have none of these
    folders = [path for path in candidates if any((path / mark).exists() for mark in marks)]
    if not folders:
        raise UsageError(
            f"folder={str(folder)!r} {'has no runs' if folder.is_dir() else 'is not a folder'}. Pass the folder of "
            "your runs, or train a first one with 'python -m animals_pl fit --config quickstart'."
        )
    found = FoundRuns()
    for path in sorted(folders, key=lambda path: (path.parent, int(path.name.removeprefix("version_")))):
        # The label includes the run's name even if its own folder was given.
        label = "/".join(path.parts[-max(2, len(path.relative_to(root).parts)) :])
        _read_run(path, label, found)
    return found


def _read_run(path: Path, label: str, found: FoundRuns) -> None:
    """Append the run to ``found.runs``, or its label to the list that says what is missing."""
    rows = _try(_read_epochs, path / "metrics.csv", label, found)
    config = _try(read_config, path / "config.yaml", label, found) if rows else None
    if rows is None or (rows and config is None):
        return
    best = best_epoch(rows, config[0]) if config else {}
    if not config or not best:
        (found.unvalidated if rows else found.incomplete).append(label)
        return
    files = [path / name for name in CHECKPOINTS if (path / name).exists()]
    if not files:
        found.without_checkpoint.append(label)
    counts = (_try(_read_trainable, file, label, found) for file in files)
    trainable = next((number for number in counts if number is not None), None)
    images = _try(validation_digest, path / "split.csv", label, found)
    found.runs.append(FinishedRun(label, path.parent.name, config[1], trainable, len(rows), best, images))


def _read_epochs(file: Path) -> list[Row]:
    rows = read_metrics(file)
    if any(not row.get("epoch", math.nan).is_integer() for row in rows):
        raise ValueError("a row has no epoch")
    return rows


def _read_trainable(file: Path) -> int:
    from animals_pl.training.checkpoint import load_checkpoint

    return count_trainable(load_checkpoint(file, mmap=True))


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


def read_config(file: Path) -> tuple[str, str]:
    """Monitor and architecture of a run, from its config.yaml; ValueError if it is another file."""
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    config = config if isinstance(config, dict) else {}
    model, data = config.get("model"), config.get("data")
    monitor = config.get("monitor", "loss/val")
    if not isinstance(model, dict) or not isinstance(data, dict) or not isinstance(monitor, str) or "net" not in model:
        raise ValueError("not the configuration of a run")
    return monitor, describe(model, str(data.get("augment", "none")))


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


def count_trainable(checkpoint: Mapping[str, Any]) -> int:
    """Number of trained parameters of a checkpoint's net.

    Buffers (BatchNorm statistics, the pixels' mean and standard deviation) and a frozen backbone are not counted.
    """
    frozen = checkpoint["hyper_parameters"].get("freeze")
    excluded = ("net.normalize.", "net.backbone.") if frozen else ("net.normalize.",)
    return sum(
        tensor.numel()
        for key, tensor in checkpoint["state_dict"].items()
        if key.startswith("net.") and not key.startswith(excluded) and not key.endswith(BATCH_NORM_BUFFERS)
    )


def validation_digest(file: Path) -> str:
    """Digest of the content hashes, or else paths, of a split's validation images; ValueError if there are none."""
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("split") == "val"]
    names = sorted(row.get("sha256") or row.get("path") or "" for row in rows)
    if not names:
        raise ValueError("no validation images")
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
