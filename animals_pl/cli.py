"""Command line entry point and table of commands."""

from __future__ import annotations

import errno
import importlib
import io
import os
import signal
import sys
import threading
import warnings
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from typing import NamedTuple, TextIO

from animals_pl.arguments import call_function
from animals_pl.errors import MachineError, UsageError, did_you_mean, one_line
from animals_pl.files import cache_dir, printable
from animals_pl.signals import STOPPING, Terminated, end_process

LIGHTNING = "animals_pl.lightning_cli:run"

MACHINE_FAULT, WRONG_USE, INTERRUPTED, TERMINATED = 1, 2, 130, 143
"""Exit codes."""

MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO}
MACHINE_ERRORS |= {errno.EFBIG, errno.ENAMETOOLONG, errno.EMFILE}
"""Disk, permission and open-file errors, reported in one line instead of a traceback."""

SERVE_PACKAGES = {"starlette", "uvicorn", "h11", "python_multipart"}
"""Packages of the extra ``serve``. Other missing packages belong to the extra ``train``."""


class Verb(NamedTuple):
    """A subcommand."""

    help: str
    function: str
    """module:function, imported when the command runs. Its parameters are the options, its docstring is the help."""
    positional: str = ""
    """Options that receive positional arguments, in order; a trailing ``*`` accepts several."""


VERBS = {
    "fit": Verb("train a model from a configuration file", LIGHTNING),
    "validate": Verb("evaluate a checkpoint on the validation images of its run", LIGHTNING),
    "test": Verb("evaluate a checkpoint on test images, or on another folder", LIGHTNING),
    "predict": Verb("classify images and write the predictions to a CSV file", LIGHTNING, "data.predict_paths*"),
    "prepare": Verb(
        "download, unpack, link or generate a dataset, and check it",
        "animals_pl.data.sources.prepare:prepare",
        "source",
    ),
    "analyze": Verb(
        "report what is in a dataset and what is wrong with it", "animals_pl.reports.analyze:analyze", "source"
    ),
    "export": Verb("export a checkpoint as a verified ONNX file", "animals_pl.deploy.export:export", "ckpt_path"),
    "classify": Verb(
        "classify images with an exported file, without PyTorch", "animals_pl.deploy.classify:classify", "model paths*"
    ),
    "push": Verb("upload a run to the Hugging Face Hub", "animals_pl.push:push", "run repo"),
    "watch": Verb(
        "watch a folder, a video or a stream, and raise alerts", "animals_pl.deploy.watch.command:watch", "model source"
    ),
    "serve": Verb(
        "serve a web page and an HTTP interface that identify animals, without PyTorch",
        "animals_pl.deploy.server.command:serve",
        "model",
    ),
    "report": Verb(
        "rank all runs, compare two, choose a threshold, or write a model card",
        "animals_pl.experiments.run_table:report",
        "folder",
    ),
    "cross-validate": Verb(
        "compare settings by cross-validation", "animals_pl.experiments.cross_validation:cross_validate", "study"
    ),
    "search": Verb("search for better settings by cross-validation", "animals_pl.experiments.search:search", "study"),
    "prove-resume": Verb(
        "prove that a killed and resumed run equals an uninterrupted one",
        "animals_pl.experiments.prove_resume:prove_resume",
        "options*",
    ),
    "reproduce": Verb(
        "retrain the experiments of the reference Keras notebooks and compare the results",
        "animals_pl.experiments.reproduction:reproduce",
        "names*",
    ),
}


def command() -> int:
    """Run the command of this process, with one-line warnings and no tracebacks for machine errors in threads.

    ``fit`` shuts down cleanly on SIGTERM, and on SIGINT even in a shell's background job, which ignores it by default.
    """
    if sys.argv[1:2] == ["fit"]:
        for number in STOPPING:
            signal.signal(number, end_process)
    warnings.showwarning = show_warning
    threading.excepthook = show_thread_error
    return main()


def usage() -> str:
    """Help text: one line per command."""
    width = max(map(len, VERBS)) + 2
    verbs = "\n".join(f"  {name:<{width}}{verb.help}" for name, verb in VERBS.items())
    return f"""usage: python -m animals_pl COMMAND [--help] [--config FILE] [options]

Identify animals in images.

{verbs}

first steps:
  python -m animals_pl fit --config quickstart
  python -m animals_pl COMMAND --help"""


def main(args: Sequence[str] | None = None) -> int:
    """Run one command. ``args`` defaults to ``sys.argv[1:]``.

    Returns:
        Exit code: 0 on success, 1 on faults of the machine or of a training run, 2 on usage errors (both reported in
        one line on stderr), 130 after SIGINT (Ctrl-C), 143 after SIGTERM.
    """
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # escape characters missing in its encoding, such as → in cp1252
            stream.reconfigure(errors="backslashreplace")
    _redirect_library_caches()
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
    except Terminated as error:
        message, code = str(error), TERMINATED
    except UsageError as error:
        code = MACHINE_FAULT if isinstance(error, MachineError) else WRONG_USE
        message = f"error: {one_line(error)}"
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("animals_pl"):
            raise
        extra = "serve" if error.name in SERVE_PACKAGES else "train"
        message, code = f"error: the package {error.name} is missing. Run: pip install 'animals_pl[{extra}]'", WRONG_USE
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        place = "" if error.filename is None else f": {error.filename!r}"
        message, code = f"error: {error.strerror}{place}", MACHINE_FAULT
    with suppress(BrokenPipeError):
        print(printable(f"animals_pl {args[0]}: {message}"), file=sys.stderr)
    return code


def show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print the text of a warning, once per text. Replaces :func:`warnings.showwarning`."""
    _print_warning(printable(f"warning: {message}"))


@cache
def _print_warning(text: str) -> None:
    print(text, file=sys.stderr)


def show_thread_error(args: threading.ExceptHookArgs) -> None:
    """Print a thread's error, except for machine errors. Replaces :func:`threading.excepthook`.

    TensorBoard re-raises those of its writer thread at the next write, and :func:`main` reports them.
    """
    if not isinstance(args.exc_value, OSError) or args.exc_value.errno not in MACHINE_ERRORS:
        threading.__excepthook__(args)


def _redirect_library_caches() -> None:
    """Point library caches to cache_dir() if there is no home directory; they would create ``./~``."""
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - Path.expanduser raises instead
        for name in ("HF_HOME", "MPLCONFIGDIR", "TORCH_HOME"):
            os.environ.setdefault(name, str(cache_dir() / name.lower()))


def _run(args: list[str]) -> int:
    if not args or args[0] in {"-h", "--help", "help"}:
        print(usage())
        return 0 if args else WRONG_USE
    name = args[0]
    if name not in VERBS:
        raise UsageError(f"unknown command {name!r}. {did_you_mean(name, VERBS)}Choose one of {', '.join(VERBS)}.")
    verb = VERBS[name]
    module, _, function_name = verb.function.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    if verb.function == LIGHTNING:
        function(args, positional=verb.positional)
    else:
        call_function(function, name, args[1:], verb.positional)
    return 0
