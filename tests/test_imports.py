"""Which module may import which, how large modules are, and that no old name is left."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import animals_pl

PROJECT = Path(__file__).parents[1]
PACKAGE = PROJECT / "animals_pl"
HEAVY = {"torch", "torchvision", "lightning", "timm", "cv2", "albumentations", "onnx", "onnxruntime", "matplotlib"}
TORCH = {"torch", "torchvision", "torchmetrics", "lightning", "timm"}

BASE = {"errors", "files", "durations", "hub"}
LOWER = BASE | {"data", "models", "evaluation"}
MAY_IMPORT = {
    "errors": set(),
    "files": {"errors"},
    "hub": {"errors"},
    "durations": {"errors"},
    "arguments": {"errors"},
    "configurations": {"errors"},
    "data": BASE,
    "models": BASE,
    "evaluation": BASE,
    "training": LOWER,
    "reports": LOWER | {"training"},
    "deploy": LOWER | {"training"},
    "lightning_cli": LOWER | {"training", "reports", "deploy", "arguments", "configurations"},
    "experiments": LOWER | {"training", "reports", "deploy", "lightning_cli", "configurations"},
    "push": BASE | {"training", "reports", "deploy"},
    "cli": {"errors", "files", "arguments"},
    "__main__": {"cli"},
}
"""Room → the other rooms that it may import."""

MOST_LINES, MOST_LINES_OF_A_FUNCTION = 350, 60

OLD_NAMES = (
    "crop_fraction|body_lr|HeadFirst|keep_best|keep_freed_memory|for_extraction|fold_batch_norms|FoldMetrics|"
    "cached_views|average_best|keep_decoded"
)
MAY_HOLD_OLD_NAMES = {"CHANGELOG.md", "animals_pl/errors.py", "tests/test_imports.py", "tests/test_configs.py"}


def module_name(file: Path) -> str:
    parts = file.relative_to(PROJECT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in sorted(PACKAGE.rglob("*.py"))}


def parse(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def walk(node: ast.AST, functions: bool) -> Iterator[ast.AST]:
    """Yield the nodes of a module's code; type checkers' imports and, if asked, function bodies are left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        if not functions and isinstance(child, ast.FunctionDef):
            continue
        yield child
        yield from walk(child, functions)


def imported_names(module: str, functions: bool = True) -> set[str]:
    """Return the full names of everything that a module imports."""
    found = set()
    for node in walk(parse(module), functions):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports_of(module: str, functions: bool = True) -> set[str]:
    """Return the package's own modules that a module imports, anywhere or outside of functions."""
    # "from package import module" and "from module import name" look alike
    names = imported_names(module, functions)
    return {name if name in MODULES else name.rpartition(".")[0] for name in names} & MODULES.keys()


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def test_the_walk_sees_the_imports():
    assert imports_of("animals_pl.training.optimization") == {"animals_pl.errors", "animals_pl.models.transfer"}
    assert imports_of("animals_pl.__main__") == {"animals_pl.cli"}
    assert "animals_pl.models.transfer" in imports_of("animals_pl.models.registry")
    assert "animals_pl.models.transfer" not in imports_of("animals_pl.models.registry", functions=False)


@pytest.mark.parametrize("module", [module for module in MODULES if room(module)])
def test_rooms_import_only_what_lies_below(module):
    rooms = {room(imported) for imported in imports_of(module)} - {"", room(module)}
    assert rooms - MAY_IMPORT[room(module)] == set()


def test_every_room_has_its_rule():
    assert {room(module) for module in MODULES} - {""} == MAY_IMPORT.keys()


def test_the_rules_have_no_cycle():
    assert set(TopologicalSorter(MAY_IMPORT).static_order()) == MAY_IMPORT.keys()


def test_imports_have_no_cycle():
    order = TopologicalSorter({module: imports_of(module, functions=False) for module in MODULES}).static_order()
    assert set(order) == MODULES.keys()


def test_analyze_without_a_model_needs_no_torch():
    seen, left = set(), ["animals_pl.reports.analyze"]
    while left:
        module = left.pop()
        packages = [module.rsplit(".", depth)[0] for depth in range(1, module.count(".") + 1)]
        seen.add(module)
        left += {*packages, *imports_of(module, functions=False)} - seen
    heavy = {
        module: names
        for module in seen
        if (names := {name.partition(".")[0] for name in imported_names(module, functions=False)} & TORCH)
    }
    assert heavy == {}


def modules_loaded_by(code: str) -> set[str]:
    """Names of the packages that are imported in a new process."""
    probe = f"import sys; {code}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", probe], cwd=PROJECT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("name", [f"animals_pl.deploy.{name}" for name in ("runtime", "classify", "server.command")])
def test_the_runtime_needs_numpy_pillow_and_onnxruntime_only(name):
    """Of this project's dependencies; rich comes with ``animals_pl.files`` when a table is printed."""
    imported = modules_loaded_by(f"import {name}")
    assert {"animals_pl", "numpy", "PIL", "onnxruntime"} <= imported
    others = HEAVY - {"onnxruntime"} | {"pandas", "scipy", "sklearn", "jinja2", "plotly", "safetensors"}
    assert imported & others == set()


@pytest.mark.parametrize(
    "module",
    [
        "animals_pl.arguments",
        "animals_pl.cli",
        "animals_pl.data.catalog",
        "animals_pl.data.class_weights",
        "animals_pl.data.decode",
        "animals_pl.data.info",
        "animals_pl.data.inspection.image_facts",
        "animals_pl.data.splits",
        "animals_pl.deploy",
        "animals_pl.deploy.image_sources",
        "animals_pl.deploy.metadata",
        "animals_pl.errors",
        "animals_pl.evaluation.metrics",
        "animals_pl.experiments.finished_runs",
        "animals_pl.experiments.run_table",
        "animals_pl.files",
        "animals_pl.models.registry",
        "animals_pl.training",
    ],
)
def test_light_modules_import_nothing_heavy(module):
    imported = modules_loaded_by(f"import {module}")
    assert "animals_pl" in imported
    assert imported & HEAVY == set()


# ---------------------------------------------------------------- the public names


def test_every_public_name_can_be_imported():
    assert [name for name in animals_pl.__all__ if getattr(animals_pl, name).__name__ != name] == []


def test_public_names_are_listed():
    assert set(animals_pl.__all__) <= set(dir(animals_pl))
    assert "__version__" in dir(animals_pl)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="has no attribute 'train'"):
        animals_pl.train  # noqa: B018


# ---------------------------------------------------------------- size and names


@pytest.mark.parametrize("module", MODULES)
def test_modules_and_functions_are_short(module):
    assert len(MODULES[module].read_text(encoding="utf-8").splitlines()) <= MOST_LINES
    functions = [node for node in ast.walk(parse(module)) if isinstance(node, ast.FunctionDef)]
    lines = {function.name: 1 + (function.end_lineno or 0) - function.lineno for function in functions}
    assert {name: count for name, count in lines.items() if count > MOST_LINES_OF_A_FUNCTION} == {}


def test_no_old_name_is_left():
    folders = [PROJECT / name for name in ("animals_pl", "configs", "docs", "scripts", "tests")]
    files = [file for folder in folders for file in folder.rglob("*") if file.suffix in {".py", ".yaml", ".md", ".sh"}]
    found = [
        f"{name}:{number}: {line.strip()}"
        for file in [*PROJECT.glob("*.md"), *files]
        if (name := file.relative_to(PROJECT).as_posix()) not in MAY_HOLD_OLD_NAMES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
        if re.search(OLD_NAMES, line)
    ]
    assert found == []


@pytest.mark.parametrize("module", [module for module in MODULES if module != "animals_pl.files"])
def test_only_one_module_draws_with_rich(module):
    """Names and paths are no markup: tables go through ``files.show`` and other text through ``print``."""
    tree = parse(module)
    imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported & {"rich.console", "rich.markup", "rich.progress"} == set()
    calls = [node.func.attr for node in ast.walk(tree) if isinstance(node, ast.Call) and hasattr(node.func, "attr")]
    assert "print" not in calls
