"""Edit configuration files."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from typing import Any

import yaml

from animals_pl.errors import UsageError
from animals_pl.experiments.study import as_yaml, flatten


def edit_config(text: str, changes: Mapping[str, Any]) -> str:
    """Replace values in a configuration's text; comments and key order are kept.

    Args:
        text: Sections, and below them ``key: value   # comment``, indented by two spaces.
        changes: ``section.key`` or ``key`` → value. Missing keys are added.

    Raises:
        UsageError: The layout is not supported: the edited text would not parse to exactly the requested changes.
    """
    lines = text.splitlines()
    for key, value in changes.items():
        _set(lines, key, as_yaml(value))
    result = "\n".join(lines) + "\n"
    with contextlib.suppress(yaml.YAMLError, AttributeError):
        if flatten(yaml.safe_load(result)) == {**flatten(yaml.safe_load(text)), **changes}:
            return result
    raise UsageError(
        f"the configuration cannot be edited line by line ({', '.join(changes)}). "
        "Lay it out like the files in configs: 'section:', and below it '  key: value   # comment'."
    )


def _set(lines: list[str], key: str, value: str) -> None:
    """Replace a value, or add it at the end of its section."""
    section, _, name = key.rpartition(".")
    indent = "  " if section else ""
    pattern = re.compile(rf"({indent}{name}:)(?:\s.*?)??\s*(\s#.*)?$")
    inside, last = not section, None
    for number, line in enumerate(lines):
        if section and re.match(r"[^\s#]", line):
            inside = line.startswith(f"{section}:")
        if not inside:
            continue
        if found := pattern.match(line):
            head, comment = f"{found[1]} {value}", (found[2] or "").strip()
            lines[number] = f"{head:<{found.start(2)}} {comment}" if comment else head
            return
        if line.strip() and not line.lstrip().startswith("#"):
            last = number
    if last is None:
        lines += ["", f"{section}:"]
        last = len(lines) - 1
    lines.insert(last + 1, f"{indent}{name}: {value}")
