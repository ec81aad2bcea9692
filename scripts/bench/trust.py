"""Calibration and review contract of a configuration over cross-validation folds.

    python -m scripts.bench.trust --root DIR [--config mobilenetv3_small_best] [--weights FILE] [--net NAME]

Each fold is the test split once, the next fold is the validation split, and the others are for training.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from animals_pl.data.catalog import english_name
from animals_pl.data.loading import load_dataset
from animals_pl.data.tables import write_table
from animals_pl.evaluation.contract import Promise, apply_contract, choose_contract
from animals_pl.experiments.folds import draw_folds
from animals_pl.lightning_cli import run
from animals_pl.reports.saved_evaluations import SavedEvaluation, read_evaluation
from scripts.bench.process_memory import PROJECT

RECALLS = (0.97, 0.9)
"""Goals of the contracts: at most 3 % and 10 % of the images of each class accepted under another label."""


def write_splits(root: Path, folds: int, seed: int, folder: Path) -> list[Path]:
    """Write a split file for each fold."""
    catalog = load_dataset(root, argument="root").usable
    fold_of = draw_folds(catalog, folds, seed)
    files = []
    for fold in range(folds):
        split = np.where(fold_of == fold, "test", np.where(fold_of == (fold + 1) % folds, "val", "train"))
        files.append(folder / f"fold{fold}.csv")
        write_table(pd.DataFrame({"path": catalog.paths, "split": split}), files[-1])
    return files


def evaluate_fold(options: argparse.Namespace, split: Path, prior: str | None) -> Path:
    """Train on a fold, unless its checkpoint exists, evaluate on both splits, and return the run folder."""
    folder = options.output / split.stem / "version_0"
    fit = ["fit", "--config", str(PROJECT / "configs" / f"{options.config}.yaml"), "--data.root", str(options.root)]
    fit += ["--data.split", str(split), "--data.val_fraction", "null", "--data.test_fraction", "null"]
    fit += ["--name", split.stem, "--trainer.default_root_dir", str(options.output)]
    fit += [f"--model.net={options.net}"] if options.net else []
    fit += [f"--model.weights={options.weights}"] if options.weights else []
    best = ["--ckpt_path", str(folder / "best.ckpt"), *([f"--prior={prior}"] if prior else [])]
    with (options.output / f"{split.stem}.txt").open("a") as log, contextlib.redirect_stdout(log):
        if not (folder / "best.ckpt").is_file():
            run(fit)
        run(["validate", *best])
        run(["test", *best])
    return folder


def summary_rows(prior: str, tests: Sequence[SavedEvaluation]) -> Iterator[list[str]]:
    """Mean and standard deviation over the folds, as cells."""
    facts = [test.facts for test in tests]
    values = {
        "accuracy": [fact["acc"]["value"] for fact in facts],
        "macro recall": [fact["macro_recall"]["value"] for fact in facts],
        "log-loss": [fact["log_loss"]["value"] for fact in facts],
        "ECE before T": [fact["ece"]["before"]["value"] for fact in facts],
        "ECE after T": [fact["ece"]["after"]["value"] for fact in facts],
        "T": [fact["temperature"] for fact in facts],
    }
    yield [prior, *(f"{np.mean(value):.3f} ± {np.std(value, ddof=1):.3f}" for value in values.values())]


def contract_rows(recall: float, pairs: Sequence[tuple[SavedEvaluation, SavedEvaluation]]) -> Iterator[list[str]]:
    """Folds in which a recall is promised for a class, and what happens on the test images of these folds."""
    names = pairs[0][0].class_names
    promised, errors, images = (np.zeros(len(names), int) for _ in range(3))
    reviews = []
    for val, test in pairs:
        promises = [Promise("missed", 1 - recall, label) for label in range(len(names))]
        contract = choose_contract(val.scores, val.predictions, val.labels, promises, groups=val.groups)
        result = apply_contract(contract, test.scores, test.predictions, test.labels)
        reviews.append(result.review.value)
        for kept in result.results:
            assert kept.promise.label is not None
            promised[kept.promise.label] += 1
            errors[kept.promise.label] += kept.errors
            images[kept.promise.label] += kept.images
    yield [f"recall {recall}", "", f"review {np.mean(reviews):.1%}", ""]
    for label, name in enumerate(names):
        share = f"{errors[label] / images[label]:.1%}" if images[label] else ""
        yield [english_name(name), f"{promised[label]} of {len(pairs)}", f"{errors[label]} of {images[label]}", share]


def markdown(heading: Sequence[str], rows: Iterator[list[str]]) -> str:
    """A Markdown table."""
    lines = [list(heading), ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines) + "\n"


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--config", default="mobilenetv3_small_best", help="name of a configuration")
    parser.add_argument("--net", help="the net; default: that of the configuration")
    parser.add_argument("--weights", help="file with the weights; default: those of the configuration")
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
    parser.add_argument("--output", type=Path, default=Path("checkpoints/trust"), help="folder of the runs")
    options = parser.parse_args(args)
    options.output.mkdir(parents=True, exist_ok=True)
    splits = write_splits(options.root, options.folds, options.seed, options.output)
    summary: list[list[str]] = []
    for prior in ("train", None):  # the contract below is that of the model's own prior
        runs = [evaluate_fold(options, split, prior) for split in splits]
        pairs = [(read_evaluation(folder, "val"), read_evaluation(folder, "test")) for folder in runs]
        summary += summary_rows(f"`--prior {prior}`" if prior else "default", [test for _, test in pairs])
    print(
        markdown(["prior", "accuracy", "macro recall", "log-loss", "ECE before T", "ECE after T", "T"], iter(summary))
    )
    for recall in RECALLS:
        columns = ("class", "folds with the promise", "test images missed", "share")
        print(markdown(columns, contract_rows(recall, pairs)))


if __name__ == "__main__":
    main()
