"""Rules that decide when a class raises an alert. The time is an argument; no clock is read."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping

import numpy as np


class AlertRules:
    """Decides which classes raise an alert.

    A class raises an alert if its probability is at or above its threshold in this image and in at least ``k`` of the
    last ``n``, and it has raised none for ``quiet`` seconds.

    Args:
        thresholds: Label → smallest probability that counts.
        k, n: Images above the threshold, of the last ``n``.
        quiet: Minimum seconds between two alerts of a class.

    Attributes:
        thresholds: As given.
        last: Label → time of its last alert.

    Example:
        >>> rules = AlertRules({0: 0.8}, k=2, n=3, quiet=60)
        >>> [rules.alerts(np.array([p]), False, time) for time, p in enumerate([0.9, 0.1, 0.8, 0.9])]
        [[], [], [0], []]
    """

    def __init__(self, thresholds: Mapping[int, float], k: int = 1, n: int = 1, quiet: float = 0.0) -> None:
        self.thresholds = dict(thresholds)
        self._k = k
        self._quiet = quiet
        self.last: dict[int, float] = {}
        self._recent = {label: deque[bool](maxlen=n) for label in thresholds}

    def alerts(self, probabilities: np.ndarray, is_unknown: bool, time: float) -> list[int]:
        """Labels that raise an alert for the next image.

        Args:
            probabilities: Calibrated probabilities (C,).
            is_unknown: The image is of no known class: it counts as below every threshold.
            time: When it was taken, in seconds.
        """
        found = []
        for label, threshold in self.thresholds.items():
            hit = not is_unknown and bool(probabilities[label] >= threshold)
            recent = self._recent[label]
            recent.append(hit)
            if hit and sum(recent) >= self._k and not self._is_quiet(label, time):
                self.last[label] = time
                found.append(label)
        return found

    def _is_quiet(self, label: int, time: float) -> bool:
        # A last alert in the future does not count: clocks without a battery jump when the network comes up.
        return label in self.last and 0 <= time - self.last[label] < self._quiet
