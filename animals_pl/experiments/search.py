"""Search for better values of a recipe's settings: Optuna over cross-validation, and the best as a ready YAML.

    python scripts/search.py scripts/searches/small_head.yaml --root datasets/animals10/raw-img --trials 30

A search file names a configuration, settings for all trials, and a space for each setting that is searched. A trial
is worth the macro recall of all images, each predicted by a model that has seen neither it nor a copy of it, in
the same folds for all; one that is below the median after a fold is given up. The first trial is the configuration as
it is. What is done is kept: the same command goes on where the search was left, fold by fold.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich import box
from rich.console import Console
from rich.table import Table

from animals_pl.errors import UsageError
from animals_pl.experiments import cross_validation as cv

with contextlib.suppress(ImportError):  # main says how to install it
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.trial import FrozenTrial, TrialState

SHOWN = 5
"""Trials in the table."""
KEY = re.compile(r"\w+(\.\w+)?")


def as_number(value: Any) -> float:
    """Return an int as it is and anything else as a float: YAML takes 1e-3, which has no point, for text."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is no number")
    return value if isinstance(value, int) else float(value)


def read_space(key: str, space: Any) -> BaseDistribution:
    """Read the space of one setting: a list of alternatives, or ``low`` and ``high``, and ``step`` or ``log``.

    Raises:
        UsageError: It is malformed.
    """
    try:
        if isinstance(space, list):
            if any(isinstance(choice, list | dict) for choice in space):
                raise ValueError("alternatives are single values")
            return CategoricalDistribution(space)
        numbers = {name: as_number(value) for name, value in space.items() if name != "log"}
        kind = IntDistribution if all(isinstance(value, int) for value in numbers.values()) else FloatDistribution
        return kind(**numbers, log=bool(space.get("log", False)))  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"search: {key}={space!r} is no space ({error}); write {{low: 0.1, high: 0.9}}, "
            "with step: 0.1 or log: true, or a list of alternatives"
        ) from error


def read_search(file: Path) -> tuple[cv.Study, dict[str, Any], dict[str, BaseDistribution]]:
    """Read and check a search file: its recipe, what the configuration says, and the space.

    Raises:
        UsageError: It is absent or malformed.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
        study = cv.Study(cv.PROJECT / content["config"], dict(content.get("options") or {}), {})
        spaces = dict(content["search"])
        config = flat(yaml.safe_load(study.config.read_text(encoding="utf-8")))
    except (OSError, yaml.YAMLError, KeyError, TypeError, AttributeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise UsageError(
            f"search={str(file)!r} cannot be read ({type(error).__name__}: {reason}); "
            "see scripts/searches for files with config, options and search"
        ) from error
    if not spaces or "model.net" not in config:
        raise UsageError(f"search={str(file)!r} searches nothing, or its config has no model.net; see scripts/searches")
    for key in [*study.options, *spaces]:
        if not KEY.fullmatch(str(key)) or (key in study.options and key in spaces):
            raise UsageError(
                f"search={str(file)!r}: {key!r} is no key such as model.lr, or it is in options and in search; "
                "what is nested deeper belongs into the configuration file"
            )
    return study, config, {key: read_space(key, space) for key, space in spaces.items()}


def flat(content: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration's settings as ``section.key`` → value."""
    sections = {key: value if isinstance(value, dict) else {"": value} for key, value in content.items()}
    return {f"{key}.{name}".rstrip("."): value for key, inner in sections.items() for name, value in inner.items()}


def inside(value: Any, space: BaseDistribution) -> bool:
    """Tell whether a space holds a value."""
    if isinstance(space, CategoricalDistribution):
        return value in space.choices
    assert isinstance(space, IntDistribution | FloatDistribution)
    try:
        number = as_number(value)
    except (TypeError, ValueError):
        return False
    steps = (number - space.low) / (space.step or 1)
    return space.low <= number <= space.high and (not space.step or abs(steps - round(steps)) < 1e-6)


def tidy(value: Any, space: BaseDistribution) -> Any:
    """Return a value as it is trained with and written: an int, or a float of four digits that the space holds."""
    if isinstance(space, FloatDistribution):
        return min(max(float(f"{float(value):.4g}"), space.low), space.high)
    return int(value) if isinstance(space, IntDistribution) else value


def edit(text: str, changes: dict[str, Any]) -> str:
    """Put values into a configuration file's text; its comments and the order of its keys stay.

    Args:
        text: The file: sections, and below them two spaces, ``key: value`` and a comment.
        changes: ``section.key`` or ``key`` → value.

    Raises:
        UsageError: The file is written in another way, so that the result would say something else.
    """
    lines = text.splitlines()
    for key, value in changes.items():
        section, _, name = key.rpartition(".")
        begin, end, indent, written = 0, len(lines), "  " if section else "", cv.as_yaml(value)
        if section:
            heads = [number for number, line in enumerate(lines) if line.startswith(f"{section}:")]
            if not heads:
                lines += ["", f"{section}:", f"{indent}{name}: {written}"]
                continue
            begin = heads[0] + 1
            end = next((number for number in range(begin, end) if re.match(r"[^\s#]", lines[number])), end)
        pattern = re.compile(rf"({indent}{name}:)(?:\s.*?)??\s*(\s#.*)?$")
        last = begin - 1
        for number in range(begin, end):
            if found := pattern.match(lines[number]):
                head, comment = f"{found[1]} {written}", (found[2] or "").strip()
                lines[number] = f"{head:<{found.start(2)}} {comment}" if comment else head
                break
            if lines[number].strip() and not lines[number].lstrip().startswith("#"):
                last = number
        else:
            lines.insert(last + 1, f"{indent}{name}: {written}")
    result = "\n".join(lines) + "\n"
    with contextlib.suppress(yaml.YAMLError, AttributeError):
        if flat(yaml.safe_load(result)) == {**flat(yaml.safe_load(text)), **changes}:
            return result
    raise UsageError(
        f"the configuration cannot be edited line by line ({', '.join(changes)}); "
        "write it as those in configs: 'section:', and below '  key: value   # comment'"
    )


def digest(*parts: Any) -> str:
    """Return a short name of what is given."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:12]


class Search:
    """A search that goes on where it was left.

    Args:
        options: The command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.recipe, self.config, self.space = read_search(options.study)
        self.setup = cv.set_up(options, self.recipe)
        self.changes(dict.fromkeys(self.space, "?"))  # a file that cannot be edited is found now
        self.start = {key: self.config.get(key, "default") for key in self.space}
        catalog = self.setup.catalog
        images = [list(catalog.paths), catalog.labels.tolist(), self.setup.fold_of.tolist()]
        self.base = digest(self.config, self.recipe.options, images)
        storage = f"sqlite:///{(self.setup.folder / 'search.db').resolve()}"
        # Another configuration, space or set of images is another search.
        name = digest(self.base, {key: repr(space) for key, space in self.space.items()})
        self.study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(),
        )
        if not self.study.trials:
            known = {key: value for key, value in self.start.items() if inside(value, self.space[key])}
            self.study.enqueue_trial({key: tidy(value, self.space[key]) for key, value in known.items()})
        for trial in self.study.get_trials(states=[TrialState.RUNNING]):  # cut off: not counted, done again
            self.study.tell(trial.number, state=TrialState.FAIL)
            self.study.enqueue_trial({**trial.system_attrs.get("fixed_params", {}), **trial.params})

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Return the trials in some states, or all that count."""
        return self.study.get_trials(states=states or [TrialState.COMPLETE, TrialState.PRUNED])

    def settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """Return a trial's settings in the order of the search file."""
        return {key: tidy(params[key], space) for key, space in self.space.items()}

    def trial(self) -> None:
        """Run one trial.

        Raises:
            UsageError: Its training failed, and none has worked before.
        """
        done = len(self.trials())
        # A sampler of its own for each: a search that was cut off draws what it would have drawn.
        seed = int(np.random.SeedSequence([self.options.seed, done]).generate_state(1)[0])
        self.study.sampler = optuna.samplers.TPESampler(seed=seed)
        trial = self.study.ask(self.space)
        settings = self.settings(trial.params)
        variant = self.variant(settings)
        recipe = replace(self.recipe, variants={variant: settings})
        labels, fold_of = self.setup.catalog.labels, self.setup.fold_of
        says, value = "", 0.0
        try:
            for fold in range(self.options.folds):
                cv.fit_fold(recipe, variant, self.setup, fold)
                predicted = cv.collect(variant, self.setup.folder, fold_of, fold + 1).predicted
                seen = fold_of <= fold
                value = float(cv.recalls(labels[seen], predicted[seen], np.empty((0, seen.sum()), dtype=int))[0])
                trial.report(value, fold)
                if fold + 1 < self.options.folds and trial.should_prune():
                    says = f" given up after fold {fold + 1}"
                    break
        except UsageError as error:
            if not self.trials(TrialState.COMPLETE):
                raise
            says = f" failed: {error}"
        self.study.tell(trial, None if says else value, TrialState.PRUNED if says else TrialState.COMPLETE)
        shown = ", ".join(f"{key}={setting}" for key, setting in settings.items())
        print(f"trial {done + 1} of {self.options.trials}: {value:.4f}{says}  {shown}", file=sys.stderr, flush=True)

    def variant(self, settings: dict[str, Any]) -> str:
        """Return the name under which predictions are kept."""
        return f"trial-{digest(self.base, settings)}"

    def changes(self, settings: dict[str, Any], count: int = 0, value: float = 0.0) -> str:
        """Return the configuration file with the settings put in place."""
        changes = {**self.recipe.options, **settings}
        changes["name"] = f"{self.config.get('name', self.recipe.config.stem)}_tuned"
        if Path(self.config.get("data.root", "")).resolve() != self.setup.root:
            changes["data.root"] = str(self.setup.root)
        changes = {key: new for key, new in changes.items() if key not in self.config or self.config[key] != new}
        head = (
            f"# Tuned by scripts/search.py: macro recall {value:.4f} in {self.options.folds} folds, the best of "
            f"{count} trials and so optimistic.\n"
            f"# What follows is {self.recipe.config.name} with the values put in place.\n"
        )
        return head + edit(self.recipe.config.read_text(encoding="utf-8"), changes)

    def report(self) -> None:
        """Print the best trials, and write the best as a configuration and as a study that confirms it."""
        best = sorted(self.trials(TrialState.COMPLETE), key=lambda trial: (-(trial.value or 0), trial.number))
        if not best:
            print("no trial is complete yet; the same command goes on", file=sys.stderr)
            return
        values = [(self.settings(trial.params), trial.value or 0.0) for trial in best]
        counted = {trial.number: position for position, trial in enumerate(self.trials(), start=1)}
        origin = next((value for settings, value in values if settings == self.start), None)
        table = Table(box=box.SIMPLE_HEAD)
        for name in ("trial", "macro recall", "difference", *self.space):
            table.add_column(name, justify="right", overflow="fold")
        table.add_row("start", "–" if origin is None else f"{origin:.4f}", "", *map(str, self.start.values()))
        for trial, (settings, value) in list(zip(best, values, strict=True))[:SHOWN]:
            difference = "–" if origin is None else f"{value - origin:+.4f}"
            table.add_row(str(counted[trial.number]), f"{value:.4f}", difference, *map(str, settings.values()))
        Console(width=None if sys.stdout.isatty() else 130, highlight=False).print(table)

        (settings, value), count, folder = values[0], len(self.trials()), self.setup.folder.resolve()
        variants: dict[str, Any] = {"start": {}, "tuned": settings}
        study = {"config": str(self.recipe.config), "options": self.recipe.options, "variants": variants}
        files = {
            folder / "best.yaml": self.changes(settings, count, value),
            folder / f"confirm-{self.options.study.stem}.yaml": yaml.safe_dump(study, sort_keys=False),
        }
        for file, text in files.items():
            part = file.with_suffix(".part")
            part.write_text(text, encoding="utf-8")
            part.replace(file)
            print(f"wrote {file}")
        print(
            f"The best of {count} trials on these folds is optimistic; confirm it on others:\n"
            f"  python scripts/cross_validate.py {file} --root {self.options.root} --seed {self.options.seed + 1}"
        )


def parse(args: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="YAML file: config, options, search")
    cv.add_common_arguments(parser, folds=3)
    parser.add_argument("--trials", type=int, default=30, help="in all, with those of the runs before")
    return parser.parse_args(args)


def main(args: Sequence[str] | None = None) -> int:
    """Run a search; wrong use ends with one sentence and exit code 2, an interrupted one with 130."""
    options = parse(args)
    try:
        if "optuna" not in globals():
            raise UsageError("optuna is not installed; run: python -m pip install -e '.[search]'")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        search = Search(options)
        code = 0
        try:
            while len(search.trials()) < options.trials:
                search.trial()
        except (KeyboardInterrupt, SystemExit):  # Lightning makes the one into the other
            print("interrupted; the same command goes on", file=sys.stderr)
            code = 130
        search.report()
    except UsageError as error:
        print(f"search: error: {error}", file=sys.stderr)
        return 2
    return code


if __name__ == "__main__":
    sys.exit(main())
