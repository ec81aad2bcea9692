"""Sentences of review contracts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from animals_pl.errors import counted, listed
from animals_pl.evaluation.contract import Contract, ContractResult, Promise, PromiseResult, Refusal


def percent(rate: float) -> str:
    """``"12 %"``, ``"0.5 %"``: two significant digits below 10 %."""
    value = 100 * rate
    return f"{value:.0f} %" if value >= 9.95 or value == 0 else f"{value:.2g} %"


def one_in(rate: float) -> str:
    """``"1 in 200"``; a percentage if that is not a whole number."""
    count = 1 / rate
    return f"1 in {count:,.0f}" if abs(count - round(count)) < 1e-6 * count else percent(rate)


def contract_sentence(contract: Contract, class_names: Sequence[str]) -> str:
    """One sentence with what a contract promises, or that no threshold can be recommended.

    Args:
        contract: The contract.
        class_names: Name of each class (C,).
    """
    if contract.threshold is None:
        return "No threshold can be recommended: every image needs review."
    parts = [f"{percent(contract.review)} of the images are left for review", *_promises(contract, class_names)]
    return (
        f"Accept labels with a score of {contract.threshold:.3g} or more: {', '.join(parts)} "
        f"({percent(contract.confidence)} confidence)."
    )


def _promises(contract: Contract, class_names: Sequence[str]) -> Iterator[str]:
    """What is promised; classes with the same bound together."""
    missed: dict[float, list[str]] = {}
    for promise in contract.promises:
        if promise.kind == "missed":
            missed.setdefault(promise.bound, []).append(_name(promise, class_names))
    for bound, names in missed.items():
        each = f"of each of {counted(len(names), 'class')} ({listed(names)})" if len(names) > 1 else f"of {names[0]}"
        yield f"at most {percent(bound)} of the images {each} are accepted under another label"
    for promise in contract.promises:
        if promise.kind == "wrong":
            share = _share(promise, class_names)
            yield f"at most {share} {'is' if share.startswith('1 in') else 'are'} wrong"


def _share(promise: Promise, class_names: Sequence[str]) -> str:
    """``"1 in 200 accepted labels"``, ``"0.3 % of the labels accepted as cat"``."""
    rate = one_in(promise.bound)
    return f"{rate} {'' if rate.startswith('1 in') else 'of the '}{_accepted(promise, class_names)}"


def _accepted(promise: Promise, class_names: Sequence[str]) -> str:
    return "accepted labels" if promise.label is None else f"labels accepted as {class_names[promise.label]}"


def refusal_sentence(refusal: Refusal, class_names: Sequence[str], confidence: float = 0.95) -> str:
    """One sentence that says why a promise is not made, and how many images it needs.

    Args:
        refusal: The refusal.
        class_names: Name of each class (C,).
        confidence: Confidence level of the contract.
    """
    promise = refusal.promise
    if promise.kind == "missed":
        goal, error = f"{percent(promise.bound)} of the images of {_name(promise, class_names)} missed", "a miss"
    else:
        goal, error = f"{_share(promise, class_names)} wrong", "a wrong label"
    start = f"Not promised: at most {goal}. "
    if refusal.reached is None:
        return start + (
            f"{percent(confidence)} confidence takes {refusal.needed:,} independent images without {error}; "
            f"there {'is' if refusal.images == 1 else 'are'} {refusal.images:,}."
        )
    if refusal.reached > promise.bound:
        shown = f"{100 * refusal.reached:.3g} %"  # may be just above the bound
        return start + f"The lowest bound reached with {counted(refusal.images, 'image')} is {shown}."
    return start + "It can be kept on its own, but no threshold keeps all promises."


def result_sentence(result: ContractResult, class_names: Sequence[str]) -> str:
    """One sentence with the counts of a contract on other images.

    Args:
        result: Result of the contract on these images.
        class_names: Name of each class (C,).
    """
    parts = [f"{percent(result.review.value)} are left for review", *(_result(r, class_names) for r in result.results)]
    return f"Of {counted(result.images, 'test image')}, {', '.join(parts)}."


def _result(result: PromiseResult, class_names: Sequence[str]) -> str:
    promise = result.promise
    be = "is" if result.errors == 1 else "are"
    if promise.kind == "missed":
        name = _name(promise, class_names)
        return f"{result.errors:,} of {result.images:,} images of {name} {be} accepted under another label"
    return f"{result.errors:,} of {result.images:,} {_accepted(promise, class_names)} {be} wrong"


def _name(promise: Promise, class_names: Sequence[str]) -> str:
    assert promise.label is not None
    return class_names[promise.label]
