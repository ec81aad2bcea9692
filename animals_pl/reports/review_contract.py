"""The review contract of a run: chosen on its validation images, evaluated on its test images."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from animals_pl.data.catalog import display_name, english_name
from animals_pl.errors import UsageError, did_you_mean, listed
from animals_pl.evaluation.contract import (
    Contract,
    ContractResult,
    Promise,
    Refusal,
    apply_contract,
    choose_contract,
)
from animals_pl.evaluation.contract_text import contract_sentence, percent, refusal_sentence, result_sentence
from animals_pl.evaluation.intervals import images_needed
from animals_pl.reports.saved_evaluations import SavedEvaluation, read_evaluation, require_same_model

RECALL, PRECISION = 0.97, 0.99
"""Default goals of a contract: of each class at most 3 % missed, at most 1 in 100 accepted labels wrong."""

_GOAL = re.compile(r"(?P<name>.*?)=(?P<rate>[^=,]*)(?:,|$)")
"""A goal for a class, whose name may have commas and equals signs."""


@dataclass(frozen=True)
class ReviewContract:
    """A contract with its result.

    Attributes:
        contract: The contract.
        result: Its result on the test images; None without test images or without a threshold.
        class_names: Name of each class (C,).
    """

    contract: Contract
    result: ContractResult | None
    class_names: list[str]


def review_contract(
    val: SavedEvaluation, test: SavedEvaluation | None, recall: str | None = None, precision: float | None = None
) -> ReviewContract:
    """Choose a contract on validation images, and evaluate it on test images.

    Args:
        val: Evaluation on the validation images.
        test: Evaluation of the same model on test images. None: no result.
        recall: Recall to promise: ``0.97`` for every class, or ``elephant=0.95,dog=0.9``. Default: :data:`RECALL` for
            every class, or none if only ``precision`` is given.
        precision: Precision of all accepted labels. Default: :data:`PRECISION`, or none if only ``recall`` is given.

    Raises:
        UsageError: The evaluations are of different models, or a goal is invalid.
    """
    if recall is None and precision is None:
        recall, precision = str(RECALL), PRECISION
    promises = [*_recall_promises(recall, val.class_names)] if recall is not None else []
    promises += [Promise("wrong", 1 - _rate("precision", precision))] if precision is not None else []
    contract = choose_contract(val.scores, val.predictions, val.labels, promises, groups=val.groups)
    result = None
    if test is not None and contract.threshold is not None:
        require_same_model(val, test)
        result = apply_contract(contract, test.scores, test.predictions, test.labels)
    return ReviewContract(contract, result, val.class_names)


def contract_lines(run: Path, recall: str | None = None, precision: float | None = None) -> Iterator[str]:
    """Sentences of the :func:`review_contract` of a run, from the evaluations in its folder.

    Raises:
        UsageError: An evaluation is missing or damaged, they are of different models, or a goal is invalid.
    """
    val = read_evaluation(run, "val")
    test = read_evaluation(run, "test") if (run / "evaluation" / "test").is_dir() else None
    found = review_contract(val, test, recall, precision)
    names = [display_name(name) for name in found.class_names]
    yield contract_sentence(found.contract, names)
    if found.result is not None:
        yield result_sentence(found.result, names)
    for refusal in found.contract.refused:
        yield refusal_sentence(refusal, names, found.contract.confidence)


def contract_rows(found: ReviewContract, class_names: Sequence[str]) -> list[dict[str, str]]:
    """Cells of a table of the promises of a contract, and of those that are not made.

    Args:
        found: The contract.
        class_names: Name of each class (C,).

    Returns:
        ``name`` of the class, ``goal``, independent validation ``images``, images ``needed`` without an error, whether
        the promise is ``made``, and the ``result`` on the test images.
    """
    contract = found.contract
    made = list(zip(contract.promises, contract.images, strict=True))
    results = found.result.results if found.result is not None else ()
    counts = {result.promise: f"{result.errors:,} of {result.images:,}" for result in results}
    rows = [(promise, images, images_needed(promise.bound, contract.confidence), "yes") for promise, images in made]
    rows += [(refusal.promise, refusal.images, refusal.needed, _reason(refusal)) for refusal in contract.refused]
    rows.sort(key=lambda row: len(class_names) if row[0].label is None else row[0].label)
    return [
        {
            "name": "all accepted labels" if promise.label is None else class_names[promise.label],
            "goal": f"at most {percent(promise.bound)} {promise.kind}",
            "images": f"{images:,}",
            "needed": f"{needed:,}",
            "made": answer,
            "result": counts.get(promise, "–"),
        }
        for promise, images, needed, answer in rows
    ]


def _reason(refusal: Refusal) -> str:
    if refusal.reached is None:
        return "no: too few images"
    if refusal.reached > refusal.promise.bound:
        return f"no: the images show {100 * refusal.reached:.3g} % at best"
    return "no: not together with the other promises"


def _recall_promises(recall: str, class_names: Sequence[str]) -> Iterator[Promise]:
    if not recall.strip(", "):
        raise UsageError(f"recall={recall!r} has no goal. Pass one, such as 0.97 or elephant=0.95,dog=0.9.")
    if "=" not in recall:
        bound = 1 - _rate("recall", recall)
        yield from (Promise("missed", bound, label) for label in range(len(class_names)))
        return
    if rest := _GOAL.sub("", recall).strip(", "):
        raise UsageError(f"recall={recall!r}: {rest!r} is not a goal. Write CLASS=RATE, such as elephant=0.95.")
    goals = [(found["name"], found["rate"]) for found in _GOAL.finditer(recall)]
    labels = [_label(name, recall, class_names) for name, _ in goals]
    if twice := [class_names[label] for label, count in Counter(labels).items() if count > 1]:
        raise UsageError(f"recall={recall!r} has two goals for {listed(twice)}. Keep one.")
    for label, (_, rate) in zip(labels, goals, strict=True):
        yield Promise("missed", 1 - _rate("recall", rate), label)


def _label(name: str, recall: str, class_names: Sequence[str]) -> int:
    """Class of a name, as it is or in English, ignoring case and surrounding spaces. Exact matches have priority."""
    known = {english_name(own).strip().lower(): label for label, own in enumerate(class_names)}
    known |= {own.strip().lower(): label for label, own in enumerate(class_names)}
    known |= {own: label for label, own in enumerate(class_names)}
    found = known.get(name, known.get(name.strip().lower()))
    if found is None:
        raise UsageError(
            f"recall={recall!r}: the class {name!r} is unknown. {did_you_mean(name, known)}"
            f"Choose one of {', '.join(class_names)}."
        )
    return found


def _rate(option: str, value: str | float) -> float:
    try:
        rate = float(value)
    except ValueError:
        rate = 0
    if not 0 < rate < 1:
        raise UsageError(f"{option}={value!r} is not a rate. Choose a number above 0 and below 1, such as 0.95.")
    return rate
