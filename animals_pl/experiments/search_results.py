"""Results of a hyper-parameter search: the table, the tuned configuration, the study that confirms it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import yaml
from rich import box
from rich.table import Table

from animals_pl.experiments.config_edit import edit_config
from animals_pl.experiments.search_space import SearchPlan
from animals_pl.experiments.trials import Trial, Trials
from animals_pl.files import atomic_write, wide_console

SHOWN = 5
"""Trials in the table."""


def print_results(state: Trials, arguments: str) -> None:
    """Print the best trials; write the best as a configuration and as a study to be run with ``arguments``."""
    best = state.best_first()
    if not best:
        print("no trial is complete yet; the same command continues the search", file=sys.stderr)
        return
    wide_console().print(trial_table(state.plan, best))
    count = len(state.finished())
    confirmation = _write_results(state, best[0], count)
    print(
        f"The best of {count} trials is an optimistic estimate. Confirm it on other folds:\n"
        f"  python -m animals_pl cross-validate {shlex.quote(str(confirmation))} {arguments}"
    )


def trial_table(plan: SearchPlan, best: list[Trial]) -> Table:
    """Table of the configuration and the best trials."""
    start = {key: plan.config.get(key, "default") for key in plan.space}
    origin = next((trial.value for trial in best if trial.settings == start), None)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("trial", "macro recall", "difference", *plan.space):
        table.add_column(name, justify="right", overflow="fold")
    table.add_row("start", "–" if origin is None else f"{origin:.4f}", "", *map(str, start.values()))
    for trial in best[:SHOWN]:
        difference = "–" if origin is None else f"{trial.value - origin:+.4f}"
        table.add_row(str(trial.number), f"{trial.value:.4f}", difference, *map(str, trial.settings.values()))
    return table


def _write_results(state: Trials, best: Trial, count: int) -> Path:
    """Write best.yaml and the confirming study; return the file of the study."""
    plan, folder = state.plan, state.folds.folder.resolve()
    heading = (
        f"# Tuned by search: macro recall {best.value:.4f} in {state.folds.fold_of.max() + 1} folds, the best of "
        f"{count} trials and therefore optimistic.\n"
        f"# Below is {plan.study.config.name} with these values.\n"
    )
    study = {
        "config": str(plan.study.config),
        "options": plan.study.options,
        "variants": {"start": {}, "tuned": best.settings},
    }
    confirmation = folder / f"confirm-{plan.study.name}.yaml"
    texts = {
        folder / "best.yaml": heading + tuned_config(plan, state.folds.root, best.settings),
        confirmation: yaml.safe_dump(study, sort_keys=False),
    }
    for file, text in texts.items():
        with atomic_write(file) as partial:
            partial.write_text(text, encoding="utf-8")
        print(f"wrote {file}")
    return confirmation


def tuned_config(plan: SearchPlan, root: Path, settings: dict[str, Any]) -> str:
    """Text of the plan's configuration file with other settings and images.

    Raises:
        UsageError: The file cannot be edited line by line.
    """
    config = plan.config
    changes = {**plan.study.options, **settings, "name": f"{config.get('name', plan.study.config.stem)}_tuned"}
    if Path(config.get("data.root", "")).resolve() != root:
        changes["data.root"] = str(root)
    changes = {key: value for key, value in changes.items() if key not in config or config[key] != value}
    return edit_config(plan.study.config.read_text(encoding="utf-8"), changes)
