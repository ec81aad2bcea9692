"""Export as a folder for timm: what timm loads, agreement, refusals."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config

import animals_pl
from animals_pl.cli import main
from animals_pl.data.decode import decode
from animals_pl.data.resize import Resize
from animals_pl.deploy import timm_folder
from animals_pl.deploy.timm_folder import export_timm_folder
from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import Calibration
from animals_pl.models.registry import build_net
from animals_pl.training.trained import TrainedModel

NAMES = ["cane", "gatto", "red panda"]
STRETCH, CROP = Resize(), Resize("crop", "bicubic", 0.8)

CASES = {
    "squeeze-excite, no layer in between": ("efficientnet_lite0", 32, CROP),
    "classifier input behind conv_head": ("mobilenetv3_small_050", 32, STRETCH),
    "one image size": ("test_vit", 48, replace(STRETCH, interpolation="bicubic")),
    "1x1 convolution as classifier": ("test_resnet", 40, replace(CROP, interpolation="lanczos")),
    "nearest": ("test_efficientnet", 64, replace(STRETCH, interpolation="nearest")),
    "weights tag": ("mobilenetv3_small_050.lamb_in1k", 32, CROP),
}


def random_model(net: str, size: int, resize: Resize = STRETCH, tta: str = "none", **options: object) -> TrainedModel:
    """A model with random weights and without a dataset."""
    torch.manual_seed(0)
    module = build_net(net, len(NAMES), size, **({"features": "pre_logits"} | options)).eval()
    for layer in module.modules():  # a random head of a random backbone gives nearly the same logits for all images
        if isinstance(layer, torch.nn.Linear) and layer.out_features == len(NAMES):
            layer.weight.data *= 20
            layer.bias.data = torch.arange(3.0)
    hparams = {"net": net, "head": "linear", **options}
    return TrainedModel(module, NAMES, resize, size, tta, Calibration(temperature=3), hparams, {})


@pytest.mark.parametrize("case", CASES)
def test_timm_gives_the_same_logits_and_classes(case, tmp_path, tiny_tree):
    net, size, resize = CASES[case]
    model = random_model(net, size, resize)
    folder, _, difference = export_timm_folder(model, tmp_path / "folder", tiny_tree)
    assert sorted(file.name for file in tmp_path.rglob("*")) == ["config.json", "folder", "model.safetensors"]
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform = create_transform(**resolve_data_config({}, model=loaded))
    images = [decode(file) for file in sorted(tiny_tree.rglob("*.jpg"))]
    batch = torch.from_numpy(np.stack([resize(image, size) for image in images])).permute(0, 3, 1, 2)
    mean, std = (torch.tensor(loaded.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        expected = model.net(batch)
        found = loaded((batch / 255 - mean) / std)
        classes = torch.cat([loaded(transform(Image.fromarray(image))[None]) for image in images]).argmax(1)
    assert len(set(expected.argmax(1).tolist())) > 1 or expected.std(0).max() > 1e-3  # the images matter
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max().clamp(min=1)
    assert (classes == expected.argmax(1)).sum() >= len(images) - 1  # a pixel may decide
    assert difference <= 1e-4


def test_config_says_what_timm_and_transformers_read(tmp_path):
    export_timm_folder(random_model("mobilenetv3_small_050.lamb_in1k", 48), tmp_path / "folder")
    config = json.loads((tmp_path / "folder/config.json").read_text())
    assert config["architecture"] == "mobilenetv3_small_050"
    assert config["num_classes"] == 3
    assert config["label_names"] == NAMES
    assert config["label_descriptions"] == {"cane": "dog", "gatto": "cat"}
    assert "num_classes" not in config["model_args"]  # transformers passes it, too
    preprocessing = config["pretrained_cfg"]
    assert preprocessing["input_size"] == [3, 48, 48]
    assert (preprocessing["crop_mode"], preprocessing["crop_pct"]) == ("squash", 1.0)
    assert preprocessing["interpolation"] == "bilinear"
    assert preprocessing["mean"] == [0.485, 0.456, 0.406]
    assert not {"license", "tag", "hf_hub_id", "url", "file"} & preprocessing.keys()  # of the pretrained weights
    weights = tmp_path / "folder/model.safetensors"
    assert safetensors.torch.load_file(weights)["classifier.weight"].shape[0] == 3
    assert weights.stat().st_mode == (tmp_path / "folder/config.json").stat().st_mode


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (("shallownet", 16, {"features": "pooled"}), "model.net=shallownet is not a timm model"),
        (("mobilenetv3_small_050", 32, {"features": "pooled"}), "a layer between model.features=pooled and its"),
        (("mobilenetv3_small_050", 32, {"head": "dense"}), "timm's classifier is one layer, but model.head=dense has"),
        (("mobilenetv3_small_050", 32, {"tta": "hflip"}), "(tta=hflip). Pass tta=none"),
        (("levit_128s", 224, {}), "timm's classifier of levit_128s is not a single linear layer"),
    ],
    ids=["own net", "pooled", "dense", "tta", "two classifiers"],
)
def test_a_model_without_a_timm_form_is_refused(model, reason, tmp_path):
    net, size, options = model
    with pytest.raises(UsageError, match=r"^format=timm .*\.$") as refused:
        export_timm_folder(random_model(net, size, **options), tmp_path / "folder")
    assert reason in str(refused.value)
    assert list(tmp_path.iterdir()) == []


def test_test_time_augmentation_can_be_left_out(tmp_path):
    model = random_model("mobilenetv3_small_050", 32, tta="hflip")
    assert export_timm_folder(model, tmp_path / "folder", tta="none")[0].is_dir()


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        ({"crop_mode": "center"}, "resized pixels by"),
        ({"interpolation": "nearest"}, "resized pixels by"),
        ({"mean": [0.5, 0.5, 0.5]}, "resized pixels by"),
    ],
    ids=["crop", "interpolation", "mean"],
)
def test_other_preprocessing_is_noticed(spoil, reason, tmp_path, tiny_tree, monkeypatch):
    right = timm_folder._data_config
    monkeypatch.setattr(timm_folder, "_data_config", lambda model: right(model) | spoil)
    with pytest.raises(UsageError, match=reason):
        export_timm_folder(random_model("mobilenetv3_small_050", 32), tmp_path / "folder", tiny_tree)
    assert list(tmp_path.iterdir()) == []


def test_other_weights_are_noticed(tmp_path, monkeypatch):
    right = timm_folder.timm_model

    def wrong(model, tta):
        net = right(model, tta)
        net.classifier.bias.data += 1e-2
        return net

    monkeypatch.setattr(timm_folder, "timm_model", wrong)
    with pytest.raises(UsageError, match=r"logits by .* nothing was written"):
        export_timm_folder(random_model("mobilenetv3_small_050", 32), tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def checkpoint(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    data = ["--data.root", tiny_tree, "--data.size", 32, "--data.batch_size", 16, "--data.num_workers", 0]
    model = ["--model.net", "mobilenetv3_small_050", "--model.features", "pre_logits", "--model.freeze", "true"]
    trainer = ["--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    assert main([str(arg) for arg in ["fit", *data, *model, *trainer, "--model.lr", 1]]) == 0
    return folder / "run" / "version_0" / "best.ckpt"


def test_command_writes_a_folder_and_says_so(checkpoint, tmp_path, capsys):
    assert main(["export", str(checkpoint), "--format", "timm", "--output", str(tmp_path / "new/folder")]) == 0
    out = capsys.readouterr().out
    assert f"{tmp_path}/new/folder written (" in out
    assert "verified on 16 images of" in out
    loaded = timm.create_model(f"local-dir:{tmp_path}/new/folder", pretrained=True)
    assert loaded.num_classes == 10


def test_python_returns_the_folder(checkpoint, tmp_path):
    exported = animals_pl.export(checkpoint, tmp_path / "folder", format="timm")
    assert exported.path == tmp_path / "folder"
    assert exported.difference <= 1e-4


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--prior", "uniform"], "prior=uniform has no effect with format=timm"),
        (["--input", "image"], "input=image has no effect with format=timm"),
        (["--golden", "practice"], "golden=practice has no effect with format=timm"),
        (["--weights", "int8"], "weights=int8 has no effect with format=timm"),
        (["--output", "model.onnx"], "output='model.onnx' is the name of a file"),
        (["--output", "full"], "output='full' exists and is not an empty folder"),
        (["--output", "full/file"], "output='full/file' exists and is not an empty folder"),
        (["--image_folder", "nowhere"], "image_folder='nowhere' is not a folder with images"),
        (["--tta", "hflip"], "(tta=hflip). Pass tta=none"),
        (["--format", "keras"], "format=keras is invalid"),
    ],
)
def test_wrong_options_are_refused_in_one_line(args, reason, checkpoint, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").touch()
    assert main(["export", str(checkpoint), "--format", "timm", "--output", "folder", *args]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert reason in error
    assert [file.name for file in tmp_path.iterdir()] == ["full"]


def test_an_empty_folder_and_a_link_are_filled(checkpoint, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    assert main(["export", str(checkpoint), "--format", "timm", "--output", str(tmp_path / "link")]) == 0
    assert (tmp_path / "link").is_symlink()
    assert sorted(file.name for file in (tmp_path / "empty").iterdir()) == ["config.json", "model.safetensors"]
    shutil.rmtree(tmp_path / "empty")
