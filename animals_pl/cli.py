"""The verbs of the command line, and how wrong use ends."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import sys
from collections.abc import Callable, Sequence

from animals_pl.errors import UsageError, did_you_mean, explain_argument_error

LIGHTNING = "animals_pl.lightning_cli:run"

VERBS = {
    "fit": ("train a model as a configuration file says", LIGHTNING),
    "validate": ("evaluate a checkpoint on the validation images of its run", LIGHTNING),
    "test": ("evaluate a checkpoint on test images, or on another folder", LIGHTNING),
    "predict": ("name the animals in images, as a CSV file", LIGHTNING),
    "prepare": (
        "get and check images: Animals-10, an archive, a folder, drawn ones",
        "animals_pl.data.sources.prepare:prepare",
    ),
    "analyze": ("report what is in a dataset and what is wrong with it", "animals_pl.reports.analyze:analyze"),
    "report": ("rank all runs in one table, beside the reference's", "animals_pl.experiments.run_table:report"),
    "export": ("turn a checkpoint into a verified ONNX file", "animals_pl.deploy.export:export"),
}
"""Verb → what it does, and the function that does it, which is imported when its verb runs."""


def usage() -> str:
    """Return the help text: every verb with one line."""
    lines = [f"  {verb:<10}{text}" for verb, (text, _) in VERBS.items()]
    return "\n".join(
        [
            "usage: python -m animals_pl VERB [--help] [--config FILE] [options]",
            "",
            "Identify animals in images.",
            "",
            *lines,
            "",
            "first steps:",
            "  python -m animals_pl fit --config configs/quickstart.yaml",
            "  python -m animals_pl VERB --help",
        ]
    )


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb.

    Args:
        args: The command line without the program's name; ``None``: the process's own.

    Returns:
        The exit code: 0, or 2 for wrong use, whose reason and remedy is the last line on standard error.
    """
    args = list(sys.argv[1:] if args is None else args)
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if args else 2
    verb = args[0]
    try:
        if verb not in VERBS:
            raise UsageError(f"unknown verb {verb!r}; {did_you_mean(verb, VERBS)}choose one of {', '.join(VERBS)}")
        module, _, name = VERBS[verb][1].partition(":")
        function = getattr(importlib.import_module(module), name)
        if VERBS[verb][1] == LIGHTNING:
            function(args)
        else:
            _call(function, args)
    except BrokenPipeError:  # whoever reads the output, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except UsageError as error:
        # An error in a loader process carries that process's traceback in front of the message.
        message = str(error).rstrip().rpartition("UsageError: ")[2]
        print(f"animals_pl {verb}: error: {message}", file=sys.stderr)
        return 2
    return 0


def _call(function: Callable[..., None], args: Sequence[str]) -> None:
    """Call a function with its parameters taken from ``--name value`` options.

    A first argument without dashes is the value of the first parameter.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"python -m animals_pl {args[0]}", exit_on_error=False)
    parser.add_function_arguments(function)
    options_given = list(args[1:])
    if options_given and not options_given[0].startswith("-"):
        options_given.insert(0, f"--{next(iter(inspect.signature(function).parameters))}")
    try:
        options = parser.parse_args(options_given)
    except argparse.ArgumentError as error:
        raise UsageError(explain_argument_error(error, list(parser.get_defaults().keys()))) from error
    function(**options)
