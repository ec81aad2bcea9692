"""Risk-coverage curve of a classifier that leaves images with a low score to a person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RiskCoverage:
    """Error rate of the accepted images when more and more are accepted, those with the highest score first.

    Attributes:
        coverage: Share of accepted images (N,): 1/N, 2/N, …, 1.
        risk: Share of errors among them (N,); with ties, the expected value over their random order.
        aurc: Area under the curve: mean of ``risk``.
        excess_aurc: ``aurc`` less that of scores that rank all errors last (E-AURC), ≥ 0.
    """

    coverage: np.ndarray
    risk: np.ndarray
    aurc: float
    excess_aurc: float


def risk_coverage(scores: np.ndarray, correct: np.ndarray) -> RiskCoverage:
    """Risk-coverage curve with its area.

    Selective risk and coverage as in Y. Geifman and R. El-Yaniv, "Selective Classification for Deep Neural Networks",
    2017; AURC is the mean of the selective risk over the N thresholds that the scores give, and E-AURC its difference
    from the best ranking, as in Y. Geifman, G. Uziel and R. El-Yaniv, "Bias-Reduced Uncertainty Estimation for Deep
    Neural Classifiers", 2019.

    Args:
        scores: Confidence (N,), N > 0.
        correct: Whether the prediction is right (N,).
    """
    scores, wrong = np.asarray(scores), ~np.asarray(correct, bool)
    accepted = np.arange(1, len(scores) + 1)
    _, tied, counts = np.unique(-scores, return_inverse=True, return_counts=True)
    rate = np.bincount(tied, weights=wrong) / counts  # of each score, the highest first
    risk = np.cumsum(np.repeat(rate, counts)) / accepted
    best = np.maximum(accepted - (~wrong).sum(), 0) / accepted
    aurc = float(risk.mean())
    return RiskCoverage(accepted / len(scores), risk, aurc, aurc - float(best.mean()))
