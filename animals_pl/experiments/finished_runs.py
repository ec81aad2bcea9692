"""What runs have left on disk: their best epochs, architectures and validation images."""

from __future__ import annotations

import csv
import hashlib
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from animals_pl.errors import UsageError
from animals_pl.models.registry import FROM_SCRATCH
from animals_pl.training.metrics_csv import Row, best_epoch, read_metrics

CHECKPOINTS = ("best.ckpt", "last.ckpt")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


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
        images: Digest of the validation images; ``None`` where they are not known.
    """

    label: str
    name: str
    architecture: str
    trainable: int | None
    epochs: int
    best: Row
    images: str | None


@dataclass(frozen=True)
class Found:
    """What is below a folder: complete runs, labels of those without a complete epoch, and unreadable files."""

    runs: list[Run] = field(default_factory=list)
    incomplete: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


class UnreadableError(Exception):
    """A file of a run cannot be read; the message names it and says why."""


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
    images = None
    try:
        with _reading(label, path / "split.csv"):
            images = validation_digest(path / "split.csv")
    except UnreadableError as error:
        found.unreadable.append(str(error))
    found.runs.append(Run(label, path.parent.name, architecture, trainable, len(rows), best, images))


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
    if model["net"] not in FROM_SCRATCH:
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
    """Return a digest of the validation images: of their contents where the file tells them, else their paths.

    Args:
        file: The split.csv of a run.

    Raises:
        ValueError: The file names no validation images.
    """
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        rows = [row for row in csv.DictReader(stream) if row.get("split") == "val"]
    names = sorted(row.get("sha256") or row.get("path") or "" for row in rows)
    if not names:
        raise ValueError("it names no validation images")
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()
