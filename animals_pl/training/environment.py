"""environment.json of a run: what its results depend on besides the configuration."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import lightning as L
import torch

import animals_pl
from animals_pl.files import atomic_write
from animals_pl.training.cpu import cpu_name, cpu_vectors

PACKAGES = (
    "torch",
    "torchvision",
    "lightning",
    "timm",
    "torchmetrics",
    "albumentations",
    "numpy",
    "scipy",
    "pandas",
    "pillow",
    "opencv-python-headless",
    "safetensors",
    "openvino",
)
"""Packages whose versions are recorded."""

GIT_SECONDS = 10
"""Timeout of a git command, for example on a slow network disk."""


def record_session(folder: Path, trainer: L.Trainer) -> None:
    """Add this session to environment.json: a list, with one entry for the run's start and one for each resume."""
    file = folder / "environment.json"
    try:
        sessions = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        sessions = []
    with atomic_write(file) as partial:
        text = json.dumps([*sessions, _session(folder, trainer)], indent=2)
        partial.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def _session(folder: Path, trainer: L.Trainer) -> dict[str, Any]:
    split = folder / "split.csv"
    return {
        "started": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "command": _command(),
        "epoch": trainer.current_epoch + 1,
        "versions": {"python": sys.version.split()[0], "animals_pl": animals_pl.__version__, **_versions()},
        "git": _git_state(Path(animals_pl.__file__).parent) or _git_state(Path.cwd()),
        "hardware": {
            "cpu": cpu_name(),
            "vectors": cpu_vectors(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        },
        "device": f"{trainer.strategy.root_device.type} × {trainer.world_size}, precision {trainer.precision}",
        "split_sha256": hashlib.sha256(split.read_bytes()).hexdigest() if split.is_file() else None,
    }


def _command() -> str:
    program, *args = sys.argv or [""]
    module = Path(program) == Path(animals_pl.__file__).with_name("__main__.py")
    return ("python -m animals_pl " if module else f"{Path(program).name} ") + shlex.join(args)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of the work tree that a folder is in, and whether tracked files differ from it; ``None`` without one."""
    outputs = []
    for args in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"]):
        try:
            done = subprocess.run(
                ["git", "--no-optional-locks", "-C", str(folder), *args],
                capture_output=True,
                text=True,
                timeout=GIT_SECONDS,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):  # git is not installed, or the folder is not in a work tree
            return None
        outputs.append(done.stdout.strip())
    return {"commit": outputs[0], "changed": bool(outputs[1])}
