"""Classify many images with an exported file and write one row per image. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import itertools
import math
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from animals_pl.data.cores import available_cores
from animals_pl.deploy.class_folders import copy_into, require_copy_folder
from animals_pl.deploy.classify_boxes import classify_boxes
from animals_pl.deploy.classify_options import Format, Options
from animals_pl.deploy.engines import EngineName
from animals_pl.deploy.image_paths import STDIN, image_paths
from animals_pl.deploy.image_worker import ImageWorker
from animals_pl.deploy.output_formats import write_output
from animals_pl.deploy.parallel import batches, in_order
from animals_pl.deploy.prediction_rows import RowRules
from animals_pl.deploy.prediction_table import PredictionTable
from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.sequences import SEQUENCE_COLUMNS
from animals_pl.errors import UsageError, counted
from animals_pl.files import message_stream, printable, track
from animals_pl.hub import ONNX_FILE, local_file

BATCH = 4
"""Images that a thread takes at a time."""


def classify(
    model: str,
    paths: list[str] | None = None,
    output: str = "predictions.csv",
    resume: bool = False,
    top_k: int = 3,
    threshold: float = 0.0,
    unknown: bool = False,
    copy: str | None = None,
    format: Format | None = None,
    detections: str | None = None,
    min_confidence: float | None = None,
    timezone: str | None = None,
    deployments: str | None = None,
    sequence: str | None = None,
    engine: EngineName = "onnxruntime",
) -> None:
    """Classify images with an exported model and write one row per image.

    PyTorch is not needed. A file that cannot be decoded has a row with the reason. Rows are written while images are
    read, so that an interrupted command can be continued.

    Args:
        model: The ONNX file, written by ``export``, or hf://OWNER/NAME for a model on the Hugging Face Hub.
        paths: Images, folders (searched at any depth), patterns such as "card/**/*.jpg", or - for a list of paths on
            standard input, separated by newlines or null characters. With ``detections``: their folder.
        output: The file to write: .csv, or .jsonl for one JSON object per line; for other formats see ``format``.
        resume: Continue the output file. Images in it are skipped if their size and modification time are the same,
            moved or renamed images keep their result, and images whose content has changed are classified again.
        top_k: Number of classes per image.
        threshold: Images with a lower probability get the class "review".
        unknown: Images of no known class get the class "unknown". The model must have a threshold for them.
        copy: Folder to copy the images to, into one folder per class. Nothing is overwritten.
        format: "megadetector": a .json file with one box around each image. "camtrap-dp": a folder with a Camtrap DP
            package. null: a table, by the suffix of the output.
        detections: MegaDetector's JSON file. Its animal boxes are classified, and the same format is written.
        min_confidence: Boxes of ``detections`` with a lower confidence are not classified. null: 0.2.
        timezone: For "camtrap-dp": time zone of the cameras, such as Europe/Rome or +02:00.
        deployments: For "camtrap-dp": CSV file with the columns folder, deploymentID, latitude and longitude.
        sequence: Longest time between images of a burst, such as 30s. Images of a burst get a joint class.
        engine: "openvino" needs the package openvino. Both give the same probabilities.

    Raises:
        UsageError: A path, the model or the output cannot be used, or there are no images.
    """
    file = Path(local_file(model, "model", ONNX_FILE))
    inputs = file, paths or [], Path(output), resume, top_k, threshold, unknown, _path(copy)
    formats = format, _path(detections), min_confidence, timezone, _path(deployments), sequence
    options = Options(*inputs, *formats, engine)
    options.check()
    identifier, rules = _model_and_rules(options)
    if options.detections:
        classify_boxes(options.detections, options, identifier, rules)
    else:
        _classify_images(options, identifier, rules)


def _path(text: str | None) -> Path | None:
    return None if text is None else Path(text)


def _model_and_rules(options: Options) -> tuple[Identifier, RowRules]:
    identifier = Identifier(options.model, engine=options.engine, threads=1)
    limit = identifier.metadata.unknown_threshold if options.unknown else math.inf
    if limit is None:
        raise UsageError(f"unknown=true: {str(options.model)!r} has no threshold for unknown images. Remove unknown.")
    top_k = min(options.top_k, len(identifier.class_names))
    later = SEQUENCE_COLUMNS if options.sequence else ()
    return identifier, RowRules(identifier.metadata, top_k, options.threshold, limit, later)


def _classify_images(options: Options, identifier: Identifier, rules: RowRules) -> None:
    """Classify images and write the output."""
    if options.copy:
        require_copy_folder(options.copy, identifier.class_names, options.paths)
    with options.row_file() as file:
        table = PredictionTable(file, rules.columns)
        if options.resume:
            table.resume(rules.fault_of)
        start = time.perf_counter()
        with warnings.catch_warnings():  # decoders change the warning filters, in several threads
            counts = _write_rows(options.paths, ImageWorker(identifier, rules, table), options.copy)
        write_output(options, rules, table)
    summary = _summary(counts, time.perf_counter() - start)
    print(printable(f"{options.output}: {summary}"), file=message_stream(options.output))


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
        for outcomes in in_order(worker, batches(itertools.chain([first], images), BATCH), available_cores()):
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
    texts = {"reused": "with known content", "unchanged": "unchanged", "problem": "with a problem"}
    parts = [f"{counts[kind]:,} {text}" for kind, text in texts.items() if counts[kind]]
    details = f" ({', '.join(parts)})" if parts else ""
    return f"{counted(images, 'image')}{details} in {seconds:.1f} s, {images / seconds:,.0f} images/s"


def _distinct(paths: Iterable[str]) -> Iterator[str]:
    """The paths without repetitions. One integer per path is kept in memory."""
    seen: set[int] = set()
    for path in paths:
        if hash(path) not in seen:
            seen.add(hash(path))
            yield path
