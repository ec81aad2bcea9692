"""Test metrics of finished runs, and the images that they belong to."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Interval = dict[str, float]
"""``value``, and the ends ``low`` and ``high`` of its 95 % interval."""


@dataclass(frozen=True)
class SplitImages:
    """Validation and test images of a run.

    Attributes:
        val: Digest of the validation images.
        test: Digest of the test images; empty without test images.
        test_count: Number of test images.
    """

    val: str
    test: str
    test_count: int


@dataclass(frozen=True)
class RunTest:
    """Metrics of a run's ``test``, and the settings that they were measured with.

    Attributes:
        acc: Accuracy.
        macro_recall: Macro recall.
        checkpoint: Name of the checkpoint.
        epoch: Its epoch, from 1.
        tta: Test-time augmentation.
        prior: Class frequencies expected in use, as given.
        images: Number of images.
    """

    acc: Interval
    macro_recall: Interval
    checkpoint: str
    epoch: int
    tta: str
    prior: str | None
    images: int

    def other_model(self, epoch: int, tta: str, split: SplitImages | None) -> str:
        """How the test differs from one of best.ckpt with the run's settings on all test images; empty if it does not.

        Args:
            epoch: Epoch of best.ckpt, from 1.
            tta: Test-time augmentation of the run.
            split: Images of the run.
        """
        if (self.checkpoint, self.epoch) != ("best.ckpt", epoch):
            return f"of {self.checkpoint}, epoch {self.epoch}; the best epoch is {epoch}"
        if self.prior is not None:
            return f"with the prior {self.prior}"
        if self.tta != tta:
            return f"with model.tta {self.tta} instead of {tta}"
        if split and split.test_count and self.images != split.test_count:
            return f"on {self.images:,} images; the run has {split.test_count:,} test images"
        return ""


def read_test(file: Path) -> RunTest:
    """Read metrics.json of a run's test.

    Raises:
        OSError: The file cannot be read.
        ValueError, KeyError, TypeError: It is not the metrics.json of a test.
    """
    facts = json.loads(file.read_text(encoding="utf-8"))
    acc, macro_recall = (
        {end: float(facts[metric][end]) for end in ("value", "low", "high")} for metric in ("acc", "macro_recall")
    )
    prior = None if facts["prior"] is None else str(facts["prior"])
    model = str(facts["checkpoint"]), int(facts["epoch"]), str(facts["tta"])
    return RunTest(acc, macro_recall, *model, prior, int(facts["images"]))


def read_split(file: Path) -> SplitImages:
    """Read split.csv; ValueError if there are no validation images. Images are identified by SHA-256, or by path."""
    names: dict[str, list[str]] = {"val": [], "test": []}
    with file.open(newline="", encoding="utf-8", errors="surrogateescape") as stream:
        for row in csv.DictReader(stream):
            if row.get("split") in names:
                names[row["split"]].append(row.get("sha256") or row.get("path") or "")
    if not any(names["val"]):
        raise ValueError("no validation images")
    return SplitImages(_digest(names["val"]), _digest(names["test"]) if names["test"] else "", len(names["test"]))


def _digest(names: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(sorted(names)).encode(errors="surrogateescape")).hexdigest()
