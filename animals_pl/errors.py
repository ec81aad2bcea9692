"""UsageError, and helpers for its messages."""

import difflib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


class UsageError(ValueError):
    """An argument, file or folder that cannot be used.

    The message names the argument, its value and the remedy, in one line. The command line prints it without a
    traceback and exits with code 2 (:class:`MachineError`: 1). Apart from disk and permission errors, which are also
    reported in one line, every other exception is a bug and keeps its traceback.
    """


class MachineError(UsageError):
    """A fault of the machine that stops a command, such as a full disk. The exit code is 1."""


class TrainingError(MachineError):
    """A fault that stops a training run although its arguments are valid. The exit code is 1."""


RENAMED_IN_0_2 = {
    "crop_fraction": "crop_pct",
    "flips": "tta",
    "body_lr": "backbone_lr_mult",
    "keep_best": "save_top_k",
    "HeadFirst": "GradualUnfreezing",
    "keep_decoded": "",
    "cached_views": "",
    "average_best": "",
}
"""Names of animals_pl 0.1 → their names in 0.2; empty: removed."""


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """``"Did you mean 'nearest'? "`` for a misspelt name; empty if none is similar enough (``cutoff``, 0…1)."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"Did you mean {close[0]!r}? " if close else ""


def listed(names: Sequence[str], most: int = 10) -> str:
    """``"a, b, c"``; for more than ``most`` names ``"a, b, …"``."""
    return ", ".join(names[:most]) + (", …" if len(names) > most else "")


def counted(count: int, noun: str) -> str:
    """``"1 image"``, ``"2 images"``, ``"1,000 classes"``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith(("s", "x")) else "s")


def hyphened_path(path: str) -> str:
    """How to write a path that looks like an option."""
    return f"a path that starts with '-' is written as './{path}' or after '--'"


def one_line(error: BaseException) -> str:
    """Message of an error in one line, without a DataLoader worker's traceback; the type if there is no message."""
    message = re.split(r"\n[\w.]*(?:Error|Exception): ", str(error))[-1]
    return " ".join(message.split()) or type(error).__name__


def require_types(function: Callable[..., object], values: Mapping[str, Any], prefix: str = "") -> None:
    """Check arguments against a function's annotations as the command line does, but without converting strings.

    Subclasses, such as numpy's floats, are refused: YAML files and checkpoints hold plain values.

    Args:
        function: A function or a class. Its annotations are plain types, ``Literal``, ``list``, ``dict`` and unions
            of these.
        values: Argument names and values. Names that the function does not have are ignored.
        prefix: Prefix of the names, such as ``model.``.

    Raises:
        UsageError: A value has the wrong type or is not one of the literals.
    """
    hints = get_type_hints(function)
    for key, value in values.items():
        if key in hints and not _is_a(value, hints[key]):
            expected = str(hints[key]).replace(" | ", ", ")
            raise UsageError(_wrong_type(prefix + key, expected, repr(value)))


def require_range(name: str, value: float, least: float, most: float) -> None:
    """Raise a :class:`UsageError` if a number is not from ``least`` to ``most``."""
    if not least <= value <= most:
        raise UsageError(f"{name}={value} is out of range. Choose a value from {least} to {most}.")


def _is_a(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation)
    if origin in (Union, UnionType):
        return any(_is_a(value, member) for member in get_args(annotation))
    if origin is Literal:
        return type(value) is str and value in get_args(annotation)
    if origin is list:
        return type(value) is list and all(_is_a(item, *get_args(annotation)) for item in value)
    if origin is dict:
        return type(value) is dict
    return type(value) is annotation or (annotation is float and type(value) is int)


_UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: --([\w.+-]+)|does not accept option '([\w.]+)'|"
    r"[Kk]ey ['\"]?([\w.]+)['\"]? is not expected"
)
_NOT_ACCEPTED = re.compile(r"Option '(\w+)' is not accepted")
_MISSING = re.compile(r"the following arguments are required: (.+)")
_KEY = r'Parser key "([\w.]+)":'
_WRONG_VALUE = re.compile(_KEY + r" Expected an? (.+?)\. Got value: ?(.*)")
_WRONG_UNION = re.compile(_KEY + r" .*?Does not validate .*?Subtypes: \[(.+)\] Errors: .*Given value: ?(.*)")


def explain_argument_error(error: Exception, known: Sequence[str]) -> str:
    """One-line message for a parser error, with the nearest known key (``data.size``) if one was misspelt."""
    message = " ".join(str(error).split())
    found = _UNKNOWN_KEY.search(message)
    wrong = next(filter(None, found.groups())) if found else ""
    if old := _old_name(wrong or ("HeadFirst" if "HeadFirst" in message else "")):
        name, new = wrong or old, RENAMED_IN_0_2[old]
        now = f"It is now called {name.replace(old, new)}" if new else "It was removed"
        return f"{name!r} is from animals_pl 0.1. {now}; see CHANGELOG.md."
    if found and Path(f"--{wrong}").is_file():
        return f"unknown key {wrong!r}; {hyphened_path(f'--{wrong}')}"
    if found:
        return f"unknown key {wrong!r}. " + (did_you_mean(wrong, known, cutoff=0.5).strip() or "See --help.")
    for pattern, explain in _EXPLANATIONS.items():
        if found := pattern.search(message):
            return explain(*found.groups())
    return message


def _old_name(text: str) -> str:
    """The first name of animals_pl 0.1 in a text."""
    words = set(re.findall(r"\w+", text))
    return next((name for name in RENAMED_IN_0_2 if name in words), "")


def _wrong_type(key: str, expected: str, value: str) -> str:
    expected = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", expected)
    expected = re.sub(r"<class '([\w.]+)'>", r"\1", expected).replace("NoneType", "null")
    expected = re.sub(r"\b[a-z_]\w*\.(?=[a-zA-Z_])", "", expected)  # drop module prefixes
    if re.search(r"\blist\b", expected) and not value.startswith("["):
        expected += f"; a list is written as '[{value}]'"
    return f"{key}={'null' if value == 'None' else value} is invalid; expected {expected}"


def _wrong_class_argument(key: str, class_path: str, fault: str) -> str:
    """Explain a wrong argument of a class in the configuration, such as a callback."""
    name = class_path.rpartition(".")[2]
    if found := _MISSING.search(fault):
        return f"{key}: {name} needs {found.group(1)}; pass --{key}.{found.group(1).partition(',')[0]} VALUE"
    if found := _NOT_ACCEPTED.search(fault):
        return f"{key}: {name} has no argument {found.group(1)!r}; see --{key}.help {name}"
    if found := _WRONG_VALUE.search(fault) or _WRONG_UNION.search(fault):
        return _wrong_type(f"{key}.{found.group(1)}", *found.groups()[1:])
    return f"{key}: {name}: {fault}"


_EXPLANATIONS: dict[re.Pattern[str], Callable[..., str]] = {
    re.compile(_KEY + r".*? Problem with given class_path '([\w.]+)': (.*?)(?: - |  Given value|$)"): (
        _wrong_class_argument
    ),
    re.compile(_KEY + r".* Expected a dot import path string: (\S+)"): (
        lambda key, value: f"{key}={value} is unknown. Pass the name or the import path of a class."
    ),
    re.compile(_KEY + r" (?:Unable to load config|File does not exist:|Path is not a file:) '(.*?)'"): (
        lambda key, value: f"{key}={value!r} is not a configuration file"
    ),
    _WRONG_VALUE: _wrong_type,
    _WRONG_UNION: _wrong_type,
    re.compile(_KEY + r" Not of type \w+: invalid literal for int\(\) with base 10: '(.*)'"): (
        lambda key, value: _wrong_type(key, "int", value)
    ),
    re.compile(_KEY + r" Not of type \w+: (\S+) does not conform to restriction v(.+)"): (
        lambda key, value, restriction: f"{key}={value} is out of range. Choose a value {restriction}."
    ),
    _MISSING: lambda names: f"--{names} is missing; see --help",
}
"""jsonargparse message pattern → function of its groups that returns our message. The first match wins."""
