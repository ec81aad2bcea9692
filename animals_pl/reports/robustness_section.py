"""Figures of the section on corrupted images in the model report."""

from __future__ import annotations

from typing import Any

from matplotlib.figure import Figure

from animals_pl.data.catalog import Catalog
from animals_pl.data.corrupted_dataset import CorruptedDataset
from animals_pl.data.corruptions import CORRUPTIONS, SEVERITIES
from animals_pl.data.resize import Resize
from animals_pl.evaluation.robustness_figure import corruption_sheet, robustness_curves

SIDE = 112
"""Side of the pictures in the sheet, in pixels."""


def robustness_figures(values: dict[str, Any], catalog: Catalog, example: int) -> dict[str, Figure]:
    """Curves over severity, and a sheet of one image's corruptions.

    Args:
        values: Contents of robustness.json.
        catalog: The images that were tested.
        example: Index of the image in the sheet.
    """
    versions = CorruptedDataset(catalog, Resize("crop"), SIDE)[example].permute(0, 2, 3, 1).numpy()
    sheet = versions.reshape(len(CORRUPTIONS), len(SEVERITIES), *versions.shape[1:])
    return {"robustness": robustness_curves(values), "corruptions": corruption_sheet(sheet, list(CORRUPTIONS))}
