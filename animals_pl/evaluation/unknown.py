"""Scores that tell known classes from unknown animals, and thresholds for them. Higher scores: more likely known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from animals_pl.errors import UsageError


def maximum_probability(probabilities: np.ndarray) -> np.ndarray:
    """Probability of the predicted class (N,), of probabilities (N, C).

    D. Hendrycks and K. Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples", 2017.
    """
    return probabilities.max(1)


def energy(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Negative free energy T·log Σ exp(z / T) (N,), of logits z (N, C).

    W. Liu, X. Wang, J. Owens and Y. Li, "Energy-based Out-of-distribution Detection", 2020.
    """
    return temperature * logsumexp(np.asarray(logits, float) / temperature, axis=1)


@dataclass(frozen=True)
class FeatureModel:
    """Gaussians of the known classes in feature space, with one covariance, and of all images together.

    Attributes:
        means: Class means (K, D), of the K classes that have images.
        factor: Lower Cholesky factor (D, D) of the covariance around the class means.
        mean: Mean of all features (D,).
        background_factor: Lower Cholesky factor (D, D) of the covariance around ``mean``.
    """

    means: np.ndarray
    factor: np.ndarray
    mean: np.ndarray
    background_factor: np.ndarray

    def mahalanobis(self, features: np.ndarray) -> np.ndarray:
        """Negative squared Mahalanobis distance (N,) to the nearest class mean, of features (N, D).

        K. Lee, K. Lee, H. Lee and J. Shin, "A Simple Unified Framework for Detecting Out-of-Distribution Samples and
        Adversarial Attacks", 2018.
        """
        return -self._distances(features, self.means, self.factor).min(1)

    def relative_mahalanobis(self, features: np.ndarray) -> np.ndarray:
        """As :meth:`mahalanobis`, less the distance to the Gaussian of all images (N,).

        J. Ren, S. Fort, J. Liu, A. G. Roy, S. Padhy and B. Lakshminarayanan, "A Simple Fix to Mahalanobis Distance for
        Improving Near-OOD Detection", 2021.
        """
        background = self._distances(features, self.mean[None], self.background_factor)[:, 0]
        return self.mahalanobis(features) + background

    def cosine(self, features: np.ndarray) -> np.ndarray:
        """Cosine similarity to the most similar class mean (N,), in -1…1."""
        return cosine_similarity(features, self.means).max(1)

    @staticmethod
    def _distances(features: np.ndarray, means: np.ndarray, factor: np.ndarray) -> np.ndarray:
        """Squared Mahalanobis distances (N, K)."""
        centre = means.mean(0)  # differences of large numbers would lose digits
        whitened = [solve_triangular(factor, (points - centre).T, lower=True).T for points in (features, means)]
        return euclidean_distances(*whitened, squared=True)


def fit_feature_model(features: np.ndarray, labels: np.ndarray, shrinkage: float | None = None) -> FeatureModel:
    """Fit the Gaussians of :class:`FeatureModel` to training images.

    Args:
        features: Features (N, D), N > 1.
        labels: Classes (N,). Classes without images have no Gaussian.
        shrinkage: Weight, in [0, 1], of a multiple of the identity in the covariances. None: that of O. Ledoit and
            M. Wolf, "A well-conditioned estimator for large-dimensional covariance matrices", 2004.

    Raises:
        UsageError: A covariance is singular, as with constant features or with shrinkage 0 and N ≤ D.
    """
    features = np.asarray(features, float)
    classes, columns = np.unique(labels, return_inverse=True)
    means = np.stack([features[columns == column].mean(0) for column in range(len(classes))])
    mean = features.mean(0)
    return FeatureModel(
        means,
        _covariance_factor(features - means[columns], shrinkage),
        mean,
        _covariance_factor(features - mean, shrinkage),
    )


def _covariance_factor(centred: np.ndarray, shrinkage: float | None) -> np.ndarray:
    """Lower Cholesky factor (D, D) of the shrunk covariance of centred features (N, D)."""
    if shrinkage is None:
        covariance = ledoit_wolf(centred, assume_centered=True)[0]
    else:
        covariance = centred.T @ centred / len(centred)
        scale = np.trace(covariance) / len(covariance)
        covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(len(covariance))
    try:
        return np.linalg.cholesky(covariance)
    except np.linalg.LinAlgError:
        count, width = centred.shape
        raise UsageError(
            f"features of {count:,} images with {width:,} values have a singular covariance. "
            "Use more images or shrinkage=None."
        ) from None


def auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Area under the ROC curve: probability that a known image has a higher score than an unknown one; ties count half.

    Args:
        known: Scores of images of known classes (N,), N > 0.
        unknown: Scores of other images (M,), M > 0.
    """
    return float(roc_auc_score(np.repeat([1, 0], [len(known), len(unknown)]), np.concatenate([known, unknown])))


def threshold_for_known_rate(known: np.ndarray, rate: float = 0.95) -> float:
    """Highest threshold that at least ``rate`` of the known images (N,) reach (score ≥ threshold).

    Args:
        known: Scores of images of known classes (N,), N > 0.
        rate: In (0, 1].
    """
    # 0.95 · 20 is a little above 19
    least = max(1, int(np.ceil(rate * len(known) - 1e-9)))
    return float(np.sort(known)[len(known) - least])


def fpr_at_tpr(known: np.ndarray, unknown: np.ndarray, rate: float = 0.95) -> float:
    """Share of unknown images (M,) taken for known at the threshold that ``rate`` of the known ones (N,) reach."""
    return float(np.mean(np.asarray(unknown) >= threshold_for_known_rate(known, rate)))


def threshold_for_precision(scores: np.ndarray, correct: np.ndarray, precision: float) -> float | None:
    """Lowest threshold for which at least ``precision`` of the images with score ≥ threshold are classified correctly.

    It holds for these images; for a bound with a confidence level see :mod:`animals_pl.evaluation.contract`.

    Args:
        scores: Scores (N,).
        correct: Whether the prediction is right (N,); False for images of unknown animals.
        precision: In [0, 1].

    Returns:
        The threshold, or None if no threshold has that precision.
    """
    order = np.argsort(-np.asarray(scores), kind="stable")
    ordered = np.asarray(scores)[order]
    reached = np.cumsum(np.asarray(correct)[order]) >= precision * np.arange(1, len(order) + 1) - 1e-9
    # images with the same score are accepted together
    reached &= np.append(ordered[1:] != ordered[:-1], True)[: len(order)]
    return float(ordered[np.flatnonzero(reached)[-1]]) if reached.any() else None
