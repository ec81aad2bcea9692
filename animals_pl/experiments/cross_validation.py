"""Compare recipes by paired cross-validation: the same folds for all, macro recall of the pooled predictions.

    python scripts/cross_validate.py scripts/studies/imbalance.yaml --root datasets/animals10/raw-img

A study is a YAML file: a configuration, settings for all, and variants, which are compared with one of them, the first
or the ``baseline``. Each image is predicted once, by a model that has seen neither it nor a copy of it, after the
last epoch, so that no fold chooses its own. Intervals are percentiles of a bootstrap over the images of each
class, the same draws for all variants. What is done is kept and not done again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from sklearn.model_selection import StratifiedGroupKFold

from animals_pl.cli import main as animals_pl
from animals_pl.data.catalog import Catalog
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError

PROJECT = Path(__file__).resolve().parents[1]
DRAWS = 2000
"""Of the bootstrap."""
INTERVAL = (2.5, 97.5)
"""Percentiles."""


class KeepPredictions(L.Callback):
    """Keeps the logits of the last epoch's validation as ``FILE.npz``, with the seconds that the training took."""

    def __init__(self, file: str) -> None:
        self.file = file
        self.batches: list[torch.Tensor] = []

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Start the clock."""
        self.began = time.perf_counter()

    def on_validation_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget the epoch before."""
        self.batches = []

    def on_validation_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep a batch's logits."""
        self.batches.append(outputs.float().cpu())

    def on_fit_end(self, trainer: Any, pl_module: Any) -> None:
        """Write them."""
        seconds = time.perf_counter() - self.began
        part = Path(self.file).with_suffix(".part.npz")  # whole or not at all: what exists is not done again
        np.savez(part, logits=torch.cat(self.batches).numpy(), seconds=seconds)
        part.replace(self.file)


@dataclass(frozen=True)
class Study:
    """What is compared.

    Attributes:
        config: The configuration that all start from.
        options: Settings of all variants: key → value.
        variants: Name → settings of its own.
        baseline: The variant that the others are compared with; empty: the first.
    """

    config: Path
    options: dict[str, Any]
    variants: dict[str, dict[str, Any]]
    baseline: str = ""


@dataclass(frozen=True)
class Setup:
    """What all variants share.

    Attributes:
        root: Folder of the images.
        catalog: The images.
        fold_of: (N,) the fold in which each is predicted.
        folder: Where results are kept.
    """

    root: Path
    catalog: Catalog
    fold_of: np.ndarray
    folder: Path


@dataclass(frozen=True)
class Outcome:
    """Predictions of one variant for all images: (N,) classes, and seconds per fit."""

    predicted: np.ndarray
    seconds: float


def read_study(file: Path) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: It is absent or malformed.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        variants = {str(name): dict(settings or {}) for name, settings in content["variants"].items()}
        baseline = str(content.get("baseline") or "")
        study = Study(PROJECT / content["config"], dict(content.get("options") or {}), variants, baseline)
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"study={str(file)!r} cannot be read ({type(error).__name__}: {reason}); "
            "see scripts/studies for files with config, options and variants"
        ) from error
    for name in variants:
        if {"/", ":"} & set(name):
            raise UsageError(f"study={str(file)!r}: the variant {name!r} names files; leave out / and :")
    if study.baseline not in ("", *variants):
        raise UsageError(
            f"study={str(file)!r}: baseline={study.baseline!r} is no variant; choose from {list(variants)}"
        )
    if not study.config.is_file() or not variants:
        raise UsageError(f"study={str(file)!r}: config={str(study.config)!r} is not a file, or there are no variants")
    return study


def draw_folds(catalog: Catalog, folds: int, seed: int) -> np.ndarray:
    """Return (N,) the fold in which each image is predicted: stratified, and no group of copies is divided."""
    own = catalog.groups.max(initial=0) + 1 + np.arange(len(catalog.groups))
    groups = np.where(catalog.groups < 0, own, catalog.groups)
    fold_of = np.empty(len(groups), dtype=int)
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(groups, catalog.labels, groups)):
        fold_of[held_out] = fold
    return fold_of


def write_split(file: Path, catalog: Catalog, held_out: np.ndarray) -> None:
    """Write a split file whose validation images are those held out."""
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "split"])
        rows = zip(catalog.paths, held_out.tolist(), strict=True)
        writer.writerows((path, "val" if out else "train") for path, out in rows)


def as_yaml(value: Any) -> str:
    """Return a setting's value as YAML in one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()


def command(study: Study, variant: str, folder: Path, split: Path, predictions: Path, root: Path) -> list[str]:
    """Return the command line of one fit."""
    settings: dict[str, Any] = {
        **{"data.root": root, "data.split": split, "trainer.default_root_dir": folder, "name": variant},
        **{"trainer.enable_checkpointing": False, "trainer.callbacks+": "cross_validate.KeepPredictions"},
        "trainer.callbacks.file": predictions,
    }
    options = {**study.options, **study.variants[variant]}
    args = ["fit", "--config", str(study.config)]
    # Their callbacks first: an argument of a callback belongs to the last one that was named.
    for key, value in [*options.items(), *settings.items()]:
        args += [f"--{key}", str(value) if isinstance(value, str | Path) else as_yaml(value)]
    return args


def fit(study: Study, variant: str, folder: Path, split: Path, root: Path) -> None:
    """Train one variant on one split, if just that has not been done; what it prints goes to a file beside.

    Raises:
        UsageError: The training failed.
    """
    predictions = folder / f"{variant}-{split.stem}.npz"
    args = command(study, variant, folder / "runs", split, predictions, root)
    # A study may be edited and keep its variants' names.
    facts = "\n".join([*args, study.config.read_text(encoding="utf-8"), split.read_text(errors="surrogateescape")])
    digest = hashlib.sha256(facts.encode(errors="surrogateescape")).hexdigest()
    done = predictions.with_suffix(".sha256")
    if predictions.exists() and done.exists() and done.read_text() == digest:
        return
    log = predictions.with_suffix(".txt")
    with log.open("w") as stream, contextlib.redirect_stdout(stream), contextlib.redirect_stderr(stream):
        failed = animals_pl(args)
    if failed:
        raise UsageError(f"{variant!r} failed: {log.read_text().strip().splitlines()[-1]}")
    done.write_text(digest)


def fit_fold(study: Study, variant: str, setup: Setup, fold: int) -> None:
    """Train one variant on all folds but one, and predict that one, if that has not been done.

    Raises:
        UsageError: The training failed.
    """
    split = setup.folder / f"fold{fold}.csv"
    write_split(split, setup.catalog, setup.fold_of == fold)
    fit(study, variant, setup.folder, split, setup.root)


def collect(variant: str, folder: Path, fold_of: np.ndarray, folds: int | None = None) -> Outcome:
    """Put the predictions of the first folds together, or of all; -1 where there are none."""
    predicted, seconds = np.full(len(fold_of), -1), []
    for fold in range(fold_of.max() + 1 if folds is None else folds):
        kept = np.load(folder / f"{variant}-fold{fold}.npz")
        predicted[fold_of == fold] = kept["logits"].argmax(1)
        seconds.append(float(kept["seconds"]))
    return Outcome(predicted, float(np.median(seconds)))


def recalls(labels: np.ndarray, predicted: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Return (DRAWS + 1,) macro recall of all images, and of each draw of as many of each class.

    Args:
        labels: (N,) true classes.
        predicted: (N,) predicted classes.
        draws: (DRAWS, N) how often each draw takes an image.
    """
    right = labels == predicted
    classes = np.unique(labels)
    counts = np.vstack([np.ones(len(labels), dtype=draws.dtype), draws])
    return np.mean([counts[:, labels == c] @ right[labels == c] / np.sum(labels == c) for c in classes], axis=0)


def bootstrap(labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Return (DRAWS, N) how often each draw takes an image: from each class as many as it has."""
    rng = np.random.default_rng(seed)
    draws = np.zeros((DRAWS, len(labels)), dtype=np.int16)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        chosen = rng.integers(0, len(members), (DRAWS, len(members)))
        for position in range(len(members)):
            draws[:, members[position]] = (chosen == position).sum(axis=1)
    return draws


def table(outcomes: dict[str, Outcome], labels: np.ndarray, baseline: str, markdown: bool) -> Table:
    """Return one row per variant: macro recall, accuracy, the difference from the baseline variant, seconds."""
    result = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
    columns = ("macro recall", "95 % interval", "accuracy", "difference", "95 % interval", "seconds")
    result.add_column("variant", overflow="fold")
    for column in columns:
        result.add_column(column, justify="right", no_wrap=True)
    draws = bootstrap(labels)
    compared = recalls(labels, outcomes[baseline].predicted, draws)
    for name, outcome in outcomes.items():
        values = recalls(labels, outcome.predicted, draws)
        low, high = np.percentile(values[1:], INTERVAL)
        row = [name, f"{values[0]:.4f}", f"{low:.4f} … {high:.4f}", f"{np.mean(outcome.predicted == labels):.4f}"]
        if name == baseline:
            row += ["", ""]
        else:
            low, high = np.percentile(values[1:] - compared[1:], INTERVAL)
            row += [f"{values[0] - compared[0]:+.4f}", f"{low:+.4f} … {high:+.4f}"]
        result.add_row(*row, f"{outcome.seconds:.0f}")
    return result


def add_common_arguments(parser: argparse.ArgumentParser, folds: int) -> None:
    """Add what every script that cross-validates asks for; ``folds`` is the default."""
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--weights", type=Path, help="the backbone's weights; default: the configuration's")
    parser.add_argument("--net", help="the net; default: the configuration's")
    parser.add_argument("--folds", type=int, default=folds)
    parser.add_argument("--seed", type=int, default=0, help="of the folds")
    parser.add_argument(
        "--output", type=Path, default=PROJECT / "checkpoints" / "studies", help="where results are kept"
    )


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file: config, options, variants")
    add_common_arguments(parser, folds=5)
    parser.add_argument("--config", type=Path, help="the configuration to start from; default: the study's")
    parser.add_argument("--only", nargs="+", metavar="VARIANT", help="default: all")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    return parser.parse_args(args)


def set_up(options: argparse.Namespace, study: Study) -> Setup:
    """Put the command line's net and weights into a study, read the images and draw the folds.

    Raises:
        UsageError: The images cannot be read or divided.
    """
    for key, value in (("model.weights", options.weights and options.weights.resolve()), ("model.net", options.net)):
        if value:
            study.options[key] = str(value)
    data = AnimalsDataModule(str(options.root.resolve()))
    data.setup("fit")
    try:
        fold_of = draw_folds(data.decodable, options.folds, options.seed)
    except ValueError as error:
        raise UsageError(f"folds={options.folds}: {error}; choose another --folds, 2 or more") from error
    net = study.options.get("model.net") or yaml.safe_load(study.config.read_text())["model"]["net"]
    folder = options.output / f"{options.study.stem}-{net}-{options.folds}-{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return Setup(options.root.resolve(), data.decodable, fold_of, folder)


def run(options: argparse.Namespace) -> None:
    """Train what is not done yet, and print the table after each variant that is complete."""
    study = read_study(options.study)
    if options.config:
        study = replace(study, config=options.config.resolve())
    setup = set_up(options, study)
    console = Console(width=None if sys.stdout.isatty() else 130, highlight=False)
    outcomes = {}
    for variant in options.only or study.variants:
        if variant not in study.variants:
            raise UsageError(f"only={variant!r} is no variant of {options.study}; choose from {list(study.variants)}")
        for fold in range(options.folds):
            fit_fold(study, variant, setup, fold)
            print(f"{variant}: fold {fold + 1} of {options.folds} done", file=sys.stderr, flush=True)
        outcomes[variant] = collect(variant, setup.folder, setup.fold_of)
    baseline = study.baseline if study.baseline in outcomes else next(iter(outcomes))
    console.print(table(outcomes, setup.catalog.labels, baseline, options.markdown))


def main(args: Sequence[str] | None = None) -> int:
    """Run a study; wrong use ends with one sentence and exit code 2."""
    try:
        run(parse(args))
    except UsageError as error:
        print(f"cross_validate: error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
