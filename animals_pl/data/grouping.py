"""Which images belong together and may not be divided by a split: a place, a burst, a near-duplicate."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from animals_pl.data.catalog import Catalog
from animals_pl.data.inspection.duplicates import components
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError


def group_by(rule: str, catalog: Catalog) -> np.ndarray:
    """Return group numbers (N,) from file names or from a table; -1 for an image that the rule says nothing of.

    Args:
        rule: ``TABLE.csv:COLUMN``, a table with a column ``path`` and one of, say, camera locations; or a regular
            expression that is searched in each path: images with the same match (the same parenthesised
            parts, if there are any) are a group.
        catalog: The images.

    Raises:
        UsageError: The rule cannot be read, or says nothing of any image.
    """
    table, _, column = rule.rpartition(":")
    value_of = _column(Path(table), column) if table.endswith(".csv") else _matches(rule, catalog.paths)
    values = np.array([value_of.get(path, "") for path in catalog.paths])
    if not values.any():
        raise UsageError(
            f"data.group_by={rule!r} says nothing of any image in {str(catalog.root)!r}, "
            f"such as {catalog.paths[0]!r}; mend the rule or leave it out"
        )
    return np.where(values == "", -1, np.unique(values, return_inverse=True)[1])


def join_groups(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return group numbers (N,) in which two images are together if either grouping has them together.

    Args:
        first: (N,) group numbers; -1: in no group.
        second: The same of another grouping.
    """
    nodes, links = len(first), []
    for groups in (first, second):  # an image is linked to its group, and so to the others in it
        grouped = np.flatnonzero(groups >= 0)
        links.append(np.stack([grouped, nodes + groups[grouped]], axis=1))
        nodes += groups.max(initial=-1) + 1
    joined = components(nodes, np.concatenate(links))[: len(first)]
    return np.where((first >= 0) | (second >= 0), joined, -1)


def _matches(pattern: str, paths: Sequence[str]) -> dict[str, str]:
    try:
        found = {path: re.search(pattern, path) for path in paths}
    except re.error as error:
        raise UsageError(
            f"data.group_by={pattern!r} is no regular expression ({error}) and names no TABLE.csv:COLUMN; mend it"
        ) from error
    return {path: _value(match) for path, match in found.items() if match}


def _value(match: re.Match[str]) -> str:
    """Return what a pattern found: its parenthesised parts, or all of it where there are none."""
    return "\x1f".join(part or "" for part in match.groups()) if any(match.groups()) else match.group()


def _column(table: Path, column: str) -> dict[str, str]:
    return {row["path"]: row[column] for row in read_rows(table, "data.group_by", "path", column)}
