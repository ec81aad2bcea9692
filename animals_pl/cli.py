"""Command line entry point and table of verbs."""

from __future__ import annotations

import errno
import importlib
import io
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

from animals_pl.arguments import call_function
from animals_pl.errors import UsageError, did_you_mean, one_line
from animals_pl.files import cache_dir

LIGHTNING = "animals_pl.lightning_cli:run"

WRONG_USE, INTERRUPTED = 2, 130
"""Exit codes."""

MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
MACHINE_ERRORS |= {errno.EFBIG, errno.ENAMETOOLONG, errno.EMFILE}
"""Errors of a disk or of permissions, which are no bugs: their text and file name say what to do."""


class Verb(NamedTuple):
    """One verb."""

    help: str
    function: str
    """module:function, imported when the verb runs. Its parameters are the options, its docstring is the help."""
    positional: str = ""
    """Option that receives positional arguments; a trailing ``*`` accepts several."""


VERBS = {
    "fit": Verb("train a model from a configuration file", LIGHTNING),
    "validate": Verb("evaluate a checkpoint on the validation images of its run", LIGHTNING),
    "test": Verb("evaluate a checkpoint on test images, or on another folder", LIGHTNING),
    "predict": Verb("classify images and write the predictions to a CSV file", LIGHTNING, "data.predict_paths*"),
    "prepare": Verb(
        "download, unpack, link or draw a dataset, and check it",
        "animals_pl.data.sources.prepare:prepare",
        "source",
    ),
    "analyze": Verb(
        "report what is in a dataset and what is wrong with it", "animals_pl.reports.analyze:analyze", "source"
    ),
    "export": Verb("export a checkpoint as a verified ONNX file", "animals_pl.deploy.export:export", "ckpt_path"),
    "report": Verb("rank all runs in one table", "animals_pl.experiments.run_table:report", "folder"),
    "cross-validate": Verb(
        "compare settings by cross-validation", "animals_pl.experiments.cross_validation:cross_validate", "study"
    ),
    "search": Verb("search for better settings by cross-validation", "animals_pl.experiments.search:search", "study"),
    "reproduce": Verb(
        "rerun the reference's experiments and compare with its results",
        "animals_pl.experiments.reproduction:reproduce",
        "names*",
    ),
}


def usage() -> str:
    """The help text: every verb with one line."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items())
    return f"""usage: python -m animals_pl VERB [--help] [--config FILE] [options]

Identify animals in images.

{verbs}

first steps:
  python -m animals_pl fit --config configs/quickstart.yaml
  python -m animals_pl VERB --help"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb, by default that of the process's command line.

    Returns:
        The exit code: 0, 2 for wrong use or a machine that refuses (a full disk), which is explained on the last line
        of standard error, or 130 after Ctrl-C.
    """
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape what its encoding does not have, such as → in cp1252
            stream.reconfigure(errors="backslashreplace")
    _keep_libraries_from_the_home_folder()
    try:
        try:
            return _run(args)
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # reader closed the pipe (e.g. head)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt as error:
        message, code = str(error) or "interrupted", INTERRUPTED
    except UsageError as error:
        message, code = f"error: {one_line(error)}", WRONG_USE
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        message, code = f"error: {error.strerror}: {error.filename!r}", WRONG_USE
    with suppress(BrokenPipeError):
        print(f"animals_pl {args[0]}: {message}", file=sys.stderr)
    return code


def _keep_libraries_from_the_home_folder() -> None:
    """Give libraries another cache if there is no home folder: they would create a folder called ``~`` here."""
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path.expanduser raises instead
        for name in ("HF_HOME", "MPLCONFIGDIR", "TORCH_HOME"):
            os.environ.setdefault(name, str(cache_dir() / name.lower()))


def _run(args: list[str]) -> int:
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if args else WRONG_USE
    name = args[0]
    if name not in VERBS:
        raise UsageError(f"unknown verb {name!r}; {did_you_mean(name, VERBS)}choose one of {', '.join(VERBS)}")
    verb = VERBS[name]
    module, _, function_name = verb.function.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    if verb.function == LIGHTNING:
        function(args, positional=verb.positional)
    else:
        call_function(function, name, args[1:], verb.positional)
    return 0
