"""Classify many images with an exported file and write one row per image. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import itertools
import math
import sys
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from animals_pl.data.cores import available_cores
from animals_pl.deploy.class_folders import copy_into, require_copy_folder
from animals_pl.deploy.engines import EngineName
from animals_pl.deploy.image_paths import STDIN, image_paths, require_existing
from animals_pl.deploy.image_worker import ImageWorker
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable
from animals_pl.deploy.runtime import Identifier
from animals_pl.errors import UsageError, counted, require_range
from animals_pl.files import is_stream, message_stream, printable, require_writable, track

BATCH = 4
"""Images that a thread takes at a time."""

Item = TypeVar("Item")
Result = TypeVar("Result")


def classify(
    model: str,
    paths: list[str],
    output: str = "predictions.csv",
    resume: bool = False,
    top_k: int = 3,
    threshold: float = 0.0,
    unknown: bool = False,
    copy: str | None = None,
    engine: EngineName = "onnxruntime",
) -> None:
    """Classify images with an exported model and write one row per image.

    PyTorch is not needed. A file that cannot be decoded has a row with the reason. Rows are written while images are
    read, so that an interrupted command can be continued.

    Args:
        model: The ONNX file, written by ``export``.
        paths: Images, folders (searched at any depth), patterns such as "card/**/*.jpg", or - for a list of paths on
            standard input, separated by line ends or null characters.
        output: The file to write: .csv, or .jsonl for one JSON object per line.
        resume: Continue the output file. Images in it are skipped if their size and modification time are the same,
            moved or renamed images keep their result, and images with another content are classified again.
        top_k: Number of classes per image.
        threshold: Images with a lower probability get the class "review".
        unknown: Images of no known class get the class "unknown". The model must have a threshold for them.
        copy: Folder to copy the images to, into one folder per class. Nothing is overwritten.
        engine: "openvino" needs the package openvino. Both give the same probabilities.

    Raises:
        UsageError: A path, the model or the output cannot be used, or there are no images.
    """
    require_range("top_k", top_k, 1, 2**20)
    require_range("threshold", threshold, 0, 1)
    require_existing(paths)
    target, copies = Path(output), None if copy is None else Path(copy)
    _require_output(target, resume)
    identifier = Identifier(model, engine=engine, threads=1)
    if copies:
        require_copy_folder(copies, identifier.class_names, paths)
    limit = identifier.metadata.unknown_threshold if unknown else math.inf
    if limit is None:
        raise UsageError(f"unknown=true: {model!r} has no threshold for unknown images. Remove unknown.")
    rules = RowRules(identifier.metadata, min(top_k, len(identifier.class_names)), threshold, limit)
    table = PredictionTable(target, rules.columns)
    if resume:
        table.resume(rules.fault_of)
    start = time.perf_counter()
    with warnings.catch_warnings():  # decoders change the filters, in several threads
        counts = _write_rows(paths, ImageWorker(identifier, rules, table), copies)
    summary = _summary(counts, time.perf_counter() - start)
    print(printable(f"{output}: {summary}"), file=message_stream(target))


def _require_output(output: Path, resume: bool) -> None:
    require_writable(output)
    if is_stream(output) and resume:
        raise UsageError(f"output={str(output)!r} is a stream, which cannot be continued. Remove resume.")
    if not is_stream(output) and not resume and output.exists() and output.stat().st_size:
        raise UsageError(f"output={str(output)!r} exists. Pass --resume to continue it, or choose another output.")


def _write_rows(paths: Sequence[str], worker: ImageWorker, copies: Path | None) -> Counter[str]:
    """Classify images and append their rows to the table.

    Returns:
        The number of images by the kind of their outcome, and of those with a problem.
    """
    unreadable: dict[Path, OSError] = {}
    total = None
    if STDIN not in paths and sys.stderr.isatty():
        total = sum(1 for _ in image_paths(paths, unreadable.__setitem__))
    images = _distinct(track(image_paths(paths, unreadable.__setitem__), "classifying", total))
    first = next(images, None)
    if first is None:
        raise UsageError(f"paths: there are no images in {', '.join(paths)}. Pass images or folders of images.")
    counts: Counter[str] = Counter()
    with worker.table as table:
        for outcomes in _in_order(worker, _batches(itertools.chain([first], images)), available_cores()):
            for row, kind in outcomes:
                counts.update({kind: 1, "problem": int(bool(row["problem"]))})
                if copies and row["class"]:
                    copy_into(copies / row["class"], Path(row["path"]))
            table.append([row for row, kind in outcomes if kind != "unchanged"])
    for folder, error in unreadable.items():
        text = f"warning: {str(folder)!r} cannot be read ({error.strerror}); the images in it are missing"
        print(printable(text), file=sys.stderr)
    return counts


def _summary(counts: Counter[str], seconds: float) -> str:
    images = counts.total() - counts["problem"]
    texts = {"reused": "with a known content", "unchanged": "unchanged", "problem": "with a problem"}
    parts = [f"{counts[kind]:,} {text}" for kind, text in texts.items() if counts[kind]]
    details = f" ({', '.join(parts)})" if parts else ""
    return f"{counted(images, 'image')}{details} in {seconds:.1f} s, {images / seconds:,.0f} images/s"


def _distinct(paths: Iterable[str]) -> Iterator[str]:
    """The paths without repetitions. The memory holds a number per path."""
    seen: set[int] = set()
    for path in paths:
        if hash(path) not in seen:
            seen.add(hash(path))
            yield path


def _batches(items: Iterable[Item]) -> Iterator[list[Item]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, BATCH)):
        yield batch


def _in_order(function: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """Call a function in several threads and yield the results in order. Few items are taken in advance."""
    pending: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) > 2 * threads:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)
