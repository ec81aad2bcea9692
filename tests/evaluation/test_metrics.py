"""Numbers from a confusion matrix against scikit-learn."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from animals_pl.evaluation.metrics import (
    confusion_matrix,
    f1_per_class,
    precision_per_class,
    recall_per_class,
    summarise,
)

CLASSES = 5


@st.composite
def labelled(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Draw truth and prediction; few images, so absent classes are frequent."""
    pairs = draw(st.lists(st.tuples(*2 * [st.integers(0, CLASSES - 1)]), min_size=1, max_size=40))
    truth, prediction = np.array(pairs).T
    return truth, prediction


def confusion_of(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    return sklearn_metrics.confusion_matrix(truth, prediction, labels=range(CLASSES))


def over_present(scores: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Put NaN where a class has no images."""
    return np.where(np.isin(np.arange(CLASSES), truth), scores, np.nan)


@settings(deadline=None)
@given(labelled())
def test_summary_is_scikit_learn_s_over_the_classes_that_have_images(data: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = data
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")
        warnings.filterwarnings("ignore", message="A single label was found")
        macro_recall = sklearn_metrics.balanced_accuracy_score(truth, prediction)
    macro_f1 = sklearn_metrics.f1_score(truth, prediction, labels=np.unique(truth), average="macro", zero_division=0)
    assert summarise(confusion_of(truth, prediction)) == pytest.approx(
        {"acc": sklearn_metrics.accuracy_score(truth, prediction), "macro_recall": macro_recall, "macro_f1": macro_f1},
        rel=1e-12,
    )


@settings(deadline=None)
@given(labelled())
def test_scores_per_class_are_scikit_learn_s_and_nan_without_images(data: tuple[np.ndarray, np.ndarray]) -> None:
    truth, prediction = data
    confusion = confusion_of(truth, prediction)
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        truth, prediction, labels=range(CLASSES), zero_division=0
    )
    np.testing.assert_allclose(recall_per_class(confusion), over_present(recall, truth), rtol=1e-12)
    np.testing.assert_allclose(f1_per_class(confusion), over_present(f1, truth), rtol=1e-12)
    np.testing.assert_allclose(precision_per_class(confusion), over_present(precision, prediction), rtol=1e-12)
    np.testing.assert_array_equal(confusion_matrix(truth, prediction, CLASSES).toarray(), confusion)


@settings(deadline=None)
@given(labelled())
def test_no_number_warns(data: tuple[np.ndarray, np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        summarise(confusion_of(*data))


@pytest.mark.parametrize(
    ("confusion", "expected"),
    [
        pytest.param([[3, 0], [0, 7]], (1, 1, 1), id="all right"),
        pytest.param([[0, 3], [7, 0]], (0, 0, 0), id="all wrong"),
        pytest.param([[0, 0, 4], [0, 0, 2], [0, 0, 0]], (0, 0, 0), id="all taken for a class that is absent"),
        # recalls 3/4 and 1/2; F1 2·3/(2·3+1+1) and 2·1/(2·1+1+1); the absent class took none
        pytest.param([[3, 1, 0], [1, 1, 0], [0, 0, 0]], (4 / 6, 0.625, 0.625), id="by hand"),
        # recalls 8/8 and 1/2: the rare class weighs as much as the common one; F1 16/17 and 2/3
        pytest.param([[8, 0], [1, 1]], (0.9, 0.75, (16 / 17 + 2 / 3) / 2), id="imbalanced, by hand"),
        # an image taken for an absent class costs recall, and no precision of a present one
        pytest.param([[1, 1], [0, 0]], (0.5, 0.5, 2 / 3), id="absent class predicted, by hand"),
    ],
)
def test_summary_of_a_case_worked_by_hand(confusion: list[list[int]], expected: tuple[float, float, float]) -> None:
    summary = summarise(np.array(confusion))
    assert summary == pytest.approx(dict(zip(("acc", "macro_recall", "macro_f1"), expected, strict=True)))
    assert {type(value) for value in summary.values()} == {float}


@pytest.mark.parametrize("score", [recall_per_class, f1_per_class])
@pytest.mark.parametrize("taken", [0, 3])
def test_a_class_without_images_has_no_score_even_where_it_was_predicted(score: object, taken: int) -> None:
    scores = score(np.array([[4, taken], [0, 0]]))
    assert scores[0] > 0
    assert np.isnan(scores[1])


def test_the_confusion_matrix_is_left_as_it_was() -> None:
    confusion = np.array([[3, 1], [0, 2]])
    for score in (recall_per_class, f1_per_class, summarise):
        score(confusion)
    np.testing.assert_array_equal(confusion, [[3, 1], [0, 2]])
