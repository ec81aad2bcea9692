"""The progress bar of training and evaluation. Other bars: ``animals_pl.files.track``.

It shows the metrics that ``training/classifier.py`` logs with ``prog_bar=True``.
"""

from __future__ import annotations

from typing import Any

from lightning.pytorch.callbacks import RichProgressBar


class EpochBar(RichProgressBar):
    """Lightning's progress bar without the version number, which is part of the summary."""

    def get_metrics(self, *args: Any) -> dict[str, Any]:
        """Metrics shown in the bar."""
        return {key: value for key, value in super().get_metrics(*args).items() if key != "v_num"}
