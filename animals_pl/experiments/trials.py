"""Trials of a hyperparameter search (Optuna's sampler over cross-validated fits, resumable) and their results."""

from __future__ import annotations

import hashlib
import json
import shlex
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import yaml
from optuna.trial import FrozenTrial, TrialState
from rich import box
from rich.table import Table

from animals_pl.errors import UsageError, one_line
from animals_pl.experiments.config_edit import edit_config
from animals_pl.experiments.fold_fits import StudyData, fit_fold, load_outcome
from animals_pl.experiments.folds import macro_recall
from animals_pl.experiments.search_space import SearchPlan, contains, rounded
from animals_pl.files import atomic_write, show

SHOWN = 5
"""Number of trials in the table."""


@dataclass(frozen=True)
class Trial:
    """A complete trial: its number from 1, settings (``section.key`` → value) and macro recall of all images."""

    number: int
    settings: dict[str, Any]
    value: float


class Trials:
    """The trials of one search, stored in ``search.db`` in the results folder.

    Args:
        plan: Base configuration and search space.
        folds: The images and their folds.
        seed: Seed of the sampler.
    """

    def __init__(self, plan: SearchPlan, folds: StudyData, seed: int) -> None:
        self.plan, self.folds, self.seed = plan, folds, seed
        config, space, catalog = plan.config, plan.space, folds.catalog
        images = [list(catalog.paths), catalog.labels.tolist(), folds.fold_of.tolist()]
        self.digest = _digest(config, plan.study.options, images)
        self.optuna_study = study = optuna.create_study(
            storage=f"sqlite:///{(folds.folder / 'search.db').resolve()}",
            # One Optuna study per configuration, search space and set of images.
            study_name=_digest(self.digest, {key: repr(values) for key, values in space.items()}),
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(),
        )
        if not study.trials:  # the first trial is the configuration, where the space contains its values
            known = [key for key in space if key in config and contains(space[key], config[key])]
            study.enqueue_trial({key: rounded(space[key], config[key]) for key in known})
        for trial in study.get_trials(states=[TrialState.RUNNING]):  # interrupted
            study.tell(trial.number, state=TrialState.FAIL)
            study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def finished(self) -> list[FrozenTrial]:
        """Complete and pruned trials, in order."""
        return self.optuna_study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))

    def best_first(self) -> list[Trial]:
        """Complete trials, best first; ties in the order of the trials."""
        numbered = [
            Trial(number, self.settings(trial.params), trial.value or 0.0)
            for number, trial in enumerate(self.finished(), start=1)
            if trial.state == TrialState.COMPLETE
        ]
        return sorted(numbered, key=lambda trial: -trial.value)

    def settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """Settings of a trial in the order of the search file."""
        return {key: rounded(space, params[key]) for key, space in self.plan.space.items()}

    def variant(self, settings: dict[str, Any]) -> str:
        """Name of the files with the predictions of these settings."""
        return f"trial-{_digest(self.digest, settings)}"

    def run_next(self, total: int) -> None:
        """Run one trial of ``total`` and print its result to standard error.

        Raises:
            UsageError: A fit failed and no trial is complete yet.
        """
        done = len(self.finished())
        # A new sampler for each trial: an interrupted search draws the same values as an uninterrupted one.
        seed = int(np.random.SeedSequence([self.seed, done]).generate_state(1)[0])
        self.optuna_study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self.optuna_study.ask(self.plan.space)
        settings = self.settings(trial.params)
        try:
            value, pruned = self._evaluate(trial, settings)
            result = f"{value:.4f}{pruned}"
        except UsageError as error:
            if not self.best_first():
                raise
            pruned = result = f"failed: {one_line(error)}"
        self.optuna_study.tell(trial, None if pruned else value, TrialState.PRUNED if pruned else TrialState.COMPLETE)
        shown = ", ".join(f"{key}={setting}" for key, setting in settings.items())
        print(f"trial {done + 1} of {total}: {result}  {shown}", file=sys.stderr, flush=True)

    def _evaluate(self, trial: optuna.Trial, settings: dict[str, Any]) -> tuple[float, str]:
        """Macro recall on the folds evaluated so far, and the reason if the trial was pruned."""
        variant = self.variant(settings)
        study = replace(self.plan.study, variants={variant: settings})
        labels, fold_of = self.folds.catalog.labels, self.folds.fold_of
        last = int(fold_of.max())
        value = 0.0
        for fold in range(last + 1):
            fit_fold(study, variant, self.folds, fold)
            predicted = load_outcome(variant, self.folds, fold + 1).predicted
            seen = fold_of <= fold
            value = macro_recall(labels[seen], predicted[seen])
            trial.report(value, fold)
            if fold < last and trial.should_prune():
                return value, f" pruned after fold {fold + 1}"
        return value, ""


def print_results(state: Trials, arguments: str) -> None:
    """Print the best trials; write the best as a configuration and as a study to be run with ``arguments``."""
    best = state.best_first()
    if not best:
        print("no trial is complete yet; the same command continues the search", file=sys.stderr)
        return
    show(_trial_table(state.plan, best))
    confirmation = _write_results(state, best[0])
    print(
        f"The best of {len(state.finished())} trials is an optimistic estimate. Confirm it on other folds:\n"
        f"  python -m animals_pl cross-validate {shlex.quote(str(confirmation))} {arguments}"
    )


def _trial_table(plan: SearchPlan, best: list[Trial]) -> Table:
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


def _write_results(state: Trials, best: Trial) -> Path:
    """Write best.yaml and the confirming study; return the file of the study."""
    plan, folder = state.plan, state.folds.folder.resolve()
    heading = (
        f"# Tuned by search: macro recall {best.value:.4f} in {state.folds.fold_of.max() + 1} folds, the best of "
        f"{len(state.finished())} trials and therefore optimistic.\n"
        f"# Below is {plan.study.config.name} with these values.\n"
    )
    variants = {"start": {}, "tuned": best.settings}
    study = {"config": str(plan.study.config), "options": plan.study.options, "variants": variants}
    confirmation = folder / f"confirm-{plan.study.name}.yaml"
    for file, text in {
        folder / "best.yaml": heading + tuned_config(plan, state.folds.root, best.settings),
        confirmation: yaml.safe_dump(study, sort_keys=False),
    }.items():
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


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
