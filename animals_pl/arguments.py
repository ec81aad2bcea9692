"""Normalise command line arguments, and call functions with them."""

from __future__ import annotations

import argparse
import inspect
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from animals_pl.errors import UsageError, explain_argument_error, hyphened_path

FLAG_VALUES = {"true", "false", "yes", "no", "null"}
"""Words that are taken as the value of the flag before them."""

SHORT = {"-h", "-c"}
"""Options with a single dash: --help and --config."""

VALUELESS = {"-h", "--help", "--print_config"}
"""Options without a value."""


def boolean_options(function: Callable[..., object], prefix: str = "") -> set[str]:
    """Names of the parameters that take true or false, with a prefix such as ``data.``."""
    parameters = inspect.signature(function).parameters.values()
    return {f"{prefix}{parameter.name}" for parameter in parameters if "bool" in str(parameter.annotation)}


def normalise(
    args: Sequence[str], positional: str = "", flags: Collection[str] = ()
) -> tuple[list[str], dict[str, str | list[str]]]:
    """Split arguments into ``--name=value`` options and positional arguments.

    The parser reads values of options as YAML (see :func:`parser_mode`). Positional arguments bypass the parser: they
    are used as plain text. They may appear anywhere; after ``--`` everything is positional. A flag may stand
    alone (``true``), and --help and --print_config take no value; every other option takes exactly one.

    Args:
        args: The arguments after the name of the command.
        positional: Options that receive positional arguments, in order; a trailing ``*`` of the last one accepts
            several. Empty: none allowed.
        flags: Options that mean ``true`` without a value.

    Returns:
        The options, and the values of the positional options by their names.

    Raises:
        UsageError: Too many positional arguments.

    Example:
        >>> normalise(["--compile", "--name", "a"], flags={"compile"})
        (['--compile=true', '--name=a'], {})
        >>> normalise(["--seed", "1", "STUDY"], "study")
        (['--seed=1'], {'study': 'STUDY'})
        >>> normalise(["MODEL", "a.jpg", "b.jpg"], "model paths*")
        ([], {'model': 'MODEL', 'paths': ['a.jpg', 'b.jpg']})
    """
    options: list[str] = []
    values: list[str] = []
    rest = list(args)
    while rest:
        arg = rest.pop(0)
        if arg == "--":
            values += rest
            break
        if not arg.startswith("-") or arg == "-":
            values.append(arg)
        elif not arg.startswith("--") and arg.partition("=")[0] not in SHORT:
            raise UsageError(f"unknown option {arg!r}; {hyphened_path(arg)}")
        elif arg in VALUELESS or "=" in arg:
            options.append(arg)
        elif arg.removeprefix("--") in flags and not (rest and (rest[0].lower() in FLAG_VALUES or rest[0].isdigit())):
            options.append(f"{arg}=true")
        elif rest and not rest[0].startswith("--"):
            options.append(f"{arg}={rest.pop(0)}")
        else:
            options.append(arg)  # the parser reports the missing value
    return options, _positional_options(values, positional, options)


def _positional_options(values: list[str], positional: str, options: list[str]) -> dict[str, str | list[str]]:
    given = {option.partition("=")[0].removeprefix("--") for option in options}
    found: dict[str, str | list[str]] = {}
    for name in positional.split():
        is_list, option = name.endswith("*"), name.removesuffix("*")
        if values and option in given:
            raise UsageError(f"--{option} and {values[0]!r} are the same argument. Pass one of them.")
        if values:
            found[option], values = (values, []) if is_list else (values[0], values[1:])
    if values:
        raise UsageError(f"unexpected argument {values[-1]!r}; options are written as --name value, see --help")
    return found


def parser_mode() -> str:
    r"""Register a jsonargparse mode that reads values as JSON or YAML, and return its name.

    Only ``null`` is read as ``None``; text such as ``# a`` or ``~`` stays text. JSON may escape bytes of a path that
    are not UTF-8, as in ``"\udce4"``.
    """
    import yaml
    from jsonargparse import get_loader, set_loader

    read_yaml = get_loader("yaml")

    def read(text: str) -> Any:
        try:
            value = json.loads(text)
        except ValueError:
            value = read_yaml(text)
        return text if value is None else value  # jsonargparse itself reads null

    set_loader("yaml_or_text", read, (yaml.YAMLError,))
    return "yaml_or_text"


def require_null_is_written(options: Sequence[str], values: Mapping[str, Any]) -> None:
    """Check that no option became ``None`` by text other than ``null``, such as ``~`` or ``# a``.

    jsonargparse reads the text of a number in YAML, whatever the parser's mode.

    Args:
        options: ``--name=value`` options.
        values: Parsed values by name.

    Raises:
        UsageError: There is such an option.
    """
    texts = {name: text for name, _, text in (option.removeprefix("--").partition("=") for option in options)}
    for name, text in texts.items():  # of an option given twice, the last one counts
        if text and text.strip() != "null" and name in values and values[name] is None:
            raise UsageError(f"{name}={text!r} is invalid. Pass a value, or null for none.")


def call_function(function: Callable[..., object], verb: str, args: Sequence[str], positional: str = "") -> None:
    """Call a function with its parameters taken from ``--name value`` options.

    Args:
        function: Its signature gives the options, its docstring the help.
        verb: Name of the command, for the help.
        args, positional: See :func:`normalise`.

    Raises:
        UsageError: An option is unknown, missing, or has a wrong value.
    """
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"python -m animals_pl {verb}", exit_on_error=False, parser_mode=parser_mode())
    parser.add_function_arguments(function)
    options, values = normalise(args, positional, boolean_options(function))
    parser.set_defaults(values)
    try:
        config = parser.parse_args(options)
    except argparse.ArgumentError as error:
        raise UsageError(explain_argument_error(error, list(parser.get_defaults().keys()))) from error
    require_null_is_written(options, config.as_dict())
    function(**config)
