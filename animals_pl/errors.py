"""UsageError, and readable messages for errors of the argument parser."""

import difflib
import re
from collections.abc import Iterable, Sequence


class UsageError(ValueError):
    """Wrong use: an argument, a file or a folder that cannot be used.

    The message names the argument, its value and the remedy, in one line. The command line prints it without a
    traceback and exits with code 2. Every other exception is a bug and keeps its traceback.
    """


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
    """``"did you mean 'nearest'? "`` for a misspelt name; empty if no known name has that similarity (0…1)."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"did you mean {close[0]!r}? " if close else ""


def listed(names: Sequence[str], most: int = 10) -> str:
    """``"a, b, c"``; of more than ``most`` names the first ones, and how many there are."""
    return ", ".join(names[:most]) + (f", … ({len(names):,} in all)" if len(names) > most else "")


def one_line(error: BaseException) -> str:
    """The message of an error in one line, without a DataLoader worker's traceback; its type if it has no message."""
    message = re.split(r"\n[\w.]*(?:Error|Exception): ", str(error))[-1]
    return " ".join(message.split()) or type(error).__name__


_UNKNOWN_KEY = re.compile(
    r"unrecognized arguments: --([\w.+]+)|does not accept option '([\w.]+)'|[Kk]ey ['\"]?([\w.]+)['\"]? is not expected"
)
_WRONG_VALUE = re.compile(r'Parser key "([\w.]+)": Expected an? (.+?)\. Got value: (.*)')
_WRONG_UNION = re.compile(r'Parser key "([\w.]+)": Does not validate .*?Subtypes: \[(.+)\] Errors: .*Given value: (.*)')
_WRONG_NUMBER = re.compile(r'Parser key "([\w.]+)": Not of type \w+: (\S+) does not conform to restriction v(.+)')
_MISSING = re.compile(r"the following arguments are required: (.+)")


def explain_argument_error(error: Exception, known: Sequence[str]) -> str:
    """One line for a parser's error, with the nearest of the known keys (``data.size``) if one was misspelt."""
    message = " ".join(str(error).split())
    found = _UNKNOWN_KEY.search(message)
    wrong = next(filter(None, found.groups())) if found else ""
    if old := _old_name(wrong or ("HeadFirst" if "HeadFirst" in message else "")):
        name, new = wrong or old, RENAMED_IN_0_2[old]
        now = f"It is now called {name.replace(old, new)}" if new else "It was removed"
        return f"{name!r} is from animals_pl 0.1. {now}; see CHANGELOG.md."
    if found:
        return f"unknown key {wrong!r}; " + (did_you_mean(wrong, known, cutoff=0.5).strip() or "see --help")
    if found := _WRONG_VALUE.search(message) or _WRONG_UNION.search(message):
        key, expected, value = found.groups()
        expected = re.sub(r"typing\.Literal\[(.*?)\]", r"one of \1", expected)
        expected = re.sub(r"<class '(\w+)'>", r"\1", expected).replace("NoneType", "null")
        return f"{key}={value} is invalid; expected {expected}"
    if found := _WRONG_NUMBER.search(message):
        key, value, restriction = found.groups()
        return f"{key}={value} is out of range; choose a value {restriction}"
    if found := _MISSING.search(message):
        return f"--{found.group(1)} is missing; see --help"
    return message


def _old_name(text: str) -> str:
    """The first name of animals_pl 0.1 in a text."""
    words = set(re.findall(r"\w+", text))
    return next((name for name in RENAMED_IN_0_2 if name in words), "")
