"""Draws of a study of scarce classes: common classes cut to a few training images. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.errors import UsageError
from animals_pl.models.synsets import imagenet_indices, imagenet_name

MIN_TEST = 50
"""Minimum number of test images of a tested class."""

TEST_FRACTION = 0.2
"""Fraction of a common class's images that are test images if it is not cut."""


@dataclass(frozen=True)
class ScarcePlan:
    """Section ``scarce`` of a study.

    Attributes:
        classes: Number of common classes that are cut in each replicate.
        keep: Numbers of training images of a cut class. Every replicate is repeated with each of them.
        replicates: Number of replicates, 2 or more.
        hide_imagenet: Let the head know only one ImageNet class of each cut class (see :func:`hidden_names`).
        unlabelled: Fraction, in [0, 1), of the cut classes' test images and of the other common classes' training
            images that is unlabelled.
    """

    classes: int
    keep: tuple[int, ...]
    replicates: int
    hide_imagenet: bool = False
    unlabelled: float = 0.0


@dataclass(frozen=True)
class Draw:
    """Images of one fit.

    Attributes:
        train: Indices of the training images.
        test: Indices of the test images.
        cut: Classes that were cut.
        unlabelled: Indices of the unlabelled images.
    """

    train: np.ndarray
    test: np.ndarray
    cut: np.ndarray
    unlabelled: np.ndarray


def read_plan(section: Mapping[str, Any], study: str) -> ScarcePlan:
    """Check the section ``scarce`` of a study.

    Raises:
        UsageError: A key is unknown or missing, or a number is out of range.
    """
    example = "Write scarce: {classes: 3, keep: [10, 25, 50], replicates: 20}."
    required = {"classes", "keep", "replicates"}
    if not required <= set(section) <= required | {"hide_imagenet", "unlabelled"}:
        raise UsageError(f"study={study!r}: scarce has the keys {sorted(section)}. {example}")
    keep = section["keep"] if isinstance(section["keep"], list) else [section["keep"]]
    for key, values, least in (("classes", [section["classes"]], 1), ("keep", keep, 1),
                               ("replicates", [section["replicates"]], 2)):  # fmt: skip
        if not values or not all(type(value) is int and value >= least for value in values):
            raise UsageError(
                f"study={study!r}: scarce.{key}={section[key]!r} is not a whole number >= {least}. {example}"
            )
    hide = section.get("hide_imagenet", False)
    if type(hide) is not bool:
        raise UsageError(f"study={study!r}: scarce.hide_imagenet={hide!r} is not true or false.")
    unlabelled = section.get("unlabelled", 0.0)
    if type(unlabelled) not in (int, float) or not 0 <= unlabelled < 1:
        raise UsageError(f"study={study!r}: scarce.unlabelled={unlabelled!r} is not a number >= 0 and < 1.")
    return ScarcePlan(section["classes"], tuple(sorted(set(keep))), section["replicates"], hide, unlabelled)


def common_classes(catalog: Catalog, plan: ScarcePlan) -> np.ndarray:
    """Classes with enough images to be cut and tested.

    Raises:
        UsageError: There are fewer than ``plan.classes`` of them.
    """
    left_out = math.ceil(MIN_TEST / (1 - plan.unlabelled))
    needed = max(max(plan.keep) + left_out, math.ceil(MIN_TEST / TEST_FRACTION))
    found = np.flatnonzero(np.bincount(catalog.labels) >= needed)
    if len(found) < plan.classes:
        raise UsageError(
            f"scarce.classes={plan.classes} exceeds the number of classes with the {needed} images that the test "
            f"needs: {len(found)}. Lower scarce.classes or scarce.keep."
        )
    return found


def draw(catalog: Catalog, plan: ScarcePlan, keep: int, replicate: int, seed: int) -> Draw:
    """Training, test and unlabelled images of a replicate.

    ``plan.classes`` of the common classes are cut to ``keep`` training images and tested on all others. The other
    common classes are tested on :data:`TEST_FRACTION` of their images. All other classes are only trained on.
    Duplicates stay together: a cut class has ``keep`` images or, if the last group is larger, a few more. The training
    images of a smaller ``keep`` are a subset of those of a larger one. The fraction ``plan.unlabelled`` of the test
    images of cut classes, and of the training images of the other common classes, is unlabelled instead.
    """
    from animals_pl.data.grouping import single_groups

    rng = np.random.default_rng([seed, replicate])
    common = common_classes(catalog, plan)
    cut = np.sort(rng.choice(common, plan.classes, replace=False))
    groups, labels = single_groups(catalog.groups), catalog.labels
    priority = rng.permutation(groups.max() + 1)[groups]
    is_test = np.zeros(len(labels), dtype=bool)
    for label in common:
        images = np.flatnonzero(labels == label)
        count = keep if label in cut else round(len(images) * (1 - TEST_FRACTION))
        is_test[images] = priority[images] > np.sort(priority[images])[count - 1]
    trained = ~is_test
    is_test &= ~np.isin(groups, groups[trained])  # duplicates in two classes
    is_cut, is_common = np.isin(labels, cut), np.isin(labels, common)
    candidates = np.where(is_cut, is_test, trained & is_common)
    unlabelled = candidates & (rng.random(groups.max() + 1)[groups] < plan.unlabelled)
    train, test = np.flatnonzero(trained & ~unlabelled), np.flatnonzero(is_test & ~unlabelled)
    return Draw(train, test, cut, np.flatnonzero(unlabelled))


def hidden_names(names: Sequence[str], drawn: Draw, replicate: int, seed: int) -> list[str]:
    """Class names in which each cut class is renamed to a random one of its ImageNet classes ("dog" → "whippet").

    ``head_init`` and ``imagenet_prior`` then use a single ImageNet class for it, as they do for most animals.

    Args:
        names: English class names.
        drawn: The draw.
        replicate: Number of the replicate. The names do not depend on ``keep``.
        seed: Seed of the study.
    """
    rng = np.random.default_rng([seed, replicate, 1])
    known = {label: imagenet_indices(names[label]) for label in drawn.cut}
    chosen = {label: imagenet_name(rng.choice(indices)) for label, indices in known.items() if indices}
    return [chosen.get(label, name) for label, name in enumerate(names)]


def recalls(labels: np.ndarray, predicted: np.ndarray, drawn: Draw) -> tuple[float, float, float]:
    """Macro recall of the tested classes, of the cut ones alone, and of the others alone (NaN if all are cut).

    Args:
        labels: True classes of the test images (N,).
        predicted: Predicted classes (N,).
        drawn: The draw.
    """
    classes = np.unique(labels)
    per_class = np.array([np.mean(predicted[labels == label] == label) for label in classes])
    is_cut = np.isin(classes, drawn.cut)
    common = float(per_class[~is_cut].mean()) if not is_cut.all() else math.nan
    return float(per_class.mean()), float(per_class[is_cut].mean()), common
