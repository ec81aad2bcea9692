"""What is installed: packages, configurations, the command, and messages about missing extras."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from animals_pl.cli import main
from animals_pl.configurations import CONFIGS, find_config
from animals_pl.errors import UsageError

PROJECT = Path(__file__).parents[1]

BLOCK = """
import sys
for name in ("torch", "lightning", "timm", "pandas", "sklearn", "scipy", "matplotlib", "onnx", "cv2", "jinja2"):
    sys.modules[name] = None
from animals_pl.cli import main
sys.exit(main(sys.argv[1:]))
"""
"""Runs a command as if only the runtime were installed."""


def setup_cfg():
    config = configparser.ConfigParser()
    config.read(PROJECT / "setup.cfg", encoding="utf-8")
    return config


def lines(section, key):
    return [line for line in setup_cfg()[section][key].splitlines() if line and not line.startswith("#")]


def test_all_packages_are_installed():
    found = {".".join(file.parent.relative_to(PROJECT).parts) for file in (PROJECT / "animals_pl").rglob("__init__.py")}
    assert set(lines("options", "packages")) == found | {"animals_pl.configs"}


def test_the_command_exists():
    (script,) = lines("options.entry_points", "console_scripts")
    name, _, target = script.partition(" = ")
    module, _, function = target.partition(":")
    code = f"import sys; from {module} import {function}; sys.argv[1:] = ['--help']; sys.exit({function}())"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert name == "animals-pl"
    assert "first steps:" in shown.stdout


@pytest.mark.parametrize(
    ("args", "package"),
    [(["fit", "--config", "quickstart"], "lightning"), (["export", "a.ckpt"], "pandas"), (["analyze", "d"], "pandas")],
)
def test_a_missing_extra_is_named(args, package, tmp_path):
    command = [sys.executable, "-c", BLOCK, *args]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 2
    (message,) = found.stderr.splitlines()
    assert f"the package {package} is missing. Run: pip install 'animals_pl[train]'" in message


def test_configurations_are_found_by_name_and_files_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("lenet") == CONFIGS / "lenet.yaml"
    (tmp_path / "lenet").write_text("model: {net: lenet}")
    assert find_config("lenet") == tmp_path / "lenet"
    with pytest.raises(UsageError, match="config='lenett' is not a file"):
        find_config("lenett")


def test_fit_takes_the_name_of_a_configuration(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["fit", "--config", "lenet", "--data.root", "nowhere"]) == 2
    assert "data.root='nowhere'" in capsys.readouterr().err
    assert main(["fit", "--config", "lenett"]) == 2
    assert "config='lenett' is not a file" in capsys.readouterr().err
