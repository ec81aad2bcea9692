"""The one exception that means: the person who runs the program can mend this."""

import difflib
import re
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """Wrong use: an argument, a file or a folder that cannot be worked with.

    The message names the argument, its value and the remedy, in one line. The command
    line prints it without a traceback and exits with code 2; every other exception is a
    defect of the program and keeps its traceback.
    """


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``"did you mean 'nearest'? "`` for a misspelt name, or nothing where none is near.

    Args:
        name: What was written.
        known: What could have been meant.
        cutoff: Least similarity of a hint, in 0…1.
    """
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}? " if close else ""


_UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: --([\w.+]+)|does not accept option '([\w.]+)'|[Kk]ey ['\"]?([\w.]+)['\"]? is not expected"
)
_WRONG_VALUE = re.compile(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)')
_WRONG_NUMBER = re.compile(r'Parser key "([\w.]+)": Not of type \w+: (\S+) does not conform to restriction v(.+)')
_MISSING = re.compile(r"the following arguments are required: (.+)")


def explain_argument_error(error: Exception, known: Sequence[str]) -> str:
    """Turn a parser's complaint into one line, with the nearest known key where one was misspelt.

    Args:
        error: What the parser raised.
        known: Every key it would have taken, such as ``data.size``.
    """
    message = " ".join(str(error).split())
    if found := _UNKNOWN_KEY.search(message):
        wrong = next(filter(None, found.groups()))
        return f"unknown key {wrong!r}; " + (did_you_mean(wrong, known, cutoff=0.5).strip() or "see --help")
    if found := _WRONG_VALUE.search(message):
        key, expected, value = found.groups()
        expected = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", expected)
        expected = re.sub(r"<class '(\w+)'>", r"\1", expected)
        return f"{key}={value} does not fit; expected {expected}"
    if found := _WRONG_NUMBER.search(message):
        key, value, restriction = found.groups()
        return f"{key}={value} is out of range; choose a value {restriction}"
    if found := _MISSING.search(message):
        return f"--{found.group(1)} is missing; see --help"
    return message
