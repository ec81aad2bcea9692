"""Decisions from the evaluations of finished runs: the review contract, and the comparison of two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from animals_pl.data.catalog import display_name, english_name
from animals_pl.errors import UsageError, did_you_mean
from animals_pl.evaluation.comparison import compare_predictions
from animals_pl.evaluation.contract import Promise, apply_contract, choose_contract
from animals_pl.evaluation.contract_text import contract_sentence, refusal_sentence, result_sentence
from animals_pl.evaluation.intervals import Interval

RECALL, PRECISION = 0.97, 0.99
"""Default goals of a contract: of each class at most 3 % missed, at most 1 in 100 accepted labels wrong."""

_MODEL = ("checkpoint", "epoch", "tta", "temperature", "prior")
"""Entries of metrics.json that are the same for evaluations of one model."""


@dataclass(frozen=True)
class SavedEvaluation:
    """An evaluation read from a run's folder.

    Attributes:
        folder: Its folder, such as ``RUN/evaluation/test``.
        class_names: Name of each class (C,).
        paths: Image of each row (N,).
        groups: Group of each image (N,), such as duplicates.
        labels: True classes (N,).
        predictions: Predicted classes (N,).
        scores: Calibrated probability of the predicted class (N,).
        facts: Contents of metrics.json.
    """

    folder: Path
    class_names: list[str]
    paths: list[str]
    groups: np.ndarray
    labels: np.ndarray
    predictions: np.ndarray
    scores: np.ndarray
    facts: dict[str, Any]


def read_evaluation(run: Path, split: str) -> SavedEvaluation:
    """Read what ``validate`` (``val``) or ``test`` has written into a run's folder.

    Raises:
        UsageError: The files are missing or damaged.
    """
    folder = run / "evaluation" / split
    try:
        table = pd.read_csv(folder / "predictions.csv", keep_default_na=False, encoding_errors="surrogateescape")
        facts = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        names = [column.removeprefix("probability_") for column in table if column.startswith("probability_")]
        index = {name: label for label, name in enumerate(names)}
        labels, predictions = (table[key].astype(str).map(index).to_numpy(int) for key in ("label", "prediction"))
        scores = table[[f"probability_{name}" for name in names]].to_numpy(float)[np.arange(len(table)), predictions]
        groups, paths = table["group"].to_numpy(int), table["path"].tolist()
    except (OSError, ValueError, KeyError) as error:
        verb = "validate" if split == "val" else "test"
        reason = "is missing" if isinstance(error, FileNotFoundError) else "cannot be read"
        raise UsageError(
            f"the evaluation {str(folder)!r} {reason}. Run 'python -m animals_pl {verb} --ckpt_path {run}/best.ckpt'."
        ) from error
    return SavedEvaluation(folder, names, paths, groups, labels, predictions, scores, facts)


def contract_lines(run: Path, recall: str | None = None, precision: float | None = None) -> Iterator[str]:
    """Sentences of the review contract of a run: chosen on its validation images, evaluated on its test images.

    Args:
        run: Folder of the run.
        recall: Recall to promise: ``0.97`` for every class, or ``elephant=0.95,dog=0.9``. Default: :data:`RECALL` for
            every class, or none if only ``precision`` is given.
        precision: Precision of all accepted labels. Default: :data:`PRECISION`, or none if only ``recall`` is given.

    Raises:
        UsageError: An evaluation is missing or is of another model, or a goal is invalid.
    """
    val = read_evaluation(run, "val")
    names = [display_name(name) for name in val.class_names]
    if recall is None and precision is None:
        recall, precision = str(RECALL), PRECISION
    promises = [*_recall_promises(recall or "", val.class_names)]
    promises += [Promise("wrong", 1 - _rate("precision", precision))] if precision is not None else []
    contract = choose_contract(val.scores, val.predictions, val.labels, promises, groups=val.groups)
    yield contract_sentence(contract, names)
    if (run / "evaluation" / "test").is_dir() and contract.threshold is not None:
        test = read_evaluation(run, "test")
        _require_same_model(val, test)
        yield result_sentence(apply_contract(contract, test.scores, test.predictions, test.labels), names)
    for refusal in contract.refused:
        yield refusal_sentence(refusal, names, contract.confidence)


def _recall_promises(recall: str, class_names: Sequence[str]) -> Iterator[Promise]:
    known = {english_name(name).lower(): label for label, name in enumerate(class_names)}
    known |= {name.lower(): label for label, name in enumerate(class_names)}
    for part in filter(None, recall.split(",")):
        name, _, value = part.rpartition("=")
        bound = 1 - _rate("recall", value)
        if not name:
            yield from (Promise("missed", bound, label) for label in range(len(class_names)))
        elif name.strip().lower() in known:
            yield Promise("missed", bound, known[name.strip().lower()])
        else:
            raise UsageError(
                f"recall={recall!r}: the class {name!r} is unknown. {did_you_mean(name, known)}"
                f"Choose one of {', '.join(class_names)}."
            )


def _rate(option: str, value: str | float) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = 0
    if not 0 < rate < 1:
        raise UsageError(f"{option}={value!r} is not a rate. Choose a number above 0 and below 1, such as 0.95.")
    return rate


def _require_same_model(val: SavedEvaluation, test: SavedEvaluation) -> None:
    differing = [key for key in _MODEL if val.facts.get(key) != test.facts.get(key)]
    if differing or val.class_names != test.class_names:
        key = differing[0] if differing else "class names"
        raise UsageError(
            f"{str(val.folder)!r} and {str(test.folder)!r} are evaluations of different models ({key}). "
            "Run validate and test with the same checkpoint and options."
        )


def comparison_lines(first: Path, second: Path) -> Iterator[str]:
    """Sentences that compare two runs on the same images: those of ``test`` if both have it, else of ``validate``.

    Raises:
        UsageError: An evaluation is missing, or the images or classes differ.
    """
    split = "test" if all((run / "evaluation" / "test").is_dir() for run in (first, second)) else "val"
    a, b = (read_evaluation(run, split) for run in (first, second))
    if a.class_names != b.class_names or a.paths != b.paths or (a.labels != b.labels).any():
        raise UsageError(
            f"{str(a.folder)!r} and {str(b.folder)!r} do not have the same images and classes. Evaluate both runs on "
            "one dataset and split, with --data.root and --data.split, or with --data.test_root."
        )
    compared = compare_predictions(a.labels, a.predictions, b.predictions, len(a.class_names), groups=a.groups)
    test = compared.test
    yield f"{len(a.labels):,} {split} images; differences are {second} minus {first}, with 95 % intervals"
    yield f"accuracy      {_signed(compared.acc)}"
    yield f"macro recall  {_signed(compared.macro_recall)}"
    yield (
        f"only {first} is right on {test.only_first:,}, only {second} on {test.only_second:,} "
        f"(McNemar's exact test: p = {test.p_value:.2g})"
    )


def _signed(difference: Interval) -> str:
    return f"{difference.value:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"
