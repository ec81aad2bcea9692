"""Export to ONNX: contents, agreement with torch, refusals."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image

import animals_pl
from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10, scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.resize import Resize
from animals_pl.deploy import export as export_file
from animals_pl.deploy import onnx_file
from animals_pl.deploy.metadata import GoldenImage, read_texts
from animals_pl.deploy.run_facts import run_metrics
from animals_pl.errors import UsageError
from animals_pl.models.layers import forward_tta
from animals_pl.training.trained import TrainedModel, load_model

HALF = ([0.5] * 3, [0.5] * 3)
IMAGENET = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
PLAIN = ([0.0] * 3, [1.0] * 3)


@dataclass(frozen=True)
class Case:
    net: str
    size: int
    mean_std: tuple[list[float], list[float]]
    options: tuple[str, ...] = ()


CROP = ("--data.resize", "crop", "--data.crop_pct", "0.8", "--data.interpolation", "bicubic")
# A large learning rate makes the outputs of a random backbone differ.
FROZEN = ("--model.freeze", "true", "--model.head", "dense", "--model.lr", "1")
HFLIP = ("--model.tta", "hflip")

CASES = {
    "shallownet": Case("shallownet", 16, PLAIN),
    "minivggnet": Case("minivggnet", 24, PLAIN, CROP),
    "mobilenet": Case("mobilenetv3_small_050", 32, IMAGENET, FROZEN),
    "vit": Case("test_vit", 32, HALF),
    "hflip": Case("lenet", 20, PLAIN, HFLIP),
}


@dataclass
class Exported:
    case: Case
    checkpoint: Path
    file: Path
    session: onnxruntime.InferenceSession
    model: TrainedModel

    @property
    def metadata(self) -> dict[str, str]:
        return self.session.get_modelmeta().custom_metadata_map

    def run(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return tuple(self.session.run(["probabilities", "logits"], {"images": images}))


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def fit(tree: Path, root: Path, case: Case) -> Path:
    """Train and return the best checkpoint."""
    data = ["--data.root", tree, "--data.size", case.size, "--data.batch_size", 16, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    assert cli("fit", *data, "--model.net", case.net, *trainer, *case.options) == 0
    return root / "run" / "version_0" / "best.ckpt"


def export_case(name: str, tree: Path, folder: Path) -> Exported:
    case = CASES[name]
    checkpoint = fit(tree, folder, case)
    file = folder / "exported" / "model.onnx"
    assert cli("export", "--ckpt_path", checkpoint, "--output", file) == 0
    return Exported(case, checkpoint, file, onnxruntime.InferenceSession(file), load_model(checkpoint))


@pytest.fixture(scope="module", params=CASES)
def exported(request, tiny_tree, tmp_path_factory) -> Exported:
    """Every kind of net, trained and exported. Read only."""
    return export_case(request.param, tiny_tree, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def checkpoint(tiny_tree, tmp_path_factory) -> Path:
    """A checkpoint whose training images exist."""
    return fit(tiny_tree, tmp_path_factory.mktemp("checkpoint"), CASES["shallownet"])


def image_batch(tree: Path, exported: Exported, count: int) -> np.ndarray:
    """Return (count, 3, S, S) uint8 images, resized according to the file's metadata."""
    meta = exported.metadata
    resize = Resize(meta["resize"], meta["interpolation"], json.loads(meta["crop_pct"]))
    files = sorted(tree.rglob("*.jpg"))[:: 57 // count][:count]
    size = json.loads(meta["input_size"])
    return np.stack([resize(decode(file, size), size).transpose(2, 0, 1) for file in files])


def test_export_is_a_single_valid_file(exported):
    assert [file.name for file in exported.file.parent.iterdir()] == ["model.onnx"]
    onnx.checker.check_model(onnx.load(exported.file, load_external_data=False), full_check=True)


def test_inputs_and_outputs(exported):
    (images,) = exported.session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == (
        "images",
        "tensor(uint8)",
        [3, exported.case.size, exported.case.size],
    )
    outputs = [(output.name, output.type, output.shape[1:]) for output in exported.session.get_outputs()]
    assert outputs == [
        ("probabilities", "tensor(float)", [10]),
        ("logits", "tensor(float)", [10]),
        ("unknown_score", "tensor(float)", []),
    ]


@pytest.mark.parametrize("count", [1, 3, 17])
def test_any_batch_size_equals_torch(exported, tiny_tree, count):
    images = image_batch(tiny_tree, exported, count)
    assert images.shape[0] == count
    probabilities, logits = exported.run(images)
    with torch.no_grad():
        expected = forward_tta(exported.model.net, torch.from_numpy(images), exported.model.tta)
    temperature = exported.model.calibration.temperature
    np.testing.assert_allclose(probabilities, (expected / temperature).softmax(1).numpy(), atol=1e-4, rtol=0)
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3, rtol=1e-3)
    np.testing.assert_allclose(probabilities.sum(1), 1, atol=1e-5)
    shifted = np.exp((logits - logits.max(1, keepdims=True)) / temperature)
    np.testing.assert_allclose(probabilities, shifted / shifted.sum(1, keepdims=True), atol=1e-6)


def test_flipped_images_give_the_same_with_hflip_only(exported, tiny_tree):
    images = image_batch(tiny_tree, exported, 3)
    plain, mirrored = (exported.run(batch)[1] for batch in (images, np.ascontiguousarray(images[..., ::-1])))
    assert np.allclose(plain, mirrored, atol=1e-4) == (exported.case.options == HFLIP)


@pytest.mark.parametrize("tta", ["hflip", "none"])
def test_tta_can_be_chosen_at_export(checkpoint, tiny_tree, tmp_path, tta):
    file = export_file.export(checkpoint, tmp_path / "chosen.onnx", tta=tta).path
    model = load_model(checkpoint)
    images = next(model.batches(scan_folder(tiny_tree), 3))
    session = onnxruntime.InferenceSession(file)
    (logits,) = session.run(["logits"], {"images": images.numpy()})
    assert session.get_modelmeta().custom_metadata_map["tta"] == tta
    with torch.no_grad():
        expected = model.net(images)
        if tta == "hflip":
            expected = (expected + model.net(images.flip(3))) / 2
    np.testing.assert_allclose(logits, expected.numpy(), atol=1e-3, rtol=1e-3)


def test_output_depends_on_the_images(exported, tiny_tree):
    probabilities, _ = exported.run(image_batch(tiny_tree, exported, 17))
    assert np.ptp(probabilities, axis=0).max() > 1e-3


def test_metadata(exported):
    meta, case = exported.metadata, exported.case
    assert json.loads(meta["class_names"]) == list(ANIMALS10)
    assert json.loads(meta["english_names"]) == list(ANIMALS10.values())
    assert json.loads(meta["input_size"]) == case.size
    assert (meta["net"], meta["animals_pl_version"]) == (case.net, animals_pl.__version__)
    assert meta["tta"] == ("hflip" if case.options == HFLIP else "none")
    assert meta["training_run"] == "run/version_0/best.ckpt"
    mean, std = case.mean_std
    assert json.loads(meta["mean"]) == pytest.approx(mean)
    assert json.loads(meta["std"]) == pytest.approx(std)
    cropped = "--data.resize" in case.options
    resize = (meta["resize"], meta["interpolation"], json.loads(meta["crop_pct"]))
    assert resize == (("crop", "bicubic", 0.8) if cropped else ("stretch", "bilinear", 1.0))


# ---------------------------------------------------------------- verification


def test_verified_on_the_training_images(checkpoint, tiny_tree, tmp_path, capsys):
    assert cli("export", "--ckpt_path", checkpoint, "--output", tmp_path / "m.onnx") == 0
    printed = capsys.readouterr().out
    assert f"verified on 16 images of {tiny_tree}: probabilities differ from torch by at most" in printed
    assert "images uint8 (B, 3, 16, 16) → probabilities, logits (B, 10)" in printed


@pytest.mark.parametrize("count", [1, 3])
def test_verified_on_each_image_of_a_given_folder(checkpoint, make_tree, tmp_path, capsys, count):
    own = make_tree("own", {"whatever": count})
    assert cli("export", "--ckpt_path", checkpoint, "--output", tmp_path / "m.onnx", "--image_folder", own) == 0
    assert f"verified on {count} images of {own}" in capsys.readouterr().out


def test_verified_on_drawn_images_if_the_training_images_are_gone(checkpoint, tmp_path, monkeypatch):
    model = load_model(checkpoint)
    gone = replace(model, data_hparams=model.data_hparams | {"root": str(tmp_path / "gone")})
    monkeypatch.setattr(export_file, "load_model", lambda ckpt_path, prior: gone)
    exported = export_file.export(checkpoint, tmp_path / "m.onnx")
    assert exported.verified_on == "16 generated images"
    assert exported.path.is_file()
    assert exported.difference <= onnx_file.TOLERANCES["batch"]


@pytest.mark.parametrize("arguments", [{"input": "video"}, {"golden": "train"}, {"tta": "vflip"}])
def test_unknown_values_are_refused(checkpoint, tmp_path, arguments):
    (name, value), *_ = arguments.items()
    with pytest.raises(UsageError, match=f"{name}='{value}' is invalid"):
        export_file.export(checkpoint, tmp_path / "m.onnx", **arguments)
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- golden images and metrics


@pytest.fixture
def run(checkpoint, tmp_path) -> Path:
    """A copy of a run's folder."""
    return Path(shutil.copytree(checkpoint.parent, tmp_path / "run" / "version_0"))


def texts(file: Path) -> dict[str, str]:
    return read_texts(file.read_bytes())


def golden_images(file: Path) -> list[GoldenImage]:
    return [GoldenImage.from_json(values) for values in json.loads(texts(file)["golden_images"])]


@pytest.mark.parametrize("source", ["validation", "practice"])
def test_golden_images_are_jpegs_with_the_probabilities_of_predict(run, tmp_path, capsys, source):
    file = tmp_path / "m.onnx"
    assert cli("export", run / "best.ckpt", "--output", file, "--golden", source) == 0
    assert f"contains 8 {'validation images' if source == 'validation' else 'drawings'}" in capsys.readouterr().out
    assert texts(file)["golden_source"] == source
    golden = golden_images(file)
    paths = [tmp_path / f"{number}.jpg" for number in range(8)]
    for path, image in zip(paths, golden, strict=True):
        path.write_bytes(image.jpeg)
        with Image.open(path) as picture:
            assert (picture.format, max(picture.size) >= 320, dict(picture.getexif())) == ("JPEG", True, {})
    predictions = load_model(run / "best.ckpt").predict(paths, top_k=10, num_workers=0)
    for image, prediction in zip(golden, predictions, strict=True):
        expected = [dict(prediction.top)[name] for name in ANIMALS10]
        np.testing.assert_allclose(image.probabilities, expected, atol=1e-6)


def test_golden_images_are_validation_images(run, tmp_path, tiny_tree):
    file = export_file.export(run / "best.ckpt", tmp_path / "m.onnx").path
    rows = list(csv.DictReader((run / "split.csv").open(newline="")))

    def colours(split: str) -> np.ndarray:
        return np.array([decode(tiny_tree / row["path"]).mean((0, 1)) for row in rows if row["split"] == split])

    for image in golden_images(file):
        colour = decode(image.jpeg).mean((0, 1))
        val, train = (np.abs(colours(split) - colour).max(1).min() for split in ("val", "train"))
        assert val < 1 and val < train


def test_without_the_split_golden_images_are_drawings(run, tmp_path, capsys):
    (run / "split.csv").unlink()
    file = tmp_path / "m.onnx"
    assert cli("export", run / "best.ckpt", "--output", file) == 0
    assert "the file contains 8 drawings" in capsys.readouterr().out
    assert cli("export", run / "best.ckpt", "--output", file, "--golden", "validation") == 2
    assert "golden=validation: no validation images are left" in capsys.readouterr().err
    assert texts(file)["golden_source"] == "practice"


def test_metrics_of_the_run_are_in_the_file(run, tmp_path, capsys):
    file = tmp_path / "m.onnx"
    assert cli("export", run / "best.ckpt", "--output", file) == 0
    assert texts(file)["metrics"] == "null" and "metrics in the file: none" in capsys.readouterr().out

    assert cli("validate", "--ckpt_path", run / "best.ckpt", "--data.num_workers", 0) == 0
    assert cli("export", run / "best.ckpt", "--output", file) == 0
    val = json.loads((run / "evaluation/val/metrics.json").read_text())
    found = json.loads(texts(file)["metrics"])
    assert found["split"] == "val" and found["images"] == val["images"]
    assert (found["acc"], found["macro_recall"]) == (val["acc"], val["macro_recall"])
    assert found["recall"] == {name: values["recall"] for name, values in val["per_class"].items()}
    assert (
        f"metrics in the file: {val['images']} val images: accuracy {val['acc']['value']:.3f}"
        in capsys.readouterr().out
    )

    (run / "evaluation/test").mkdir()
    (run / "evaluation/test/metrics.json").write_text(json.dumps(val | {"split": "test"}))
    assert cli("export", run / "best.ckpt", "--output", file) == 0
    assert json.loads(texts(file)["metrics"])["split"] == "test"


@pytest.mark.parametrize(
    "changes",
    [{"tta": "hflip"}, {"checkpoint": "last.ckpt"}, {"prior": "uniform"}, {"temperature": 3.0}, {"per_class": 1}, None],
)
def test_metrics_of_another_model_are_left_out(run, changes):
    facts = {"checkpoint": "best.ckpt", "tta": "none", "prior": None, "temperature": 1.25}
    interval = {"value": 0.5, "low": 0.4, "high": 0.6}
    found = {"split": "val", "images": 9, "acc": interval, "macro_recall": interval}
    found |= facts | {"per_class": {"cat": {"recall": interval}}}
    folder = run / "evaluation" / "val"
    folder.mkdir(parents=True)
    (folder / "metrics.json").write_text(json.dumps(found))
    assert run_metrics(run, facts)["recall"] == {"cat": interval}
    (folder / "metrics.json").write_text("{" if changes is None else json.dumps(found | changes))
    assert run_metrics(run, facts) is None


def test_package_versions_are_in_the_file(exported):
    versions = json.loads(exported.metadata["versions"])
    assert (versions["torch"], versions["Pillow"]) == (version("torch"), version("Pillow"))


# ---------------------------------------------------------------- refused


@pytest.fixture
def refused(capsys, checkpoint, tmp_path):
    """Return a function that exports, checks that this was refused and the old file kept, and returns the message."""

    def check(*args: object) -> str:
        file = tmp_path / "output" / "model.onnx"
        file.parent.mkdir()
        file.write_text("old")
        assert cli("export", "--ckpt_path", checkpoint, "--output", file, *args) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        assert [path.name for path in file.parent.iterdir()] == ["model.onnx"]
        assert file.read_text() == "old"
        return error.splitlines()[-1]

    return check


class OtherNet(torch.nn.Module):
    """A net whose outputs are shifted by one class."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        probabilities, logits, unknown_score = self.net(images)
        return probabilities.roll(1, dims=1), logits.roll(1, dims=1), unknown_score


def test_a_file_with_other_unknown_scores_is_refused(refused, monkeypatch):
    class OtherScores(OtherNet):
        def forward(self, images):
            probabilities, logits, unknown_score = self.net(images)
            return probabilities, logits, unknown_score + 0.01

    convert = onnx_file._convert
    monkeypatch.setattr(onnx_file, "_convert", lambda net, size: convert(OtherScores(net).eval(), size))
    assert "in unknown_score (allowed" in refused()


@pytest.mark.parametrize("kind", ["batch", "image"])
def test_a_file_that_differs_from_torch_is_refused(refused, monkeypatch, kind):
    convert = onnx_file._convert
    monkeypatch.setattr(onnx_file, "_convert", lambda net, size: convert(OtherNet(net).eval(), size))
    message = refused("--input", kind)
    assert "the exported file differs from torch by" in message
    assert "nothing was written" in message


def test_a_file_with_nan_outputs_is_refused(refused, monkeypatch):
    class NanNet(OtherNet):
        def forward(self, images):
            probabilities, *others = self.net(images)
            return probabilities * float("nan"), *others

    convert = onnx_file._convert
    monkeypatch.setattr(onnx_file, "_convert", lambda net, size: convert(NanNet(net).eval(), size))
    assert "differs from torch by nan" in refused()


@pytest.mark.parametrize("kind", ["absent", "empty", "file"])
def test_a_folder_without_images_is_refused(refused, tmp_path, kind):
    folder = tmp_path / "images"
    if kind == "empty":
        folder.mkdir()
    elif kind == "file":
        folder.write_text("text")
    assert f"image_folder='{folder}' is not a folder with images" in refused("--image_folder", folder)


@pytest.mark.parametrize("name", ["model", "model.csv", "best.ckpt"])
def test_another_kind_of_file_is_refused(checkpoint, tmp_path, capsys, name):
    assert cli("export", "--ckpt_path", checkpoint, "--output", tmp_path / name) == 2
    assert "does not end in .onnx" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_link_to_the_checkpoint_is_refused(checkpoint, tmp_path, capsys):
    before = checkpoint.read_bytes()
    (tmp_path / "model.onnx").symlink_to(checkpoint)
    assert cli("export", checkpoint, "--output", tmp_path / "model.onnx") == 2
    assert "is the checkpoint itself" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before


def test_a_terminal_without_arrows_gets_them_escaped(checkpoint, tmp_path, monkeypatch):
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", stdout)
    assert cli("export", checkpoint, "--output", tmp_path / "model.onnx") == 0
    assert rb"(B, 3, 16, 16) \u2192 probabilities" in stdout.buffer.getvalue()


def test_a_broken_image_is_named(refused, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "broken.jpg").touch()
    assert "broken.jpg" in refused("--image_folder", folder)


def test_an_export_replaces_the_old_file(checkpoint, tmp_path):
    file = tmp_path / "model.onnx"
    file.write_text("old")
    assert cli("export", "--ckpt_path", checkpoint, "--output", file) == 0
    onnx.checker.check_model(str(file))
