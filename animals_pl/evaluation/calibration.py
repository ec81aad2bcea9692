"""Calibrated probabilities: temperature, class prior, expected calibration error, reliability bins."""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import brentq
from scipy.special import log_softmax

from animals_pl.errors import UsageError

TEMPERATURE_RANGE = (0.1, 10.0)
"""Temperatures searched. Without a lower bound, images that are all classified correctly would give 0."""

BINS = 15
"""Number of bins of the expected calibration error."""


def log_prior_shift(target: np.ndarray, model: np.ndarray) -> np.ndarray:
    """Shift log π_target - log π_model (C,): what to add to logits for class frequencies other than the model's.

    M. Saerens, P. Latinne and C. Decaestecker, "Adjusting the outputs of a classifier to new a priori probabilities",
    2002.

    Args:
        target: Frequencies or counts (C,) expected in use, ≥ 0. A class of frequency 0 gets the probability 0.
        model: Frequencies or counts (C,) of the prior implicit in the logits, > 0.

    Raises:
        UsageError: A frequency is out of range, or the lengths differ.
    """
    target, model = np.asarray(target, float), np.asarray(model, float)
    if target.shape != model.shape:
        raise UsageError(f"prior has {len(target)} frequencies for {len(model)} classes. Give one for each class.")
    if not (np.isfinite(target).all() and (target >= 0).all() and target.any()):
        raise UsageError("prior has a frequency that is negative or not a number, or only zeros. Correct it.")
    if not (np.isfinite(model).all() and (model > 0).all()):
        raise UsageError("the prior of the model has a frequency that is not above 0. Train with images of each class.")
    target = target / target.max()  # the sum of large numbers may overflow
    with np.errstate(divide="ignore"):
        return np.log(target / target.sum()) - np.log(model / model.sum())


def calibrated_log_probabilities(
    logits: np.ndarray, temperature: float = 1.0, log_shift: np.ndarray | float = 0.0
) -> np.ndarray:
    """Log of :func:`calibrated_probabilities` (N, C); does not underflow."""
    return log_softmax(np.asarray(logits, float) / temperature + log_shift, axis=1)


def calibrated_probabilities(
    logits: np.ndarray, temperature: float = 1.0, log_shift: np.ndarray | float = 0.0
) -> np.ndarray:
    """softmax(z / T + log π_target - log π_model) (N, C), in float64.

    Args:
        logits: Logits z (N, C).
        temperature: T > 0. Without a shift it never changes the predicted class.
        log_shift: Output of :func:`log_prior_shift` (C,); 0 for the model's own prior.
    """
    return np.exp(calibrated_log_probabilities(logits, temperature, log_shift))


@dataclass(frozen=True, eq=False)
class Calibration:
    """How logits z become probabilities: softmax(z / T + log π_target - log π_model).

    Attributes:
        temperature: T > 0.
        model_prior: Class frequencies or counts (C,) of the prior implicit in the logits; None: not known.
        train_counts: Training images per class (C,); None: not known.
        log_shift: log π_target - log π_model (C,); 0 for the model's own prior.
        unknown_threshold: Images with a higher :func:`~animals_pl.evaluation.unknown.unknown_scores` are of no known
            class; None: not known.
    """

    temperature: float = 1.0
    model_prior: np.ndarray | None = None
    train_counts: np.ndarray | None = None
    log_shift: np.ndarray | float = 0.0
    unknown_threshold: float | None = None

    def log_probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Log of :meth:`probabilities` (N, C)."""
        return calibrated_log_probabilities(logits, self.temperature, self.log_shift)

    def probabilities(self, logits: np.ndarray) -> np.ndarray:
        """Probabilities (N, C) of logits (N, C), in float64."""
        return np.exp(self.log_probabilities(logits))

    @property
    def training_shift(self) -> np.ndarray | float:
        """Shift log π_train - log π_model (C,) to the class frequencies of the training images; 0: not known."""
        if self.model_prior is None or self.train_counts is None:
            return 0.0
        return log_prior_shift(self.train_counts, self.model_prior)

    def without_temperature(self) -> Calibration:
        """The same priors with a temperature of 1."""
        return replace(self, temperature=1.0)

    def with_target(self, prior: np.ndarray) -> Calibration:
        """Copy with another target prior: class frequencies or counts (C,) expected in use.

        Raises:
            UsageError: A frequency is out of range, or the prior of the model is not known.
        """
        if self.model_prior is None:
            raise UsageError("the checkpoint does not say which class frequencies it was trained with. Train again.")
        return replace(self, log_shift=log_prior_shift(prior, self.model_prior))


def negative_log_likelihood(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Negative log-likelihood of the true class of each image (N,). Its mean is the log-loss."""
    return -log_probabilities[np.arange(len(labels)), labels]


def fit_temperature(logits: np.ndarray, labels: np.ndarray, log_shift: np.ndarray | float = 0.0) -> float:
    """Temperature with the lowest log-loss, in TEMPERATURE_RANGE.

    C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, "On Calibration of Modern Neural Networks", 2017. The loss is convex
    in 1 / T: its minimum is the zero of the derivative, or an end of the range. If all images are classified correctly,
    the loss decreases as T decreases, and the result is the lower end of the range, or 1 if the loss is 0 there, too.

    Args:
        logits: Logits (N, C) of the validation images, never of training or test images.
        labels: True classes (N,).
        log_shift: log π_target - log π_model (C,), with the frequencies of these images as the target.

    Raises:
        UsageError: There are no images, or logits that are not finite.
    """
    logits = np.asarray(logits, float)
    if not len(labels):
        raise UsageError("no images to fit the temperature on. Add validation images.")
    if not np.isfinite(logits).all():
        raise UsageError("logits have values that are not finite. Train with a lower learning rate.")
    margins = logits - np.take_along_axis(logits, np.asarray(labels)[:, None], 1)  # the loss is the same
    weights = np.empty_like(margins)  # in place: allocating takes as long as the arithmetic

    @functools.cache
    def slope(inverse: float) -> float:
        """Derivative of the mean loss with respect to 1 / T: mean of Σ_c p_c · margin_c."""
        np.multiply(margins, inverse, out=weights)
        np.add(weights, log_shift, out=weights)
        np.subtract(weights, weights.max(1, keepdims=True), out=weights)
        np.exp(weights, out=weights)
        return float((np.einsum("nc,nc->n", weights, margins) / weights.sum(1)).mean())

    def loss(temperature: float) -> float:
        scores = calibrated_log_probabilities(margins, temperature, log_shift)
        return float(negative_log_likelihood(scores, labels).mean())

    low, high = TEMPERATURE_RANGE
    end = low if slope(1.0) < 0 else high
    if slope(1.0) * slope(1 / end) < 0:
        return 1 / brentq(slope, *sorted((1.0, 1 / end)), xtol=1e-6)
    return min(1.0, end, key=loss)  # 1 if rounding makes the losses equal


@dataclass(frozen=True)
class ReliabilityBins:
    """Confidence and accuracy of images by confidence, in bins of equal width.

    Attributes:
        edges: Ends of the bins (B + 1,), from 0 to 1.
        counts: Images in each bin (B,).
        confidence: Mean probability of the predicted class in each bin (B,); NaN without images.
        accuracy: Share of correct predictions in each bin (B,); NaN without images.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def _bins(confidence: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each confidence: [i / B, (i + 1) / B); the last one includes 1.0."""
    return np.clip((confidence * bins).astype(int), 0, bins - 1)


def reliability_bins(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> ReliabilityBins:
    """Values of a reliability diagram: predictions by their confidence.

    Args:
        probabilities: Class probabilities (N, C).
        labels: True classes (N,).
        bins: Number of bins B of equal width. A confidence of 1 is in the last one.
    """
    confidence = probabilities.max(1)
    column = _bins(confidence, bins)
    counts = np.bincount(column, minlength=bins)
    correct = probabilities.argmax(1) == labels

    def mean(values: np.ndarray) -> np.ndarray:
        total = np.bincount(column, weights=values, minlength=bins)
        return np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0)

    return ReliabilityBins(np.linspace(0, 1, bins + 1), counts, mean(confidence), mean(correct.astype(float)))


def calibration_gaps(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> tuple[np.ndarray, np.ndarray]:
    """Bin of each image (N,), and its contribution to that bin's gap (N,).

    The contribution is confidence - 1 if the prediction is correct, else the confidence.
    """
    confidence = probabilities.max(1)
    return _bins(confidence, bins), confidence - (probabilities.argmax(1) == labels)


def ece_of_gaps(gaps: np.ndarray, count: np.ndarray | int) -> np.ndarray:
    """ECE of sums of :func:`calibration_gaps` (…, B) over ``count`` images."""
    return np.abs(gaps).sum(-1) / count


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = BINS) -> float:
    """Expected calibration error (ECE), in 0…1: mean over images of |confidence - accuracy| of their bin.

    M. P. Naeini, G. F. Cooper and M. Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning",
    2015; of the predicted class as in Guo et al., 2017.

    Args:
        probabilities: Class probabilities (N, C), N > 0.
        labels: True classes (N,).
        bins: Number of bins of equal width. A confidence of 1 is in the last one.
    """
    columns, gaps = calibration_gaps(probabilities, labels, bins)
    return float(ece_of_gaps(np.bincount(columns, weights=gaps, minlength=bins), len(labels)))
