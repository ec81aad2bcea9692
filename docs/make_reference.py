"""Write the table of options in reference.md from signatures and docstrings.

python docs/make_reference.py
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import docstring_parser

from animals_pl import AnimalClassifier, AnimalsDataModule
from animals_pl.cli import LIGHTNING, VERBS
from animals_pl.lightning_cli import BASELINE_HELP, PRIOR_HELP, ROBUSTNESS_HELP, UNKNOWN_HELP
from animals_pl.training.run import RunOptions

REFERENCE = Path(__file__).with_name("reference.md")
BEGIN, END = "<!-- options: begin -->", "<!-- options: end -->"

TRAINING = ("fit", "validate", "test", "predict")


class Option(NamedTuple):
    """One option of one command."""

    name: str
    verb: str
    default: str
    meaning: str


def options() -> Iterator[Option]:
    """Options of all commands. Lightning's own Trainer options are summarised as ``trainer.*``."""
    for verb in TRAINING:
        yield Option("config", verb, "`null`", "YAML file with settings. Options override it.")
        yield Option("seed_everything", verb, "`42`", "Seed of the initial weights. `false`: none.")
        if verb == "fit":
            meaning = "Checkpoint to resume from; the run continues in its folder."
            yield Option("ckpt_path", verb, "`null`", meaning)
        else:
            yield Option("ckpt_path", verb, "required", "Checkpoint to evaluate.")
    yield from _options(RunOptions, "fit")
    yield from _predict_options()
    yield Option("robustness", "test", "`false`", ROBUSTNESS_HELP)
    yield Option("baseline", "test", "`null`", BASELINE_HELP)
    for verb in TRAINING[1:]:
        yield Option("prior", verb, "`null`", PRIOR_HELP)
    for verb in TRAINING:
        yield from _options(AnimalsDataModule, verb, "data.")
        yield from _options(AnimalClassifier, verb, "model.")
        yield Option("trainer.*", verb, "Lightning's", "Arguments of `lightning.Trainer`; see `--help`.")
    for name, verb in VERBS.items():
        if verb.function != LIGHTNING:
            module, _, function = verb.function.partition(":")
            yield from _options(getattr(importlib.import_module(module), function), name)


def _predict_options() -> list[Option]:
    return [
        Option("output", "predict", "`predictions.csv`", "The CSV file to write."),
        Option("top_k", "predict", "`3`", "Number of classes per image."),
        Option("unknown", "predict", "`false`", UNKNOWN_HELP),
    ]


def _options(function: Callable[..., Any], verb: str, prefix: str = "") -> Iterator[Option]:
    meanings = {
        parameter.arg_name: parameter.description or ""
        for parameter in docstring_parser.parse(inspect.getdoc(function) or "").params
    }
    for parameter in inspect.signature(function).parameters.values():
        name = prefix + parameter.name
        is_positional = name in VERBS[verb].positional.removesuffix("*").split()
        meaning = " ".join(meanings.get(parameter.name, "").split())
        meaning = re.sub(r":\w+:`~?([^`]+)`", r"`\1`", meaning.replace("``", "`")).replace("|", "\\|")
        yield Option(name, f"{verb} (positional)" if is_positional else verb, _default(parameter), meaning)


def _default(parameter: inspect.Parameter) -> str:
    if parameter.default is inspect.Parameter.empty:
        return "required"
    if parameter.default is None:
        return "`null`"
    value = parameter.default
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def option_table() -> str:
    """Markdown table of all options; the same option of several commands is one row."""
    verbs: dict[tuple[str, str, str], list[str]] = {}
    for name, verb, default, meaning in options():
        verbs.setdefault((name, default, meaning), []).append(verb)
    rows = [
        f"| `{name}` | {', '.join(used)} | {default} | {meaning} |" for (name, default, meaning), used in verbs.items()
    ]
    return "\n".join(["| option | commands | default | meaning |", "| --- | --- | --- | --- |", *rows])


def main() -> None:
    """Replace the table in reference.md."""
    text = REFERENCE.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    after = rest.partition(END)[2]
    REFERENCE.write_text(f"{before}{BEGIN}\n{option_table()}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
