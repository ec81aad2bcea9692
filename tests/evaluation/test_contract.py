"""The review contract: its promises hold, by simulation, and it says what it cannot promise."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.special import expit

from animals_pl.errors import UsageError
from animals_pl.evaluation.contract import Promise, apply_contract, choose_contract
from animals_pl.evaluation.contract_text import contract_sentence, one_in, percent, refusal_sentence, result_sentence
from animals_pl.evaluation.intervals import clopper_pearson_upper

NAMES = ["cat", "dog", "elephant"]
MISSED, WRONG = Promise("missed", 0.03, 2), Promise("wrong", 1 / 200)

Images = tuple[np.ndarray, np.ndarray, np.ndarray]


def certain(right: int, wrong: int = 0, label: int = 2, score: float = 0.999) -> Images:
    """Scores, predictions and labels of images of one class."""
    labels = np.full(right + wrong, label)
    return np.full(right + wrong, score), np.where(np.arange(right + wrong) < right, label, (label + 1) % 3), labels


def together(*parts: Images) -> Images:
    scores, predictions, labels = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    return scores, predictions, labels


@pytest.mark.parametrize(("promise", "needed"), [(MISSED, 99), (WRONG, 598)])
def test_a_promise_takes_as_many_images_as_its_bound_needs(promise: Promise, needed: int) -> None:
    assert choose_contract(*certain(needed), [promise]).promises == (promise,)
    contract = choose_contract(*certain(needed - 1), [promise])
    assert (contract.threshold, contract.promises, contract.review) == (None, (), 1)
    (refusal,) = contract.refused
    assert (refusal.images, refusal.needed, refusal.reached) == (needed - 1, needed, None)


def test_one_error_more_takes_more_images() -> None:
    assert choose_contract(*certain(156, 1), [MISSED]).threshold == 0
    contract = choose_contract(*certain(155, 1), [MISSED])
    assert contract.threshold is None
    assert contract.refused[0].reached == pytest.approx(clopper_pearson_upper(1, 156))
    assert contract.refused[0].reached > 0.03


def test_the_threshold_is_above_the_mistakes() -> None:
    images = together(certain(2000, score=0.99), certain(300, 200, score=0.7))
    contract = choose_contract(*images, [MISSED, WRONG])
    assert contract.threshold is not None
    assert 0.7 < contract.threshold < 0.99
    assert contract.threshold < 0.73  # the lowest that was tested
    assert contract.review == 0.2
    assert contract.promises == (MISSED, WRONG)


def test_an_image_left_for_review_is_not_missed() -> None:
    images = together(certain(100, score=0.99), certain(0, 900, score=0.6))
    result = apply_contract(choose_contract(*images, [MISSED]), *images)
    assert (result.review.value, result.results[0].errors, result.results[0].images) == (0.9, 0, 1000)


def test_an_image_of_another_class_is_wrong_and_not_missed() -> None:
    images = together(certain(400), certain(0, 400, label=1))  # dogs that are accepted as elephants
    assert choose_contract(*images, [MISSED]).threshold == 0
    assert choose_contract(*images, [Promise("wrong", 0.05, 2)]).threshold is None
    assert choose_contract(*images, [Promise("missed", 0.05, 1)]).threshold is None


def test_one_wrong_label_at_the_top_does_not_end_the_search() -> None:
    images = together(certain(0, 1, score=0.9999), certain(4000, score=0.9))
    contract = choose_contract(*images, [WRONG])
    assert contract.threshold == 0
    assert contract.review == 0


def test_promises_without_enough_images_are_left_out_and_the_others_kept() -> None:
    images = together(certain(700, label=0), certain(50, label=1), certain(40))
    contract = choose_contract(*images, [WRONG, MISSED, Promise("missed", 0.03, 0)])
    assert [promise.label for promise in contract.promises] == [None, 0]
    assert [(refusal.promise, refusal.images) for refusal in contract.refused] == [(MISSED, 40)]


def test_copies_do_not_count() -> None:
    scores, predictions, labels = certain(120)
    groups = np.arange(120) // 2
    (refusal,) = choose_contract(scores, predictions, labels, [MISSED], groups=groups).refused
    assert refusal.images == 60
    assert choose_contract(scores, predictions, labels, [MISSED], groups=np.arange(120)).threshold == 0


def test_a_contract_is_stated_on_other_images() -> None:
    contract = choose_contract(*together(certain(2000), certain(30, 30, score=0.6)), [MISSED, WRONG])
    result = apply_contract(contract, *together(certain(90, 10), certain(500, label=0), certain(40, 60, score=0.5)))
    missed, wrong = result.results
    assert (missed.errors, missed.images, missed.kept) == (10, 200, False)
    assert (wrong.errors, wrong.images, wrong.kept) == (10, 600, False)
    assert missed.upper == clopper_pearson_upper(10, 200)
    assert missed.rate.value == 0.05
    assert result.review.value == pytest.approx(100 / 700)
    exact = apply_contract(contract, *certain(199, 1)).results[1]
    assert (exact.rate.value, exact.kept) == (0.005, True)


def test_without_a_threshold_all_images_are_reviewed() -> None:
    contract = choose_contract(*certain(10), [MISSED])
    result = apply_contract(contract, *certain(10))
    assert (result.review.value, result.results) == (1, ())


def test_promises_are_checked() -> None:
    with pytest.raises(UsageError, match=r"bound=1.5 .* between 0 and 1"):
        Promise("wrong", 1.5)
    with pytest.raises(UsageError, match="needs a class"):
        Promise("missed", 0.03)


# ---------------------------------------------------------------- sentences


def test_the_sentence_says_what_is_reviewed_missed_and_wrong() -> None:
    contract = choose_contract(*together(certain(2000), certain(0, 300, score=0.6)), [MISSED, WRONG])
    assert contract_sentence(contract, NAMES) == (
        f"Accept labels with a score of {contract.threshold:.3g} or more: 13 % of the images are left for review, "
        "at most 3 % of the images of elephant are accepted under another label, at most 1 in 200 accepted labels is "
        "wrong (95 % confidence)."
    )
    result = apply_contract(contract, *together(certain(90, 10), certain(40, 60, score=0.5)))
    assert result_sentence(result, NAMES) == (
        "Of 200 test images, 50 % are left for review, 10 of 200 images of elephant are accepted under another label, "
        "10 of 100 accepted labels are wrong."
    )


def test_the_sentence_names_classes_with_the_same_bound_together() -> None:
    images = together(*(certain(1000, label=label) for label in range(3)))
    promises = [Promise("missed", 0.03, 0), Promise("missed", 1 - 0.95, 1), MISSED, Promise("wrong", 1 - 0.99, 1)]
    sentence = contract_sentence(choose_contract(*images, promises), NAMES)
    assert "at most 3 % of the images of each of 2 classes (cat, elephant) are accepted under another label" in sentence
    assert "at most 5 % of the images of dog are" in sentence
    assert "at most 1 in 100 labels accepted as dog is wrong" in sentence
    other = contract_sentence(choose_contract(*images, [Promise("wrong", 0.003)]), NAMES)
    assert "0 % of the images are left for review, at most 0.3 % of the accepted labels are wrong" in other


def test_a_refusal_says_how_many_images_are_needed() -> None:
    contract = choose_contract(*certain(45), [MISSED, WRONG])
    assert contract_sentence(contract, NAMES) == "No threshold can be recommended: every image needs review."
    assert [refusal_sentence(refusal, NAMES) for refusal in contract.refused] == [
        "Not promised: at most 3 % of the images of elephant missed. 95 % confidence takes 99 independent images "
        "without a miss; there are 45.",
        "Not promised: at most 1 in 200 accepted labels wrong. 95 % confidence takes 598 independent images without "
        "a wrong label; there are 45.",
    ]
    (refusal,) = choose_contract(*certain(151, 1), [MISSED]).refused
    assert refusal_sentence(refusal, NAMES).endswith("The lowest bound reached with 152 images is 3.08 %.")


def test_a_promise_that_fails_only_with_others_is_named_too() -> None:
    labels_of_elephants, wrong_labels = certain(200), certain(0, 700, label=0)
    possible, impossible = choose_contract(*together(labels_of_elephants, wrong_labels), [MISSED, WRONG]).refused
    assert (possible.promise, impossible.promise) == (MISSED, WRONG)
    expected = "It can be kept on its own, but no threshold keeps all promises."
    assert refusal_sentence(possible, NAMES).endswith(expected)
    assert impossible.reached > WRONG.bound


@pytest.mark.parametrize(
    ("rate", "text"), [(0, "0 %"), (0.004, "0.4 %"), (0.0312, "3.1 %"), (0.0996, "10 %"), (0.125, "12 %"), (1, "100 %")]
)
def test_rates_have_two_digits(rate: float, text: str) -> None:
    assert percent(rate) == text


def test_rates_that_are_one_in_a_number_say_so() -> None:
    assert [one_in(rate) for rate in (1 / 200, 1 - 0.99, 0.003, 0.0001)] == [
        "1 in 200",
        "1 in 100",
        "0.3 %",
        "1 in 10,000",
    ]


# ---------------------------------------------------------------- simulation


def population(random: np.random.Generator, shape: str, count: int = 200_000) -> Images:
    """A large population of images of three classes, a tenth of class 2."""
    labels = random.choice(3, count, p=[0.6, 0.3, 0.1])
    score = expit(random.normal(4, 2.5, count))
    if shape == "calibrated":
        wrong = 1 - score
    elif shape == "edge":  # half of the images have a low score; with them, the rates are just above the bounds
        score = np.where(score > np.median(score), 0.99, 0.6)
        wrong = np.where(score < 0.9, np.where(labels == 2, 0.061, 0.0165), 0)
    else:  # overconfident: mistakes up to the highest scores, more of them in class 2
        wrong = 0.009 + 0.2 * (1 - score) + 0.03 * (labels == 2)
    mistaken = random.random(count) < wrong
    return score, np.where(mistaken, (labels + 1 + (random.random(count) < 0.5)) % 3, labels), labels


def true_rates(images: Images, promise: Promise, thresholds: np.ndarray) -> np.ndarray:
    """Rate of errors of the whole population at each threshold."""
    scores, predictions, labels = images
    wrong = predictions != labels
    if promise.kind == "missed":
        of_class = labels == promise.label
        return np.array([(wrong & of_class & (scores >= t)).sum() / of_class.sum() for t in thresholds])
    of_class = (predictions == promise.label) if promise.label is not None else np.ones(len(labels), bool)
    return np.array([(wrong & of_class & (scores >= t)).sum() / (of_class & (scores >= t)).sum() for t in thresholds])


CONTRACTS = {
    "missed": [Promise("missed", 0.03, 2)],
    "wrong": [Promise("wrong", 0.01)],
    "wrong in a class": [Promise("wrong", 0.02, 1)],
    "all": [Promise("missed", 0.05, 2), Promise("missed", 0.03, 1), Promise("wrong", 0.01)],
}


@pytest.mark.slow
@pytest.mark.parametrize("promises", CONTRACTS.values(), ids=CONTRACTS)
@pytest.mark.parametrize("shape", ["calibrated", "edge", "overconfident"])
def test_the_true_rate_exceeds_a_bound_in_at_most_one_of_20_validation_sets(
    promises: list[Promise], shape: str
) -> None:
    random = np.random.default_rng(11)
    whole = population(random, shape)
    found = []
    for _ in range(2000):
        drawn = random.integers(0, len(whole[0]), 2500)
        scores, predictions, labels = (column[drawn] for column in whole)
        found.append(choose_contract(scores, predictions, labels, promises))
    chosen = np.array([contract.threshold for contract in found if contract.threshold is not None])
    exceeded = np.zeros(len(chosen), bool)
    if len(chosen):
        distinct, which = np.unique(chosen, return_inverse=True)
        for promise in promises:
            exceeded |= (true_rates(whole, promise, distinct) > promise.bound)[which]
    review = np.mean([contract.review for contract in found])
    print(
        f"{shape}: {len(chosen) / 2000:.1%} with a threshold, {exceeded.sum() / 2000:.2%} exceed, {review:.0%} review"
    )
    assert exceeded.sum() <= 0.065 * 2000
    if shape == "calibrated":
        assert len(chosen) > 1000  # and the promise is worth something
