"""Metadata of an exported file about its run: metrics and package versions."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "timm", "onnx", "onnxscript", "onnxruntime", "numpy", "Pillow")

_SUMMARY = ("split", "images", "acc", "macro_recall")


def run_metrics(run: Path, facts: Mapping[str, Any]) -> dict[str, Any] | None:
    """Accuracy, macro recall and per-class recall with intervals, of the run's test images or else validation images.

    Args:
        run: Folder of the run, with ``evaluation/test/metrics.json`` or ``evaluation/val/metrics.json``.
        facts: Values that metrics.json must have: metrics of another checkpoint, temperature, test-time augmentation or
            prior do not belong to the exported file.

    Returns:
        ``split``, ``images``, ``acc``, ``macro_recall`` and ``recall`` (class → interval) as in metrics.json, or None.
    """
    for split in ("test", "val"):
        try:
            found = json.loads((run / "evaluation" / split / "metrics.json").read_text(encoding="utf-8"))
            if all(found[key] == value for key, value in facts.items()):
                recall = {name: values["recall"] for name, values in found["per_class"].items()}
                return {**{key: found[key] for key in _SUMMARY}, "recall": recall}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):  # missing, or edited by hand
            continue
    return None


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that wrote the file."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
