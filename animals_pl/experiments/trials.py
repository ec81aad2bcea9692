"""Trials of a hyper-parameter search: Optuna's sampler over cross-validated fits, resumable."""

from __future__ import annotations

import hashlib
import json
import sys
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from animals_pl.errors import UsageError, one_line
from animals_pl.experiments.fold_fits import StudyData, fit_fold, load_outcome
from animals_pl.experiments.folds import macro_recall
from animals_pl.experiments.search_space import SearchPlan, contains, rounded

FINISHED = (TrialState.COMPLETE, TrialState.PRUNED)


@dataclass(frozen=True)
class Trial:
    """A complete trial.

    Attributes:
        number: From 1, in the order of the trials.
        settings: ``section.key`` → value.
        value: Macro recall of all images.
    """

    number: int
    settings: dict[str, Any]
    value: float


class Trials:
    """The trials of one search, stored in ``search.db`` in the folder of the results.

    Args:
        plan: What is searched.
        folds: The images and their folds.
        seed: Seed of the sampler.
    """

    def __init__(self, plan: SearchPlan, folds: StudyData, seed: int) -> None:
        self.plan, self.folds, self.seed = plan, folds, seed
        catalog = folds.catalog
        images = [list(catalog.paths), catalog.labels.tolist(), folds.fold_of.tolist()]
        self.digest = _digest(plan.config, plan.study.options, images)
        self.optuna_study = optuna.create_study(
            storage=f"sqlite:///{(folds.folder / 'search.db').resolve()}",
            # Another configuration, space or set of images is another search.
            study_name=_digest(self.digest, {key: repr(space) for key, space in plan.space.items()}),
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(),
        )
        if not self.optuna_study.trials:
            self._enqueue_configuration()
        self._enqueue_interrupted()

    def _enqueue_configuration(self) -> None:
        """Let the first trial be the configuration, as far as the space contains it."""
        config, space = self.plan.config, self.plan.space
        known = {key: config[key] for key in space if key in config and contains(space[key], config[key])}
        self.optuna_study.enqueue_trial({key: rounded(space[key], value) for key, value in known.items()})

    def _enqueue_interrupted(self) -> None:
        for trial in self.optuna_study.get_trials(states=[TrialState.RUNNING]):
            self.optuna_study.tell(trial.number, state=TrialState.FAIL)
            self.optuna_study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def finished(self) -> list[FrozenTrial]:
        """Complete and pruned trials, in their order."""
        return self.optuna_study.get_trials(states=FINISHED)

    def best_first(self) -> list[Trial]:
        """Complete trials, the best first, equal ones in their order."""
        numbered = [
            Trial(number, self.settings(trial.params), trial.value or 0.0)
            for number, trial in enumerate(self.finished(), start=1)
            if trial.state == TrialState.COMPLETE
        ]
        return sorted(numbered, key=lambda trial: (-trial.value, trial.number))

    def settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """Settings of a trial in the order of the search file."""
        return {key: rounded(space, params[key]) for key, space in self.plan.space.items()}

    def variant(self, settings: dict[str, Any]) -> str:
        """Name of the files with the predictions of these settings."""
        return f"trial-{_digest(self.digest, settings)}"

    def run_next(self, total: int) -> None:
        """Run one trial of ``total`` and print its result to standard error.

        Raises:
            UsageError: The training failed and no trial is complete yet.
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
        """Macro recall of the trained folds, and the reason if the trial was pruned."""
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


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]
