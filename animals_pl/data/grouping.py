"""Groups of images that a split must keep together: near-duplicates, bursts, camera locations."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from unicodedata import normalize

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.data.inspection.duplicates import components
from animals_pl.data.tables import read_image_rows, read_rows
from animals_pl.errors import UsageError


def group_by(rule: str, catalog: Catalog) -> np.ndarray:
    """Group numbers (N,) from file names or from a table; -1 for images that the rule does not match.

    Args:
        rule: ``TABLE.csv:COLUMN`` (a table with a column ``path``), or a regular expression that is searched in each
            path. Images with the same match (the same captured groups, if there are any) form a group.
        catalog: The images.

    Raises:
        UsageError: The rule is invalid or matches no image.
    """
    if rule.lower().endswith(".csv") and Path(rule).is_file():
        columns = next(iter(read_rows(Path(rule), "data.group_by", "path")), {})
        raise UsageError(f"data.group_by={rule!r} names no column. Pass {rule}:COLUMN, one of {', '.join(columns)}.")
    table, _, column = rule.rpartition(":")
    if table.lower().endswith(".csv"):
        rows = read_image_rows(Path(table), "data.group_by", catalog.root, catalog.paths, column)
        value_of = {row["path"]: row[column] for row in rows}
    else:
        value_of = _matches(rule, catalog.paths)
    values = np.array([value_of.get(path, "") for path in catalog.paths])
    if not values.any():
        raise UsageError(
            f"data.group_by={rule!r} matches no image in {str(catalog.root)!r}, whose paths look like "
            f"{catalog.paths[0]!r}. Fix the rule or remove it."
        )
    return np.where(values == "", -1, np.unique(values, return_inverse=True)[1])


def single_groups(groups: np.ndarray) -> np.ndarray:
    """Group numbers (N,) in which every image without a group (-1) has a group of its own."""
    return np.where(groups < 0, groups.max(initial=0) + 1 + np.arange(len(groups)), groups)


def join_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Group numbers (N,) that keep images together if either grouping (N,) does; -1 for images in no group."""
    num_nodes, links = len(first), []
    for groups in (first, second):  # a graph of images and groups: each image is linked to its group
        grouped = np.flatnonzero(groups >= 0)
        links.append(np.stack([grouped, num_nodes + groups[grouped]], axis=1))
        num_nodes += groups.max(initial=-1) + 1
    joined = components(num_nodes, np.concatenate(links))[: len(first)]
    return np.where((first >= 0) | (second >= 0), joined, -1)


def _matches(pattern: str, paths: Sequence[str]) -> dict[str, str]:
    try:
        found = {path: re.search(normalize("NFC", pattern), normalize("NFC", path)) for path in paths}
    except re.error as error:
        raise UsageError(
            f"data.group_by={pattern!r} is neither a regular expression ({error}) nor TABLE.csv:COLUMN. Fix it."
        ) from error
    return {path: _value(match) for path, match in found.items() if match}


def _value(match: re.Match[str]) -> str:
    """The captured groups, or the whole match if there are none."""
    return "\x1f".join(part or "" for part in match.groups()) if any(match.groups()) else match.group()
