"""Checkpoint → one ONNX file, verified against torch before it is in place."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import animals_pl
from animals_pl.data.catalog import ANIMALS10, english_name, find_images
from animals_pl.data.decode import Resize, decode, decodes
from animals_pl.data.sources.practice.practice_set import draw_animal
from animals_pl.errors import UsageError
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.training.checkpoint import load_checkpoint
from animals_pl.training.classifier import AnimalClassifier

TOLERANCE = 1e-4
"""Largest difference of a probability between torch and the exported file that passes."""
NUM_IMAGES = 16


class ExportedNet(nn.Module):
    """The plain net with probabilities beside the logits.

    Args:
        net: (B, 3, S, S) pixels → (B, C) logits.
        tta: Test-time augmentation that is part of the graph.
    """

    def __init__(self, net: nn.Module, tta: TTA = "none") -> None:
        super().__init__()
        self.net = net
        self.tta = tta

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Turn uint8 RGB images (B, 3, S, S) into probabilities (B, C) and logits (B, C)."""
        logits = forward_tta(self.net, images, self.tta)
        return logits.softmax(1), logits


def export(ckpt_path: str, output: str = "model.onnx", image_folder: str | None = None, tta: TTA | None = None) -> None:
    """Write a checkpoint's net as one ONNX file that needs nothing else.

    The file takes ``images``, uint8 RGB (B, 3, S, S) for any B, normalises them itself, and gives
    ``probabilities`` and ``logits`` (B, C). Its metadata holds class names, size and resize rule. It is
    compared with torch on images before it takes its place.

    Args:
        ckpt_path: A run's best.ckpt or last.ckpt.
        output: The ONNX file to write.
        image_folder: Folder of images to verify on; null: the dataset that the checkpoint was trained on, or
            practice pictures where that is gone.
        tta: Test-time augmentation to include. "hflip" doubles the time per image. Default: the run's model.tta.
    """
    checkpoint = load_checkpoint(ckpt_path)
    data = checkpoint["datamodule_hyper_parameters"]
    model = AnimalClassifier.load_from_checkpoint(ckpt_path, map_location="cpu", weights_only=True)
    resize = Resize(data["resize"], data["interpolation"], data["crop_pct"])
    size = model.hparams["input_size"]
    images, source = _verification_images(image_folder, data["root"], resize, size)
    target = Path(output)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        partial = Path(folder) / target.name
        net = ExportedNet(model.net, model.hparams["tta"] if tta is None else tta).eval()
        _write(net, images, partial, _metadata(model, data, ckpt_path))
        difference = _verify(net, images, partial)
        partial.replace(target)
    megabytes = target.stat().st_size / 1e6
    print(
        f"{target} written ({megabytes:.1f} MB): images uint8 (B, 3, {size}, {size}) → probabilities, logits "
        f"(B, {len(model.hparams['class_names'])})\nverified on {len(images)} {source}: "
        f"probabilities differ from torch by at most {difference:.1e}"
    )


def _verification_images(image_folder: str | None, root: str, resize: Resize, size: int) -> tuple[Tensor, str]:
    """Return (N, 3, S, S) uint8 images and what they are."""
    folder = Path(image_folder or root)
    paths = find_images(folder) if folder.is_dir() else []
    if image_folder and not paths:
        raise UsageError(f"image_folder={image_folder!r} is not a folder with images; pass one, or leave it out")
    chosen = [paths[index] for index in np.linspace(0, max(0, len(paths) - 1), NUM_IMAGES).astype(int) if paths]
    arrays = [decode(path, size) for path in chosen if decodes(path)]
    source = f"images of {folder}"
    if image_folder and not arrays:
        raise UsageError(
            f"image_folder={image_folder!r}: none can be decoded (such as {chosen[0]}); mend or remove them"
        )
    if not arrays:
        names = list(ANIMALS10)
        drawings = [draw_animal(names[i % len(names)], np.random.default_rng(i)) for i in range(NUM_IMAGES)]
        arrays, source = [np.asarray(drawing) for drawing in drawings], "practice pictures"
    batch = np.stack([resize(array, size).transpose(2, 0, 1) for array in arrays])
    return torch.from_numpy(batch), source


def _metadata(model: AnimalClassifier, data: dict[str, Any], ckpt_path: str) -> dict[str, str]:
    """Return what deployment has to know, as ONNX stores it: text by key, lists as JSON."""
    names: list[str] = model.hparams["class_names"]
    normalize = model.net.normalize
    values = {
        "class_names": names,
        "english_names": [english_name(name) for name in names],
        "input_size": model.hparams["input_size"],
        "resize": data["resize"],
        "interpolation": data["interpolation"],
        "crop_pct": data["crop_pct"],
        "mean": [round(value / 255, 6) for value in normalize.mean.flatten().tolist()],
        "std": [round(value / 255, 6) for value in normalize.std.flatten().tolist()],
        "net": model.hparams["net"],
        "training_run": "/".join(Path(ckpt_path).resolve().parts[-3:]),
        "animals_pl_version": animals_pl.__version__,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _write(net: nn.Module, images: Tensor, file: Path, metadata: dict[str, str]) -> None:
    program = torch.onnx.export(
        net,
        (images[:2],),
        input_names=["images"],
        output_names=["probabilities", "logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # None is for the old exporter
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    onnx.save_model(proto, file)


def _verify(net: nn.Module, images: Tensor, file: Path) -> float:
    """Return the largest difference of a probability between torch and the file.

    Raises:
        UsageError: The difference is above the tolerance, in a batch or image by image.
    """
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    with torch.inference_mode():
        expected = net(images)[0].numpy()
    batched = session.run(["probabilities"], {"images": images.numpy()})[0]
    single = np.concatenate([session.run(["probabilities"], {"images": image[None].numpy()})[0] for image in images])
    difference = max(float(np.abs(found - expected).max()) for found in (batched, single))
    if not difference <= TOLERANCE:
        raise UsageError(
            f"the exported file differs from torch by {difference:.1e} in a probability (allowed: {TOLERANCE:.0e}), "
            "so nothing was written; update torch, onnxscript and onnxruntime, or report the net that this happens with"
        )
    return difference
