"""Read search files: a configuration, options, and a range or a list of values for each setting to search."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optuna import create_trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from animals_pl.configurations import find_config
from animals_pl.errors import UsageError
from animals_pl.experiments.study import Study, flatten, read_section, read_yaml

KEY = re.compile(r"\w+(\.\w+)?")


@dataclass(frozen=True)
class SearchPlan:
    """Base configuration and search space of a hyperparameter search.

    Attributes:
        study: The configuration and options, without variants.
        config: The configuration's settings, ``section.key`` → value.
        space: ``section.key`` → distribution of its values.
    """

    study: Study
    config: dict[str, Any]
    space: dict[str, BaseDistribution]


def read_search(file: Path) -> SearchPlan:
    """Read and check a search file.

    Raises:
        UsageError: The file is missing or malformed.
    """
    content = read_yaml(file)
    options, spaces = read_section(content, "options", file), read_section(content, "search", file)
    if "config" not in content or not spaces:
        raise UsageError(f"study={str(file)!r} needs the keys config and search. See configs/searches for examples.")
    for key in [*options, *spaces]:
        if not KEY.fullmatch(key):
            raise UsageError(
                f"study={str(file)!r}: {key!r} is not a key such as model.lr. "
                "Put settings that are nested deeper into the configuration."
            )
    if twice := options.keys() & spaces.keys():
        raise UsageError(f"study={str(file)!r}: {min(twice)!r} is in options and in search. Remove one of them.")
    study = Study(file.stem, find_config(str(content["config"]), file.parent), options)
    space = {key: read_space(key, value) for key, value in spaces.items()}
    return SearchPlan(study, flatten(read_yaml(study.config, "config")), space)


def read_space(key: str, space: Any) -> BaseDistribution:
    """The values of one setting: a list, or a mapping with ``low``, ``high`` and optionally ``step`` or ``log``.

    Integer limits give an integer space.

    Raises:
        UsageError: The space is malformed.
    """
    try:
        if isinstance(space, list):
            if any(isinstance(choice, list | dict) for choice in space):
                raise ValueError("alternatives must be single values")
            return CategoricalDistribution(space)
        numbers = {name: _as_number(value) for name, value in space.items() if name != "log"}
        kind = IntDistribution if all(isinstance(value, int) for value in numbers.values()) else FloatDistribution
        return kind(**numbers, log=bool(space.get("log", False)))  # type: ignore[arg-type]
    except (AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            f"search: {key}={space!r} is not a space ({error}). Write {{low: 0.1, high: 0.9}}, "
            "with step: 0.1 or log: true, or a list of values."
        ) from error


def _as_number(value: Any) -> float:
    """An int unchanged, anything else as a float: YAML reads 1e-3, which has no point, as text."""
    if isinstance(value, bool):
        raise ValueError(f"{value} is not a number")
    return value if isinstance(value, int) else float(value)


def contains(space: BaseDistribution, value: Any) -> bool:
    """Whether a value belongs to a space."""
    try:
        create_trial(params={"": value}, distributions={"": space}, value=0.0)
    except ValueError:
        return False
    return True


def rounded(space: BaseDistribution, value: Any) -> Any:
    """Round a value to an int or to 4 significant digits, clipped to the space; categorical values are unchanged."""
    if isinstance(space, FloatDistribution):
        return min(max(float(f"{float(value):.4g}"), space.low), space.high)
    return int(value) if isinstance(space, IntDistribution) else value
