"""Export a checkpoint to an ONNX file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

import animals_pl
from animals_pl.data.catalog import ANIMALS10, english_name, find_images
from animals_pl.data.decode import decode, decodes
from animals_pl.data.sources.practice.practice_set import draw_animal
from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import Calibration
from animals_pl.files import atomic_write, is_stream, message_stream, printable, require_writable
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.training.trained import TrainedModel, load_model

TOLERANCE = 1e-4
"""Maximum accepted difference between torch and the exported file: of a probability, and of an unknown score as a
fraction of the largest."""

NUM_IMAGES = 16
"""Number of images to verify on."""


class ExportedNet(nn.Module):
    """A net with test-time augmentation that returns calibrated probabilities, logits and unknown scores."""

    log_shift: Tensor
    training_shift: Tensor

    def __init__(self, net: nn.Module, tta: TTA = "none", calibration: Calibration | None = None) -> None:
        super().__init__()
        calibration = calibration or Calibration()
        self.net = net
        self.tta = tta
        self.temperature = calibration.temperature
        self.register_buffer("log_shift", torch.as_tensor(calibration.log_shift, dtype=torch.float32))
        self.register_buffer("training_shift", torch.as_tensor(calibration.training_shift, dtype=torch.float32))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probabilities (B, C), logits (B, C) and unknown scores (B,) of uint8 RGB images (B, 3, S, S)."""
        logits = forward_tta(self.net, images, self.tta)
        probabilities = (logits / self.temperature + self.log_shift).softmax(1)
        return probabilities, logits, -(logits + self.training_shift).logsumexp(1)


@dataclass(frozen=True)
class Export:
    """A verified ONNX file."""

    path: Path
    verified_on: str
    """The images on which the file was compared with torch."""
    difference: float
    """Maximum difference of a probability between torch and the file."""


def export(
    ckpt_path: str | Path,
    output: str | Path = "model.onnx",
    image_folder: str | Path | None = None,
    tta: TTA | None = None,
    prior: str | None = None,
) -> Export:
    """Export a checkpoint to a single, self-contained ONNX file.

    Input ``images``: uint8 RGB (B, 3, S, S) for any B. Outputs: ``probabilities`` (calibrated) and ``logits`` (B, C),
    ``unknown_score`` (B,). Normalisation is part of the graph. Class names, size, resize rule, test-time augmentation
    and the threshold of the score are in the metadata. The file is compared with torch on images before it replaces an
    existing one.

    Args:
        ckpt_path: The best.ckpt or last.ckpt of a run.
        output: The ONNX file to write.
        image_folder: Folder of images to verify on. Default: the training data, or generated images if it no longer
            exists.
        tta: Test-time augmentation to include. "hflip" doubles the time per image. Default: the run's model.tta.
        prior: Class frequencies expected in use: train, uniform, or a CSV file with the columns class and frequency.
            Default: the model's own prior, without adjustment.

    Returns:
        The file's path and the result of the comparison.

    Raises:
        UsageError: The checkpoint, the output or the folder cannot be used, or the file differs from torch.

    Example:
        >>> exported = export("checkpoints/my_animals/version_0/best.ckpt", "model.onnx")
        model.onnx written (...
        >>> exported.path.name, exported.difference < 1e-4
        ('model.onnx', True)
    """
    if not isinstance(output, str | Path):
        raise UsageError(f"output={output!r} is not a path. Pass the ONNX file to write.")
    target = Path(output)
    require_writable(target)
    if not is_stream(target) and target.suffix.lower() != ".onnx":
        raise UsageError(f"output={str(output)!r} does not end in .onnx. Choose another name.")
    if target.resolve() == Path(str(ckpt_path)).resolve():
        raise UsageError(f"output={str(output)!r} is the checkpoint itself. Choose another output.")
    model = load_model(ckpt_path, prior=prior)
    images, source = _verification_images(image_folder, model)
    tta = tta or model.tta
    net = ExportedNet(model.net, tta, model.calibration).eval()
    with atomic_write(target) as partial:
        _write(net, images, partial, _metadata(model, tta, Path(ckpt_path)))
        difference = _verify(net, images, partial)
        size = partial.stat().st_size
    verified_on = f"{len(images)} {source}"
    print(
        f"{printable(target)} written ({size / 1e6:.1f} MB): images uint8 (B, 3, {model.size}, {model.size}) → "
        f"probabilities, logits (B, {len(model.class_names)}), unknown_score (B,)\n"
        f"verified on {printable(verified_on)}: probabilities differ from torch by at most {difference:.1e}",
        file=message_stream(target),
    )
    return Export(target, verified_on, difference)


def _verification_images(image_folder: str | Path | None, model: TrainedModel) -> tuple[Tensor, str]:
    folder = image_folder or model.data_hparams.get("root")
    paths = find_images(Path(folder)) if folder and Path(folder).is_dir() else []
    positions = np.linspace(0, len(paths) - 1, min(NUM_IMAGES, len(paths))).astype(int)
    arrays = [decode(paths[index], model.size) for index in positions if decodes(paths[index])]
    source = f"images of {folder}"
    if image_folder and not arrays:
        fault = f"has no image that can be decoded (such as {paths[0]})" if paths else "is not a folder with images"
        raise UsageError(f"image_folder={str(image_folder)!r} {fault}. Choose another, or remove the argument.")
    if not arrays:
        names = list(ANIMALS10)
        drawings = [draw_animal(names[i % len(names)], np.random.default_rng(i)) for i in range(NUM_IMAGES)]
        arrays, source = [np.asarray(drawing) for drawing in drawings], "generated images"
    batch = np.stack([model.resize(array, model.size).transpose(2, 0, 1) for array in arrays])
    return torch.from_numpy(batch), source


def _metadata(model: TrainedModel, tta: TTA, ckpt_path: Path) -> dict[str, str]:
    """Metadata of the ONNX file. Values are text; numbers and lists are JSON."""
    normalize: Any = model.net.normalize
    values = {
        "class_names": model.class_names,
        "english_names": [english_name(name) for name in model.class_names],
        "input_size": model.size,
        "resize": model.resize.rule,
        "interpolation": model.resize.interpolation,
        "crop_pct": model.resize.crop_pct,
        "tta": tta,
        "temperature": model.calibration.temperature,
        "log_shift": np.broadcast_to(model.calibration.log_shift, len(model.class_names)).tolist(),
        "unknown_threshold": model.calibration.unknown_threshold,
        "mean": [round(value / 255, 6) for value in normalize.mean.flatten().tolist()],
        "std": [round(value / 255, 6) for value in normalize.std.flatten().tolist()],
        "net": model.hparams["net"],
        "training_run": "/".join(ckpt_path.resolve().parts[-3:]),
        "animals_pl_version": animals_pl.__version__,
    }
    return {key: value if isinstance(value, str) else json.dumps(value) for key, value in values.items()}


def _write(net: nn.Module, images: Tensor, file: Path, metadata: dict[str, str]) -> None:
    program = torch.onnx.export(
        net,
        (images[[0, -1]],),  # two, because torch.export would fix a batch size of 1
        input_names=["images"],
        output_names=["probabilities", "logits", "unknown_score"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # only the legacy exporter returns None
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata)
    onnx.checker.check_model(proto)
    onnx.save_model(proto, file)


def _verify(net: nn.Module, images: Tensor, file: Path) -> float:
    """Maximum difference of a probability between torch and the file, in a batch and image by image."""
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    checked = ["probabilities", "unknown_score"]

    def run(batch: Tensor) -> list[np.ndarray]:
        return session.run(checked, {"images": batch.numpy()})

    with torch.inference_mode():
        probabilities, _, unknown_scores = net(images)
    one_by_one = [np.concatenate(found) for found in zip(*map(run, images.split(1)), strict=True)]
    largest = {}
    for name, expected, *found in zip(checked, (probabilities, unknown_scores), run(images), one_by_one, strict=True):
        difference = np.abs(np.stack(found) - expected.numpy()).max() / max(1, float(expected.abs().max()))
        if not difference <= TOLERANCE:  # also true for NaN
            raise UsageError(
                f"the exported file differs from torch by {difference:.1e} in {name} (allowed: {TOLERANCE:.0e}), "
                "so nothing was written. Update torch, onnxscript and onnxruntime, or report an issue."
            )
        largest[name] = float(difference)
    return largest["probabilities"]
