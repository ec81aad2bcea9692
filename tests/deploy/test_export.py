"""Export to ONNX: contents, agreement with torch, refusals."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import dataclass, replace
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
    assert exported.difference <= export_file.TOLERANCE


def test_verification_uses_the_size_of_the_net(checkpoint, tiny_tree, monkeypatch, tmp_path):
    seen = []
    verify = export_file._verify
    monkeypatch.setattr(
        export_file, "_verify", lambda net, images, *rest: seen.append(images) or verify(net, images, *rest)
    )
    assert cli("export", "--ckpt_path", checkpoint, "--output", tmp_path / "m.onnx") == 0
    (images,) = seen
    assert (images.dtype, tuple(images.shape)) == (torch.uint8, (16, 3, 16, 16))
    picture = Image.fromarray(decode(sorted(tiny_tree.rglob("*.jpg"))[0], 16))
    first = np.asarray(picture.resize((16, 16), Image.Resampling.BILINEAR))
    assert np.array_equal(images[0].numpy(), first.transpose(2, 0, 1))


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

    write = export_file._write
    monkeypatch.setattr(export_file, "_write", lambda net, *rest: write(OtherScores(net).eval(), *rest))
    assert "in unknown_score (allowed" in refused()


def test_a_file_that_differs_from_torch_is_refused(refused, monkeypatch):
    write = export_file._write
    monkeypatch.setattr(export_file, "_write", lambda net, *rest: write(OtherNet(net).eval(), *rest))
    message = refused()
    assert "the exported file differs from torch by" in message
    assert "nothing was written" in message


def test_a_file_with_nan_outputs_is_refused(refused, monkeypatch):
    class NanNet(OtherNet):
        def forward(self, images):
            probabilities, *others = self.net(images)
            return probabilities * float("nan"), *others

    write = export_file._write
    monkeypatch.setattr(export_file, "_write", lambda net, *rest: write(NanNet(net).eval(), *rest))
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
