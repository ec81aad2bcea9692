"""Classify the boxes in MegaDetector's output. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import itertools
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from animals_pl.data.cores import available_cores
from animals_pl.deploy.box_worker import BoxWorker
from animals_pl.deploy.classify_options import MIN_CONFIDENCE, Options
from animals_pl.deploy.json_stream import read_members
from animals_pl.deploy.megadetector import IMAGES, Classifications, check, write_classified
from animals_pl.deploy.parallel import batches, in_order
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.runtime import Identifier
from animals_pl.errors import counted
from animals_pl.files import message_stream, printable, track

BATCH = 2
"""Images that a thread reads, decodes and classifies one after the other."""

MOST_PROBLEMS = 10
"""Kinds of problems that are printed."""


def classify_boxes(detections: Path, options: Options, identifier: Identifier, rules: RowRules) -> None:
    """Classify the boxes in a MegaDetector file and write the output.

    Raises:
        UsageError: The file cannot be used.
    """
    contents = check(detections)
    classifications = Classifications(rules.metadata, options.model)
    root = Path(options.paths[0]) if options.paths else detections.parent
    least = MIN_CONFIDENCE if options.min_confidence is None else options.min_confidence
    worker = BoxWorker(identifier, rules, classifications, root, contents.animal_ids, least)
    counts: Counter[str] = Counter()
    problems: Counter[str] = Counter()
    start = time.perf_counter()
    with warnings.catch_warnings():  # decoders change the warning filters, in several threads
        images = track(_images(detections), "classifying", contents.images)
        write_classified(detections, options.output, _classified(worker, images, counts, problems), classifications)
    _report_problems(problems)
    summary = _summary(counts, time.perf_counter() - start)
    print(printable(f"{options.output}: {summary}"), file=message_stream(options.output))


def _images(detections: Path) -> Iterator[dict[str, Any]]:
    return itertools.chain.from_iterable(value for key, value in read_members(detections, IMAGES) if key == IMAGES)


def _classified(
    worker: BoxWorker, images: Iterable[dict[str, Any]], counts: Counter[str], problems: Counter[str]
) -> Iterator[dict[str, Any]]:
    """Yield the images with classifications; count them, their boxes and their problems."""
    for outcomes in in_order(worker, batches(images, BATCH), available_cores()):
        for image, problem, classified, left_out in outcomes:
            counts.update(images=1, classified=classified, left_out=left_out, problem=bool(problem))
            problems.update([problem] if problem else [])
            yield image


def _report_problems(problems: Counter[str]) -> None:
    for problem, count in problems.most_common(MOST_PROBLEMS):
        print(printable(f"warning: {counted(count, 'image')}: {problem}"), file=sys.stderr)
    if len(problems) > MOST_PROBLEMS:
        print(f"warning: and {counted(len(problems) - MOST_PROBLEMS, 'other problem')}", file=sys.stderr)


def _summary(counts: Counter[str], seconds: float) -> str:
    parts = [f"{counted(counts['left_out'], 'box')} without a result"] if counts["left_out"] else []
    parts += [f"{counted(counts['problem'], 'image')} with a problem"] if counts["problem"] else []
    details = f" ({', '.join(parts)})" if parts else ""
    boxes, images = counted(counts["classified"], "box"), counted(counts["images"], "image")
    return f"{boxes} in {images}{details} in {seconds:.1f} s"
