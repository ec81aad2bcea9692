"""The command ``watch``. Needs numpy, Pillow and onnxruntime; OpenCV for videos, cameras and streams."""

from __future__ import annotations

import math
import re
from collections import Counter
from contextlib import closing
from pathlib import Path

from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.watch.alerts import AlertMaker
from animals_pl.deploy.watch.delivery import Delivery
from animals_pl.deploy.watch.frame import Stop
from animals_pl.deploy.watch.loop import Loop
from animals_pl.deploy.watch.options import Times, k_of_n, thresholds
from animals_pl.deploy.watch.rules import AlertRules
from animals_pl.deploy.watch.sinks import Command, Output, Post, Sink
from animals_pl.deploy.watch.source import Source
from animals_pl.deploy.watch.state import State
from animals_pl.errors import UsageError, require_types
from animals_pl.files import require_writable


def watch(
    model: str,
    source: str,
    alert: str,
    threshold: float = 0.8,
    frames: str | None = None,
    unknown: bool | None = None,
    quiet: str = "10min",
    every: str = "1s",
    settle: str = "2s",
    output: str | None = None,
    snapshots: str | None = None,
    post: str | None = None,
    secret_file: str | None = None,
    run: list[str] | None = None,
    state: str | None = None,
    heartbeat: str = "60s",
) -> None:
    """Watch a folder, a video, a camera or a stream, and raise alerts for given classes.

    PyTorch is not needed. An alert is a line of JSON, delivered at least once, even after a crash.

    Args:
        model: The ONNX file, written by ``export``.
        source: A folder, a video file, the index of a camera such as 0, or the URL of a stream (RTSP, HTTP).
        alert: Classes, in Italian or English, each with or without its own threshold: "elephant,dog:0.9".
        threshold: Smallest calibrated probability that raises an alert.
        frames: For videos and streams: "k/n" raises an alert if k of the last n frames reach the threshold.
            Default: 2/3.
        unknown: Images of no known class raise no alert. Default: true if the model has a threshold for them.
        quiet: Minimum time between two alerts of the same class.
        every: Time between two scans of a folder, or between two frames.
        settle: A file in a folder is complete when it has not changed for this time.
        output: File to append alerts to. Default: standard output.
        snapshots: Folder for the images that raise alerts, as JPEG.
        post: URL to send alerts to, until the server accepts them.
        secret_file: File with the key that signs ``post``. Default: the environment variable ANIMALS_PL_SECRET.
        run: Command to run with each alert on its standard input, such as '["notify", "--loud"]'.
        state: SQLite file with processed files and waiting alerts, on a local disk. Default: ``watch_SOURCE.sqlite``.
        heartbeat: Time between two lines with counts in the log (standard error).

    Raises:
        UsageError: An option, the model or the source cannot be used.
        Terminated: The process received SIGTERM. The exit code is 143.
    """
    require_types(watch, locals())
    times = Times.parse(quiet, every, settle, heartbeat)
    origin = Source.of(source)
    k, n = _k_of_n(frames, origin)
    sinks = _sinks(output, post, secret_file, run)
    _require_folder(snapshots, origin)
    identifier = Identifier(model)
    rules = AlertRules(thresholds(alert, threshold, identifier.class_names), k, n, times.quiet)
    limit = _unknown_threshold(identifier, unknown)
    maker = AlertMaker(identifier, rules, limit, origin, None if snapshots is None else Path(snapshots).resolve())
    _watch(origin, maker, times, sinks, Path(state or _state_name(origin)))


def _watch(source: Source, maker: AlertMaker, times: Times, sinks: list[Sink], state_file: Path) -> None:
    require_writable(state_file, "state")
    counts: Counter[str] = Counter()
    stop = Stop()
    with closing(State(state_file, source.address)) as state:
        maker.resume(state.last_alerts())
        frames = source.frames(state, maker.input_size, times, counts, stop)
        loop = Loop(frames, maker, state, [Delivery(sink, state) for sink in sinks], counts, source.name)
        with stop.on_signals():
            loop.run(times.heartbeat, stop)
    stop.end_process()


def _k_of_n(frames: str | None, source: Source) -> tuple[int, int]:
    if source.kind != "folder":
        return k_of_n(frames or "2/3")
    if frames is not None:
        raise UsageError(f"frames={frames!r} only applies to videos and streams. Remove it.")
    return 1, 1


def _sinks(output: str | None, post: str | None, secret_file: str | None, run: list[str] | None) -> list[Sink]:
    if secret_file is not None and post is None:
        raise UsageError(f"secret_file={secret_file!r} only applies to post. Remove it, or pass post.")
    sinks: list[Sink] = [Output(None if output is None else Path(output))]
    sinks += [] if post is None else [Post(post, secret_file)]
    sinks += [] if run is None else [Command(run)]
    return sinks


def _require_folder(snapshots: str | None, source: Source) -> None:
    if snapshots is None:
        return
    require_writable(Path(snapshots), "snapshots", folder=True)
    if source.contains(Path(snapshots)):
        raise UsageError(f"snapshots={snapshots!r} is inside the watched folder. Choose another folder.")


def _unknown_threshold(identifier: Identifier, unknown: bool | None) -> float:
    threshold = identifier.metadata.unknown_threshold
    if unknown and threshold is None:
        raise UsageError("unknown=true: the model has no threshold for unknown images. Remove unknown.")
    return math.inf if threshold is None or unknown is False else threshold


def _state_name(source: Source) -> str:
    return f"watch_{re.sub('[^0-9A-Za-z]+', '_', source.name).strip('_')[-60:]}.sqlite"
