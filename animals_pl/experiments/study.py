"""Read study files: a configuration, options, and variants to compare."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from animals_pl.configurations import find_config
from animals_pl.errors import UsageError, one_line
from animals_pl.experiments.scarce import ScarcePlan, read_plan


@dataclass(frozen=True)
class Study:
    """A configuration and the variants to compare.

    Attributes:
        name: The file's name without its suffix.
        options: Settings of all variants, key → value. They override the configuration.
        variants: Name → settings of this variant. They override the options.
        baseline: Variant that the others are compared with. Empty: the first one.
        scarce: Draws of scarce classes. ``None``: cross-validation.
    """

    name: str
    config: Path
    options: dict[str, Any] = field(default_factory=dict)
    variants: dict[str, dict[str, Any]] = field(default_factory=dict)
    baseline: str = ""
    scarce: ScarcePlan | None = None

    @property
    def net(self) -> str:
        """The net of the options or else of the configuration."""
        return str(
            self.options.get("model.net") or flatten(read_yaml(self.config, "config")).get("model.net", "default")
        )

    def override(self, weights: str | None = None, net: str | None = None, config: str | None = None) -> Study:
        """The study with other weights, another net or another configuration; ``None`` keeps the study's own.

        Raises:
            UsageError: There is no such configuration.
        """
        given = {"model.weights": weights and str(Path(weights).resolve()), "model.net": net}
        options = self.options | {key: value for key, value in given.items() if value}
        return replace(self, config=find_config(config) if config else self.config, options=options)


def read_yaml(file: Path, argument: str = "study") -> dict[str, Any]:
    """Content of a YAML file that an option names.

    Raises:
        UsageError: The file cannot be read or has no keys.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise UsageError(f"{argument}={str(file)!r} cannot be read ({reason}). Fix the path or the YAML.") from error
    if not isinstance(content, dict):
        raise UsageError(f"{argument}={str(file)!r} has no keys. See the files in configs/ for examples.")
    return content


def flatten(content: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration's settings as ``section.key`` → value; keys outside of sections keep their names."""
    settings: dict[str, Any] = {}
    for section, inner in content.items():
        if isinstance(inner, dict):
            settings |= {f"{section}.{key}": value for key, value in inner.items()}
        else:
            settings[section] = inner
    return settings


def read_section(content: Mapping[str, Any], key: str, file: Path) -> dict[str, Any]:
    """A section of a study file; empty if it is missing.

    Raises:
        UsageError: It is not a mapping.
    """
    section = content.get(key) or {}
    if not isinstance(section, dict):
        raise UsageError(f"study={str(file)!r}: {key} must map names to values. See configs/studies for examples.")
    return {str(name): value for name, value in section.items()}


def read_study(file: Path) -> Study:
    """Read and check a study file.

    Raises:
        UsageError: The file is missing or malformed.
    """
    content = read_yaml(file)
    variants = {
        name: read_section({name: value}, name, file) for name, value in read_section(content, "variants", file).items()
    }
    if "config" not in content or not variants:
        raise UsageError(f"study={str(file)!r} needs the keys config and variants. See configs/studies for examples.")
    if wrong := next((name for name in variants if {"/", ":"} & set(name)), None):
        raise UsageError(f"study={str(file)!r}: variant names become file names; {wrong!r} contains / or :. Rename it.")
    baseline = str(content.get("baseline") or "")
    if baseline not in ("", *variants):
        raise UsageError(
            f"study={str(file)!r}: baseline={baseline!r} is not a variant. Choose one of {list(variants)}."
        )
    config = find_config(str(content["config"]), file.parent)
    scarce = read_plan(read_section(content, "scarce", file), str(file)) if "scarce" in content else None
    return Study(file.stem, config, read_section(content, "options", file), variants, baseline, scarce)


def as_yaml(value: Any) -> str:
    """A setting's value as one line of YAML."""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True)
    return text.removesuffix("...\n").strip()
