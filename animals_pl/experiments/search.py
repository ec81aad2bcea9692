"""The command ``search``: hyperparameter search from a configuration."""

from __future__ import annotations

import shlex
import sys
from dataclasses import replace
from pathlib import Path

from animals_pl.errors import UsageError

INTERRUPTED = 130
"""Exit code of a process that Ctrl-C ended."""


def search(
    study: str,
    root: str,
    weights: str | None = None,
    net: str | None = None,
    folds: int = 3,
    seed: int = 0,
    trials: int = 30,
    output: str = "checkpoints/studies",
) -> None:
    """Search for better values of a configuration's settings with Optuna.

    The value of a trial is the macro recall of its out-of-fold predictions; duplicates share a fold, and all trials use
    the same folds. A trial is pruned if it is below the median of earlier trials at the same fold. The first trial is
    the configuration itself. The best trial is written as a configuration, best.yaml, and as a study to confirm it on
    other folds. The same command continues an interrupted search.

    Args:
        study: YAML file with the keys config and search, and optionally options. See configs/searches.
        root: Folder with one folder of images per class.
        weights: File with the backbone's weights. Default: those of the configuration.
        net: Name of the net. Default: that of the configuration.
        folds: Number of folds, 2 or more.
        seed: Seed of the folds and of the sampler.
        trials: Number of trials, including those of earlier runs of this search.
        output: Folder of the results.

    Raises:
        UsageError: The study or the images cannot be used, or the first fit failed.
        SystemExit: The search was interrupted; the code is 130.
    """
    if trials < 1:
        raise UsageError(f"trials={trials} is too small. Choose 1 or more.")
    try:
        import optuna
    except ImportError as error:
        raise UsageError("optuna is not installed. Run: pip install 'animals_pl[train,search]'") from error
    from animals_pl.experiments.fold_fits import prepare_folds
    from animals_pl.experiments.search_space import read_search
    from animals_pl.experiments.trials import Trials, print_results, tuned_config

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = read_search(Path(study))
    plan = replace(plan, study=plan.study.override(weights, net))
    tuned_config(plan, Path(root).resolve(), dict.fromkeys(plan.space, "?"))  # fails now if the file cannot be edited
    state = Trials(plan, prepare_folds(plan.study, Path(root), folds, seed, Path(output)), seed)
    interrupted = False
    try:
        while len(state.finished()) < trials:
            state.run_next(trials)
    except (KeyboardInterrupt, SystemExit):  # Lightning turns the first into the second
        print("interrupted; the same command continues the search", file=sys.stderr)
        interrupted = True
    print_results(state, f"--root {shlex.quote(root)} --seed {seed + 1}")
    if interrupted:
        raise SystemExit(INTERRUPTED)
