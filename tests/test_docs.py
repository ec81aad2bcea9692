"""README and docs: commands parse, links lead somewhere, the reference is complete, the notebook runs."""

from __future__ import annotations

import ast
import csv
import importlib
import inspect
import os
import re
import shlex
from argparse import ArgumentError
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from jsonargparse import ArgumentParser

from animals_pl.arguments import boolean_options, normalise
from animals_pl.cli import LIGHTNING, VERBS, main
from animals_pl.data.inspection.manifest import COLUMNS
from animals_pl.errors import RENAMED_IN_0_2, UsageError
from animals_pl.lightning_cli import FLAGS, AnimalsCLI

PROJECT = Path(__file__).parents[1]
PAGES = [PROJECT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES += sorted((PROJECT / "docs").glob("*.md"))
REFERENCE = (PROJECT / "docs" / "reference.md").read_text(encoding="utf-8")
NOTEBOOK = PROJECT / "docs" / "tutorial.ipynb"
TRAINING = [name for name, verb in VERBS.items() if verb.function == LIGHTNING]
PLACEHOLDERS = {"$run/config.yaml": "configs/quickstart.yaml"}
"""Files in commands that exist after a run only."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)


def commands() -> Iterator[tuple[str, list[str]]]:
    """Page and arguments of each ``python -m animals_pl`` in code blocks, in tables and in configurations."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        lines = "".join(blocks(page, "bash")).replace("\\\n", " ").splitlines()
        inline = re.findall(r"`(python -m animals_pl (?!COMMAND)[\w-]+ [^`]*)`", text)
        for line in lines + inline:
            if "-m animals_pl " in line and "…" not in line:
                args = shlex.split(line.partition("-m animals_pl ")[2], comments=True)
                yield page.name, args
    for file in (PROJECT / "configs").rglob("*.yaml"):
        for line in re.findall(r"python -m animals_pl (.*)", file.read_text(encoding="utf-8")):
            yield file.name, shlex.split(re.sub(r"\[.*\]", "", line))


class _ParserBuiltError(Exception):
    """Ends the construction of the command line when its parser is complete."""


@pytest.fixture(scope="module")
def parsers() -> dict[str, tuple[ArgumentParser, ArgumentParser]]:
    """The parsers of fit, validate, test and predict: that of the command line and that of the verb's options."""
    found: list[ArgumentParser] = []
    add_arguments = AnimalsCLI.add_arguments_to_parser

    def keep(self: AnimalsCLI, parser: ArgumentParser) -> None:
        add_arguments(self, parser)
        found.append(parser)

    def stop(self: AnimalsCLI, parser: ArgumentParser, args: object) -> None:
        found.append(parser)
        raise _ParserBuiltError

    built = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(AnimalsCLI, "add_arguments_to_parser", keep)
        patch.setattr(AnimalsCLI, "parse_arguments", stop)
        for verb in TRAINING:
            with pytest.raises(_ParserBuiltError):
                AnimalsCLI([verb])
            built[verb] = (found[-1], found[-2])
    return built


def parse(args: list[str], parsers: dict[str, tuple[ArgumentParser, ArgumentParser]]) -> None:
    name, *options = [PLACEHOLDERS.get(arg, arg) for arg in args]
    verb = VERBS[name]
    if verb.function == LIGHTNING:
        parsers[name][0].parse_args([name, *normalise(options, verb.positional, FLAGS)[0]])
        return
    module, _, function_name = verb.function.partition(":")
    function = getattr(importlib.import_module(module), function_name)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_function_arguments(function)
    options, values = normalise(options, verb.positional, boolean_options(function))
    parser.set_defaults(values)
    parser.parse_args(options)


COMMANDS = list(commands())


@pytest.mark.parametrize("args", [args for _, args in COMMANDS], ids=[f"{page}: {args[0]}" for page, args in COMMANDS])
def test_documented_command_parses(args, parsers, monkeypatch):
    monkeypatch.chdir(PROJECT)
    try:
        parse(args, parsers)
    except (ArgumentError, UsageError) as error:
        pytest.fail(f"python -m animals_pl {shlex.join(args)}: {error}")


def test_wrong_command_is_noticed(parsers):
    with pytest.raises(ArgumentError):
        parse(["fit", "--data.sise", "64"], parsers)
    with pytest.raises(ArgumentError):
        parse(["analyze", "MY_IMAGES", "--checkpoint", "best.ckpt"], parsers)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_documented_command(verb):
    assert verb in {args[0] for _, args in COMMANDS}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_relative_links_exist(page):
    text = page.read_text(encoding="utf-8")
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        target, _, anchor = link.partition("#")
        if link.startswith("http"):
            continue
        file = page.parent / target if target else page
        assert file.exists(), link
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
            assert anchor in anchors, link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_import_what_exists(page):
    for block in blocks(page, "python"):
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and str(node.module).startswith("animals_pl"):
                module = importlib.import_module(str(node.module))
                assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == []


def test_files_named_in_the_pages_exist():
    for page in PAGES:
        if page.name == "CHANGELOG.md":  # names files of earlier versions
            continue
        text = page.read_text(encoding="utf-8")
        top = "animals_pl|configs|scripts|tests|docs"
        named = re.findall(rf"`((?:{top})/[\w/.-]*\w)`", text)
        named += [f"animals_pl/{name}" for name in re.findall(rf"`((?!{top})[a-z_]+/[\w/]+\.py)`", text)]
        assert [name for name in named if not (PROJECT / name).exists()] == [], page.name


def test_readme_is_short():
    assert len((PROJECT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_changelog_lists_renamed_and_removed_names():
    changelog = (PROJECT / "CHANGELOG.md").read_text(encoding="utf-8")
    for old, new in RENAMED_IN_0_2.items():
        assert old in changelog
        assert new.split(" ")[0] in changelog


def documented(heading: str, column: int) -> set[str]:
    """Names in backticks in a column of the tables below a heading of the reference."""
    section = REFERENCE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("|")]
    return {name for row in rows for name in re.findall(r"`([^`]+)`", row[column])}


def option_rows() -> set[tuple[str, str, str]]:
    """(option, verb, default) of the reference."""
    rows = [line.split(" | ") for line in REFERENCE.splitlines() if line.startswith("| `") and line.count(" | ") == 3]
    return {
        (row[0].strip("|` "), verb.removesuffix(" (positional)"), row[2]) for row in rows for verb in row[1].split(", ")
    }


def test_reference_has_all_options_of_functions():
    listed = option_rows()
    for name, verb in VERBS.items():
        if verb.function != LIGHTNING:
            module, _, function = verb.function.partition(":")
            parameters = inspect.signature(getattr(importlib.import_module(module), function)).parameters
            assert {option for option, of, _ in listed if of == name} == set(parameters), UPDATE


UPDATE = "run 'python docs/make_reference.py'"


@pytest.mark.parametrize("verb", TRAINING)
def test_reference_has_all_options_of_training_verbs(verb, parsers):
    defaults = parsers[verb][1].get_defaults()
    names = {".".join(key.split(".")[:2]) for key in defaults.keys()}  # noqa: SIM118 - a Namespace
    ours = {name for name in names if not name.startswith("trainer.")} - {
        "return_predictions",
        "verbose",
        "weights_only",
    }
    listed = {option: default.strip("`") for option, of, default in option_rows() if of == verb}
    assert ours - listed.keys() == set(), UPDATE
    assert listed.keys() - ours - {"trainer.*"} == set(), UPDATE
    for name in ours - {"config", "ckpt_path"}:
        assert yaml.safe_load(listed[name]) == defaults[name], UPDATE


def test_reference_has_all_columns_of_the_manifest():
    assert set(COLUMNS) - documented("Columns", column=2) == set()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_notebook_runs_and_its_files_are_in_the_reference(tmp_path, monkeypatch):
    """On a small practice set, for one epoch; then predict and analyze with its model."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    import onnx

    notebook = nbformat.read(NOTEBOOK, 4)
    small = {"count=600": "count=200", "EPOCHS = 10": "EPOCHS = 1"}
    for cell in notebook.cells:
        for before, after in small.items():
            cell.source = cell.source.replace(before, after)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(PROJECT), os.environ.get("PYTHONPATH", "")]))
    nbclient.NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()

    monkeypatch.chdir(tmp_path)
    ckpt_path = "checkpoints/tutorial/version_0/best.ckpt"
    assert main(["predict", "datasets/practice-small/gatto", "--ckpt_path", ckpt_path]) == 0
    assert main(["analyze", "datasets/practice-small", "--ckpt_path", ckpt_path, "--output", "analysis"]) == 0
    columns = documented("Columns", column=2)
    for file in tmp_path.rglob("*.csv"):
        with file.open(newline="", encoding="utf-8") as stream:
            header = set(next(csv.reader(stream)))
        if "evaluation" in file.parts:
            header = {re.sub(r"^probability_.*", "probability_CLASS", name) for name in header}
        assert {re.sub(r"_[23]$", "_1", name) for name in header} - columns == set(), file.name
    metadata = {entry.key for entry in onnx.load("model.onnx").metadata_props}
    assert metadata == documented("ONNX metadata", column=1) - {"int8_comparison"}  # of weights=int8
