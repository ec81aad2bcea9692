"""Which module may know which: the rooms of the house and the doors between them."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "animals_pl"
HEAVY = {"torch", "torchvision", "lightning", "timm", "cv2", "albumentations", "onnx", "onnxruntime", "matplotlib"}

FORBIDDEN = {
    "data": {"models", "evaluation", "training", "analysis", "deploy", "cli"},
    "models": {"data", "evaluation", "training", "analysis", "deploy", "cli"},
    "evaluation": {"data", "models", "training", "analysis", "deploy", "cli"},
    "training": {"analysis", "deploy", "cli"},
    "analysis": {"deploy", "cli"},
    "deploy": {"analysis", "cli"},
    "errors": {"data", "models", "evaluation", "training", "analysis", "deploy", "cli"},
}


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def imports_of(module: str) -> set[str]:
    """Return the package's own modules that a module imports, anywhere in its code."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # "from package import module" and "from module import name" look alike
            targets = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= targets & MODULES.keys() or {str(node.module)}
    return found & MODULES.keys()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_walk_sees_the_imports():
    assert imports_of("animals_pl.training.classifier") == {
        "animals_pl.models",
        "animals_pl.models.layers",
        "animals_pl.data.catalog",
        "animals_pl.errors",
        "animals_pl.evaluation.metrics",
        "animals_pl.training.losses",
        "animals_pl.training.parameter_groups",
    }
    assert imports_of("animals_pl.__main__") == {"animals_pl.cli"}


@pytest.mark.parametrize("module", MODULES)
def test_no_door_leads_back(module):
    forbidden = FORBIDDEN.get(room(module), set())
    assert {imported for imported in imports_of(module) if room(imported) in forbidden} == set()


def test_every_room_has_its_rule():
    rooms = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert rooms == FORBIDDEN.keys() - {"errors"}


def test_only_main_imports_the_command_line():
    assert [module for module in MODULES if "animals_pl.cli" in imports_of(module)] == ["animals_pl.__main__"]


def test_imports_have_no_cycle():
    order = list(TopologicalSorter({module: imports_of(module) for module in MODULES}).static_order())
    assert set(order) == MODULES.keys()


@pytest.mark.parametrize(
    "module",
    [
        "animals_pl",
        "animals_pl.cli",
        "animals_pl.errors",
        "animals_pl.data",
        "animals_pl.data.catalog",
        "animals_pl.data.decode",
        "animals_pl.data.inspection.image_facts",
        "animals_pl.data.splits",
        "animals_pl.evaluation",
        "animals_pl.evaluation.metrics",
        "animals_pl.experiments.run_table",
        "animals_pl.training",
        "animals_pl.training.callbacks",
        "animals_pl.deploy",
    ],
)
def test_light_modules_import_nothing_heavy(module):
    probe = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT, capture_output=True, text=True, check=True)
    imported = set(done.stdout.split())
    assert "animals_pl" in imported
    assert imported & HEAVY == set()
