"""The command ``cross-validate``: compare variants of a configuration on the same folds."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from animals_pl.errors import UsageError
from animals_pl.experiments.folds import Outcome, bootstrap_macro_recall, macro_recall
from animals_pl.experiments.study import Study, read_study
from animals_pl.files import show

INTERVAL = (2.5, 97.5)
"""Percentiles of the bootstrap that bound an interval."""
COLUMNS = ("macro recall", "95 % interval", "accuracy", "difference", "95 % interval", "seconds")


def cross_validate(
    study: str,
    root: str,
    weights: str | None = None,
    net: str | None = None,
    config: str | None = None,
    only: list[str] | None = None,
    folds: int | None = None,
    seed: int = 0,
    output: str = "checkpoints/studies",
    markdown: bool = False,
) -> None:
    """Compare the variants of a study by paired cross-validation.

    Predictions are out-of-fold, after the last epoch; duplicates share a fold. The table gives macro recall and
    accuracy of the pooled predictions and the difference from the baseline. Intervals are percentiles of a bootstrap
    over the images of each class, with the same samples for all variants. Fits whose results exist are not repeated.

    A study with the key scarce cuts common classes to a few training images instead, and tests on the images left out
    and on shifted copies of them (other framing, resolution, sharpness). Only heads on cached features can be compared.
    Intervals are t intervals over the replicates.

    Args:
        study: YAML file with the keys config and variants, and optionally options, baseline (default: the first
            variant) and scarce. See configs/studies.
        root: Folder with one folder of images per class.
        weights: File with the backbone's weights. Default: those of the configuration.
        net: Name of the net. Default: that of the configuration.
        config: The configuration to start from, a file or a name in configs. Default: the study's.
        only: Variants to run. Default: all.
        folds: Number of folds, 2 or more. Default: 5.
        seed: Seed of the folds or draws.
        output: Folder of the results.
        markdown: Print the table as Markdown.

    Raises:
        UsageError: The study or the images cannot be used, or a fit failed.
    """
    plan = read_study(Path(study)).override(weights, net, config)
    names = only or list(plan.variants)
    for name in names:
        if name not in plan.variants:
            raise UsageError(f"only={name!r} is not a variant of {plan.name}. Choose from {list(plan.variants)}.")
    baseline = plan.baseline if plan.baseline in names else names[0]
    if plan.scarce is None:
        table = _compare_folds(
            plan, names, baseline, Path(root), 5 if folds is None else folds, seed, Path(output), markdown
        )
    elif folds is not None:
        raise UsageError(f"folds={folds} has no effect: {plan.name} has the key scarce. Remove --folds.")
    else:
        table = _compare_scarce(plan, names, baseline, Path(root), seed, Path(output), markdown)
    show(table, width=200)


def _compare_folds(
    plan: Study, names: list[str], baseline: str, root: Path, folds: int, seed: int, output: Path, markdown: bool
) -> Table:
    from animals_pl.experiments.fold_fits import fit_fold, load_outcome, prepare_folds

    shared = prepare_folds(plan, root, folds, seed, output)
    outcomes = {}
    for name in names:
        for fold in range(folds):
            fit_fold(plan, name, shared, fold)
            print(f"{name}: fold {fold + 1} of {folds} done", file=sys.stderr, flush=True)
        outcomes[name] = load_outcome(name, shared, folds)
    return comparison(outcomes, shared.catalog.labels, baseline, markdown)


def _compare_scarce(
    plan: Study, names: list[str], baseline: str, root: Path, seed: int, output: Path, markdown: bool
) -> Table:
    from animals_pl.experiments.scarce_fits import fit_variant, prepare_scarce
    from animals_pl.experiments.scarce_table import scarce_table

    shared = prepare_scarce(plan, root, seed, output)
    outcomes = {}
    for name in names:
        outcomes[name] = fit_variant(plan, name, shared)
        print(f"{name}: done, {outcomes[name].seconds:.1f} s per fit", file=sys.stderr, flush=True)
    return scarce_table(outcomes, baseline, markdown)


def comparison(outcomes: Mapping[str, Outcome], labels: np.ndarray, baseline: str, markdown: bool = False) -> Table:
    """Table with one row per variant; differences are from the variant ``baseline``."""
    table = Table(box=box.MARKDOWN if markdown else box.SIMPLE_HEAD, pad_edge=markdown)
    table.add_column("variant", overflow="fold")
    for column in COLUMNS:
        table.add_column(column, justify="right", no_wrap=True)
    recalls = {name: macro_recall(labels, outcome.predicted) for name, outcome in outcomes.items()}
    predicted = np.stack([outcome.predicted for outcome in outcomes.values()])
    samples = dict(zip(outcomes, bootstrap_macro_recall(labels, predicted), strict=True))
    for name, outcome in outcomes.items():
        low, high = np.percentile(samples[name], INTERVAL)
        row = [name, f"{recalls[name]:.4f}", f"{low:.4f} … {high:.4f}", f"{np.mean(outcome.predicted == labels):.4f}"]
        if name == baseline:
            row += ["", ""]
        else:
            low, high = np.percentile(samples[name] - samples[baseline], INTERVAL)
            row += [f"{recalls[name] - recalls[baseline]:+.4f}", f"{low:+.4f} … {high:+.4f}"]
        table.add_row(*row, f"{outcome.seconds:.0f}")
    return table
