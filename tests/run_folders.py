"""Write run folders as fit and test would, and name the files in them."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import torch
import yaml

from animals_pl.training.metrics_csv import write_metrics
from animals_pl.training.speed_json import Speed, write_speed

TRANSFER = {"net": "tf_mobilenetv3_small_100.in1k", "head": "linear", "features": "pooled", "freeze": True}
METRICS = ("loss", "acc", "macro_recall", "macro_f1")
SPEED = Speed(1234, 5.5, 2.34567, "Some CPU", 2, "32-true")

FILES = ["best.ckpt", "config.yaml", "curves.png", "environment.json", "events", "last.ckpt", "metrics.csv"]
FILES += ["speed.json", "split.csv"]
"""Files of a run that has ended."""


def names_in(folder: Path) -> list[str]:
    """Return the sorted names in a folder; TensorBoard's event files are called ``events``."""
    return sorted(re.sub(r"^events\.out\.tfevents\..*", "events", file.name) for file in folder.iterdir())


def epoch(number: int, value: float = 0.5, **others: float) -> dict[str, float]:
    """Return the row of one epoch; ``others`` are validation metrics that differ from the rest."""
    row = {f"{name}/{split}": value for name in METRICS for split in ("train", "val")}
    return {"epoch": number, **row, **{f"{name}/val": other for name, other in others.items()}}


def write_run(
    root: Path,
    name: str,
    rows: list[dict[str, float]] | None = None,
    version: int = 0,
    model: dict[str, Any] | None = None,
    monitor: str = "loss/val",
    augment: str = "none",
    parameters: int = 3,
    images: str = "ab",
    test_images: str = "",
) -> Path:
    """Write ``root/name/version_N`` without speed.json and without evaluations."""
    folder = root / name / f"version_{version}"
    folder.mkdir(parents=True)
    model = {**TRANSFER, "weights": "imagenet", **(model or {})}
    config = {"name": name, "monitor": monitor, "model": model, "data": {"augment": augment}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_metrics(folder / "metrics.csv", [epoch(0)] if rows is None else rows)
    state = {"net.head.1.weight": torch.zeros(parameters), "net.backbone.conv.weight": torch.zeros(9)}
    hparams = {**model, "class_names": ["cane"]}
    checkpoint = {"state_dict": state, "hyper_parameters": hparams, "animals_pl_version": "0.2.0"}
    torch.save(checkpoint, folder / "best.ckpt")
    with (folder / "split.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "label", "split", "sha256", "group"])
        for split, letters in (("val", images), ("test", test_images)):
            writer.writerows([f"cane/{letter}.jpg", "cane", split, f"hash of {letter}", ""] for letter in letters)
        writer.writerow(["cane/train.jpg", "cane", "train", f"hash of train {name}", ""])
    return folder


def write_test(run: Path, acc: float = 0.9, images: int = 2, **others: Any) -> Path:
    """Write metrics.json of a test of epoch 1; ``others`` are entries that differ."""
    facts = {"checkpoint": "best.ckpt", "epoch": 1, "tta": "none", "prior": None, "images": images}
    facts["acc"] = {"value": acc, "low": acc - 0.1, "high": acc + 0.05}
    facts["macro_recall"] = {"value": acc - 0.2, "low": acc - 0.4, "high": acc - 0.1}
    file = run / "evaluation" / "test" / "metrics.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({**facts, **others}))
    return file


def add_speed(run: Path, speed: Speed = SPEED) -> None:
    """Write speed.json."""
    write_speed(run / "speed.json", speed)
