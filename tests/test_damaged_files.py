"""Every parser reads randomly damaged files, or refuses them with a UsageError, in bounded memory."""

from __future__ import annotations

import io
import json
import resource
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from mutations import mutated
from PIL import Image

from animals_pl import Identifier, load_model
from animals_pl.data.catalog import scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.problems import decode_checked, load_checked
from animals_pl.data.sources.archives import unpack
from animals_pl.data.splits import load_split
from animals_pl.deploy import megadetector
from animals_pl.deploy.deployments import read_deployments
from animals_pl.deploy.image_file import date_and_camera
from animals_pl.errors import UsageError
from animals_pl.reports.saved_evaluations import read_evaluation
from animals_pl.training.calibration import read_prior
from animals_pl.training.callbacks.feature_cache import FeatureFile
from animals_pl.training.checkpoint import load_checkpoint
from animals_pl.training.metrics_csv import read_metrics

pytestmark = pytest.mark.usefixtures("small_figures")

MUTATIONS = 100
MOST_BYTES = 400_000_000
"""Growth of the peak memory that is accepted for one kind of file."""


@pytest.fixture(scope="module")
def run(evaluated_run: Path) -> Path:
    return evaluated_run


def try_mutations(content: bytes, file: Path, read: Callable[[Path], Any], mutations: int = MUTATIONS) -> None:
    """Let a parser read a file with many kinds of damage."""
    rng = np.random.default_rng(len(content))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    read(file)  # undamaged
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for number in range(mutations):
        file.write_bytes(mutated(content, rng))
        try:
            read(file)
        except UsageError as error:
            refused += 1
            assert "\n" not in str(error), number
    assert 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) < MOST_BYTES
    print(f"{file.name}: {refused} of {mutations} refused")


def photograph() -> bytes:
    """A JPEG with EXIF data."""
    exif = Image.Exif()
    exif[0x0132], exif[0x010F], exif[0x0110], exif[0x0112] = "2024:05:31 06:12:59", "Maker", "Model", 6
    exif.get_ifd(0x8769)[0x9003] = "2024:05:31 06:12:58"
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


def test_images(tmp_path):
    def read(file: Path) -> None:
        pixels, problem = decode_checked(file.read_bytes())
        assert pixels is not None or problem
        decode(file, 32)

    try_mutations(photograph(), tmp_path / "a.jpg", read)


def test_exif(tmp_path):
    content = photograph()
    start = content.index(b"Exif")

    def read(file: Path) -> None:
        found: dict[str, str] = {}
        whole = content[:start] + file.read_bytes() + content[start + 200 :]
        load_checked(whole, 32, lambda opened: found.update(date_and_camera(opened)))
        assert all(isinstance(text, str) and len(text) < 1000 for text in found.values())

    try_mutations(content[start : start + 200], tmp_path / "exif", read)


def test_manifests(make_tree, tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    catalog = scan_folder(make_tree("tree", {"cane": 3, "gatto": 3}))
    expected = scan(catalog).manifest
    (file,) = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    columns = ["path", "label", "problem"]

    def read(_: Path) -> None:
        assert scan(catalog).manifest["path"].tolist() == expected["path"].tolist()
        assert set(columns) <= set(expected)

    try_mutations(file.read_bytes(), file, read, mutations=20)


def test_splits(run, tiny_tree, tmp_path):
    catalog = scan_folder(tiny_tree)

    def read(file: Path) -> None:
        split = load_split(file, catalog)
        assert {*split.train, *split.val, *split.test} <= {*catalog.paths}

    try_mutations((run / "split.csv").read_bytes(), tmp_path / "split.csv", read)


def test_priors(tmp_path):
    def read(file: Path) -> None:
        prior = read_prior(str(file), ["cane", "gatto"], np.array([3, 4]))
        assert np.isfinite(prior).all() and (prior >= 0).all()

    try_mutations(b"class,frequency\r\ncane,0.25\r\ngatto,0.75\r\n", tmp_path / "prior.csv", read)


def test_metrics_of_epochs(run, tmp_path):
    try_mutations((run / "metrics.csv").read_bytes(), tmp_path / "metrics.csv", read_metrics)


@pytest.mark.parametrize("name", ["metrics.json", "predictions.csv"])
def test_evaluations(run, tmp_path, name):
    folder = tmp_path / "run" / "evaluation" / "val"
    folder.mkdir(parents=True)
    for other in ("metrics.json", "predictions.csv"):
        (folder / other).write_bytes((run / "evaluation" / "val" / other).read_bytes())
    try_mutations((folder / name).read_bytes(), folder / name, lambda file: read_evaluation(tmp_path / "run", "val"))


def test_exported_models(run, tmp_path):
    try_mutations((run / "model.onnx").read_bytes(), tmp_path / "model.onnx", Identifier)


def test_metadata_of_exported_models(run, tmp_path):
    content = (run / "model.onnx").read_bytes()
    start = content.index(b"animals_pl_version") - 10

    def read(file: Path) -> None:
        whole = tmp_path / "whole.onnx"
        whole.write_bytes(content[:start] + file.read_bytes())
        Identifier(whole)

    try_mutations(content[start:], tmp_path / "metadata", read)


def test_detections(tmp_path):
    detection = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}
    contents = {
        "images": [{"file": f"{index}.jpg", "detections": [detection] * 2} for index in range(20)],
        "detection_categories": {"1": "animal", "2": "person"},
        "info": {"format_version": "1.3"},
    }
    try_mutations(json.dumps(contents).encode(), tmp_path / "detections.json", megadetector.check)


def test_deployments(tmp_path):
    table = "folder,deploymentID,latitude,longitude,deploymentStart\r\n" + "".join(
        f"site{index},site{index},{index}.5,-{index}.25,2024-05-31T06:12:59\r\n" for index in range(10)
    )
    try_mutations(table.encode(), tmp_path / "deployments.csv", lambda file: read_deployments(file, UTC))


@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz"])
def test_archives(tmp_path, kind):
    source = tmp_path / f"source.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(source, "w", zipfile.ZIP_DEFLATED) as archive:
            for index in range(5):
                archive.writestr(f"cane/{index}.jpg", photograph())
    else:
        with tarfile.open(source, "w:gz" if kind == "tar.gz" else "w") as archive:
            for index in range(5):
                entry = tarfile.TarInfo(f"cane/{index}.jpg")
                entry.size = len(photograph())
                archive.addfile(entry, io.BytesIO(photograph()))
    root = tmp_path / "out"
    numbers = iter(range(MUTATIONS + 1))

    def read(file: Path) -> None:
        unpack(file, root / str(next(numbers)) / "tree")

    try_mutations(source.read_bytes(), tmp_path / f"a.{kind}", read)
    inside = set(tmp_path.iterdir())
    assert inside == {source, root, tmp_path / f"a.{kind}"}


def test_checkpoints(run, tmp_path):
    def read(file: Path) -> None:
        load_checkpoint(file)

    content = (run / "best.ckpt").read_bytes()
    try_mutations(content, tmp_path / "best.ckpt", read)
    start = content.index(b"PK") + 1000

    def load(file: Path) -> None:
        whole = tmp_path / "whole.ckpt"
        whole.write_bytes(file.read_bytes() + content[start:])
        load_model(whole)

    try_mutations(content[:start], tmp_path / "start", load)


def test_cached_features(tmp_path):
    file = tmp_path / "features.safetensors"
    names = [bytes([index]) * 32 for index in range(20)]
    features = FeatureFile(file)
    features.add(names, torch.arange(80.0).reshape(20, 4))
    features.save()

    def read(damaged: Path) -> None:
        features = FeatureFile(damaged)
        with suppress(KeyError):
            assert features.take(names).shape[0] == len(names)

    try_mutations(file.read_bytes(), tmp_path / "damaged.safetensors", read)
