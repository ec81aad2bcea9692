"""Calibration of a model: the class prior of its logits, its state in a checkpoint, priors expected in use."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from animals_pl.data.catalog import match_classes
from animals_pl.data.sampling import Sampling
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError, listed
from animals_pl.evaluation.calibration import Calibration, fit_temperature, log_prior_shift
from animals_pl.evaluation.top_k import UNKNOWN
from animals_pl.evaluation.unknown import fit_unknown_threshold, unknown_scores
from animals_pl.training.losses import loss_weights

POWERS = {"shuffle": 0.0, "weighted_sqrt": 0.5, "weighted": 1.0}
"""Sampling → p: a class with n images is drawn in proportion to n^(1 - p)."""


def model_prior(counts: np.ndarray, hparams: Mapping[str, Any], sampling: Sampling) -> np.ndarray:
    """Class prior (C,) implicit in a model's logits: π_c ∝ w_c · n_c^(1 - p - τ).

    Classes are drawn in proportion to n_c^(1 - p) and weighted by w_c in the loss, whose minimum therefore has
    softmax(z + τ log n)_c ∝ w_c · n_c^(1 - p) · P(x | c), so that exp(z_c) ∝ w_c · n_c^(1 - p - τ) · P(x | c). With
    full logit adjustment (τ = 1), weighted sampling (p = 1) or balanced class weights (w ∝ 1 / n) the prior is uniform;
    without a correction it is that of the training images. Focal loss, label smoothing, MixUp and
    CutMix are not considered.

    Args:
        counts: n, training images per class (C,). Classes without images count as if they had one.
        hparams: Hyperparameters of the classifier: loss, class weights, τ.
        sampling: How training images are drawn.
    """
    tau = 0.0
    if hparams["loss"] == "logit_adjusted":
        tau = 1.0 if hparams["logit_tau"] is None else hparams["logit_tau"]
    prior = loss_weights(hparams, counts) * np.maximum(counts, 1) ** (1.0 - POWERS[sampling] - tau)
    return prior / prior.sum()


def fit_calibration(calibration: Calibration, logits: np.ndarray, labels: np.ndarray) -> Calibration:
    """The calibration with temperature and unknown threshold fitted to validation images.

    The target prior of the temperature is that of the validation images.

    Args:
        calibration: Priors of the model.
        logits: Logits of the validation images (N, C), N > 0.
        labels: Their classes (N,).
    """
    counts = np.bincount(labels, minlength=logits.shape[1])
    shift = 0.0 if calibration.model_prior is None else log_prior_shift(counts, calibration.model_prior)
    return replace(
        calibration,
        temperature=fit_temperature(logits, labels, shift),
        unknown_threshold=fit_unknown_threshold(unknown_scores(logits, calibration)),
    )


def calibration_state(calibration: Calibration) -> dict[str, Any]:
    """A calibration as plain values, for a checkpoint; without the prior expected in use."""

    def plain(values: np.ndarray | None) -> list[float] | None:
        return None if values is None else values.tolist()

    return {
        "temperature": calibration.temperature,
        "model_prior": plain(calibration.model_prior),
        "train_counts": plain(calibration.train_counts),
        "unknown_threshold": calibration.unknown_threshold,
    }


def calibration_of(checkpoint: Mapping[str, Any], prior: str | None = None) -> Calibration:
    """Calibration of a checkpoint; a temperature of 1 if it has none.

    Args:
        checkpoint: Contents of a checkpoint.
        prior: Class frequencies expected in use, see :func:`read_prior`. Default: the model's own prior.

    Raises:
        UsageError: The prior cannot be used.
    """
    state = checkpoint.get("calibration") or {}
    model, counts = (
        None if state.get(key) is None else np.array(state[key]) for key in ("model_prior", "train_counts")
    )
    calibration = Calibration(
        state.get("temperature", 1.0), model, counts, unknown_threshold=state.get("unknown_threshold")
    )
    if prior is None:
        return calibration
    class_names = checkpoint["hyper_parameters"]["class_names"]
    return calibration.with_target(read_prior(prior, class_names, counts))


def read_prior(prior: str, class_names: Sequence[str], train_counts: np.ndarray | None) -> np.ndarray:
    """Class frequencies (C,) for the option ``prior``.

    Args:
        prior: ``train`` (the frequencies of the training images), ``uniform``, or a CSV file with the columns ``class``
            and ``frequency`` (or counts), one row for each class.
        class_names: Name of each class.
        train_counts: Training images per class (C,); ``None``: not known.

    Raises:
        UsageError: The file cannot be read, does not fit the classes, or has a frequency that is not a number.
    """
    if prior == "uniform":
        return np.ones(len(class_names))
    if prior == "train":
        if train_counts is None:
            raise UsageError("prior=train: the checkpoint has no counts of training images. Pass uniform or a file.")
        return train_counts
    rows = read_rows(Path(prior), "prior", "class", "frequency")
    labels = match_classes([row["class"] for row in rows], class_names, f"prior={prior!r}")
    if missing := [name for label, name in enumerate(class_names) if label not in labels]:
        raise UsageError(f"prior={prior!r} has no row for {listed(missing)}. Add a row for each class.")
    frequencies = np.zeros(len(class_names))
    for label, row in zip(labels, rows, strict=True):
        frequencies[label] = _number(row["frequency"], prior)
    return frequencies


def _number(text: str, prior: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value >= 0):
        raise UsageError(f"prior={prior!r} has the frequency {text!r}. Write a number >= 0.")
    return value


def require_unknown(calibration: Calibration, class_names: Sequence[str]) -> None:
    """Check that a model can call images unknown.

    Raises:
        UsageError: It has no threshold, or it has a class named ``unknown``.
    """
    if calibration.unknown_threshold is None:
        raise UsageError(
            "unknown=true: the checkpoint has no threshold for unknown images, which is fitted in validation. "
            "Train with validation, or remove unknown."
        )
    if own := [name for name in class_names if name.casefold() == UNKNOWN]:
        raise UsageError(
            f"unknown=true: the model has a class {own[0]!r}, so its predictions could not be distinguished from "
            "unknown images. Rename its folder and run fit again, or remove unknown."
        )


def with_prior(logits: Tensor, calibration: Calibration) -> Tensor:
    """Logits (B, C) plus T (log π_target - log π_model): they are changed only if a prior was chosen."""
    if np.ndim(calibration.log_shift) == 0:
        return logits
    shift = torch.as_tensor(calibration.log_shift, dtype=torch.float32, device=logits.device)
    return logits.float() + calibration.temperature * shift


class Output(NamedTuple):
    """Output of a model for a batch.

    Attributes:
        probabilities: Calibrated class probabilities (B, C) float32.
        unknown_scores: Energy (B,) float32, see :func:`animals_pl.evaluation.unknown.unknown_scores`.
    """

    probabilities: Tensor
    unknown_scores: Tensor


def output(logits: Tensor, calibration: Calibration) -> Output:
    """Probabilities and unknown scores of logits (B, C)."""
    logits = logits.float()
    shift = torch.as_tensor(calibration.training_shift, dtype=torch.float32, device=logits.device)
    return Output(probabilities(logits, calibration), energy(logits, shift))


def energy(logits: Tensor, training_shift: Tensor) -> Tensor:
    """Unknown scores (B,) of logits (B, C), see :func:`animals_pl.evaluation.unknown.unknown_scores`."""
    return -(logits + training_shift).logsumexp(1)


def probabilities(logits: Tensor, calibration: Calibration) -> Tensor:
    """Calibrated probabilities (B, C) float32 of logits (B, C)."""
    return (with_prior(logits.float(), calibration) / calibration.temperature).softmax(1)
