"""Normalise command line arguments, and call functions with them."""

from __future__ import annotations

import argparse
import inspect
from collections.abc import Callable, Collection, Sequence

from animals_pl.errors import UsageError, explain_argument_error

FLAG_VALUES = {"true", "false", "yes", "no", "null"}
"""Words that are taken as the value of the flag before them."""

VALUELESS = {"-h", "--help", "--print_config"}
"""Options without a value."""


def boolean_options(function: Callable[..., object], prefix: str = "") -> set[str]:
    """Names of the parameters that take true or false, with a prefix such as ``data.``."""
    parameters = inspect.signature(function).parameters.values()
    return {f"{prefix}{parameter.name}" for parameter in parameters if "bool" in str(parameter.annotation)}


def normalise(args: Sequence[str], positional: str = "", flags: Collection[str] = ()) -> list[str]:
    """Rewrite arguments as ``--name value`` pairs: flags get a value, positional arguments the name of their option.

    Positional arguments may appear anywhere. Every other option is followed by exactly one value.

    Args:
        args: The arguments after the verb.
        positional: Option that receives positional arguments; a trailing ``*`` accepts several. Empty: none allowed.
        flags: Options that mean ``true`` without a value.

    Raises:
        UsageError: Too many positional arguments.

    Example:
        >>> normalise(["--compile", "--name", "a"], flags={"compile"})
        ['--compile', 'true', '--name', 'a']
        >>> normalise(["--seed", "1", "STUDY"], "study")
        ['--study=STUDY', '--seed', '1']
    """
    options: list[str] = []
    values: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if not arg.startswith("-") or arg == "-":
            values.append(arg)
            continue
        options.append(arg)
        if arg in VALUELESS or arg.startswith("--print_config=") or "=" in arg:
            continue
        if arg.removeprefix("--") in flags and (
            not rest or (rest[0].lower() not in FLAG_VALUES and not rest[0].isdigit())
        ):
            options.append("true")
        elif rest:
            options.append(rest.pop(0))
    return [*_positional_options(values, positional), *options]


def _positional_options(values: list[str], positional: str) -> list[str]:
    if not values:
        return []
    if positional.endswith("*"):
        return [f"--{positional[:-1]}={values!r}"]
    if not positional or len(values) > 1:
        raise UsageError(f"unexpected argument {values[-1]!r}; options are written as --name value, see --help")
    return [f"--{positional}={values[0]}"]


def call_function(function: Callable[..., object], verb: str, args: Sequence[str], positional: str = "") -> None:
    """Call a function with its parameters taken from ``--name value`` options.

    Args:
        function: Its signature gives the options, its docstring the help.
        verb: The verb, for the help.
        args, positional: See :func:`normalise`.

    Raises:
        UsageError: An option is unknown, missing, or has a wrong value.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"python -m animals_pl {verb}", exit_on_error=False)
    parser.add_function_arguments(function)
    try:
        options = parser.parse_args(normalise(args, positional, boolean_options(function)))
    except argparse.ArgumentError as error:
        raise UsageError(explain_argument_error(error, list(parser.get_defaults().keys()))) from error
    function(**options)
