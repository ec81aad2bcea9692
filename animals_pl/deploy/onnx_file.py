"""Write a trained model as a sealed ONNX file: graph, metadata, golden images and a digest of everything."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

import animals_pl
from animals_pl.data.catalog import Catalog, english_name
from animals_pl.data.decode import decode
from animals_pl.deploy.engines import OUTPUTS
from animals_pl.deploy.golden import GoldenSource, golden_jpegs
from animals_pl.deploy.image_input import with_image_input
from animals_pl.deploy.int8 import quantise_weights
from animals_pl.deploy.int8_comparison import Int8Comparison, LoadedFile, compare, validation_images
from animals_pl.deploy.metadata import GoldenImage, InputKind, WeightsKind, as_text, digest
from animals_pl.deploy.run_facts import package_versions, run_metrics
from animals_pl.deploy.runtime import Identifier
from animals_pl.errors import UsageError
from animals_pl.evaluation.calibration import Calibration
from animals_pl.files import atomic_write, message_stream, show
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.training.calibration import energy
from animals_pl.training.trained import TrainedModel

TOLERANCES: dict[InputKind, float] = {"batch": 1e-4, "image": 0.05}
"""Maximum accepted difference between torch and the exported file: of a probability, and of an unknown score as a
fraction of the largest. A graph that resizes differs from Pillow in a few pixels: in 3,292 Animals-10 images, the
largest difference was 0.027, and 99.9 % were below 0.008."""

GOLDEN_TOLERANCE = 0.01
"""Maximum accepted difference of a probability from those of the golden images, on any machine: JPEG decoders may
differ by a level or two, and GPUs may round to fewer bits."""


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
        return probabilities, logits, energy(logits, self.training_shift)


@dataclass(frozen=True)
class Variant:
    """Options of the file to write; see :func:`animals_pl.deploy.export.export`."""

    tta: TTA
    prior: str | None
    input: InputKind
    golden: GoldenSource | None
    weights: WeightsKind


@dataclass(frozen=True)
class OnnxFile:
    """A written file.

    Attributes:
        metadata: Its metadata.
        size: In bytes.
        difference: Maximum difference of a probability from torch, with float32 weights.
        comparison: With int8 weights: the comparison with float32.
    """

    metadata: dict[str, Any]
    size: int
    difference: float
    comparison: Int8Comparison | None


def write_onnx(target: Path, ckpt_path: Path, model: TrainedModel, images: list[bytes], variant: Variant) -> OnnxFile:
    """Write a model and compare the file with torch before it replaces an existing one.

    Args:
        target: The file, or a stream.
        ckpt_path: Checkpoint of the model.
        model: The model, loaded with the variant's prior.
        images: Contents of image files to verify on.
        variant: What is written.

    Raises:
        UsageError: The file differs from torch, or the int8 variant is worse.
    """
    net = ExportedNet(model.net, variant.tta, model.calibration).eval()
    run = ckpt_path.resolve().parent
    validation = validation_images(model, run) if variant.weights == "int8" else None
    jpegs, source = golden_jpegs(variant.golden, model.data_hparams.get("root"), run, model.size)
    expected, _ = _torch_outputs(net, [decode(jpeg, model.size) for jpeg in jpegs], model)
    metadata = _metadata(model, ckpt_path, variant) | {"golden_source": source} | _golden(jpegs, expected)
    proto = _graph(net, model, variant.input)
    with atomic_write(target) as partial, redirect_stdout(message_stream(target)):
        partial.write_bytes(seal(proto, metadata))
        difference = _verify(partial, net, [*images, *jpegs], model)
        comparison = None
        if validation:
            proto, comparison = _write_int8(partial, proto, metadata, validation)
        _write_own_probabilities(partial, proto, metadata, jpegs)
        return OnnxFile(metadata, partial.stat().st_size, difference, comparison)


def _metadata(model: TrainedModel, ckpt_path: Path, variant: Variant) -> dict[str, Any]:
    """Metadata of a file with float32 weights, without golden images."""
    net: Any = model.net
    mean, std = net.normalize.mean_std()
    run, temperature = ckpt_path.resolve().parent, model.calibration.temperature
    evaluated = {"checkpoint": ckpt_path.name, "tta": variant.tta, "prior": variant.prior, "temperature": temperature}
    return {
        "input": variant.input,
        "weights": "float32",
        "golden_tolerance": GOLDEN_TOLERANCE,
        "class_names": model.class_names,
        "english_names": [english_name(name) for name in model.class_names],
        "input_size": model.size,
        "resize": model.resize.rule,
        "interpolation": model.resize.interpolation,
        "crop_pct": model.resize.crop_pct,
        "tta": variant.tta,
        "temperature": temperature,
        "log_shift": np.broadcast_to(model.calibration.log_shift, len(model.class_names)).tolist(),
        "unknown_threshold": model.calibration.unknown_threshold,
        "mean": mean,
        "std": std,
        "net": model.hparams["net"],
        "metrics": run_metrics(run, evaluated),
        "training_run": "/".join(ckpt_path.resolve().parts[-3:]),
        "animals_pl_version": animals_pl.__version__,
        "versions": package_versions(),
    }


def _golden(jpegs: list[bytes], probabilities: np.ndarray) -> dict[str, Any]:
    images = [GoldenImage(jpeg, row).as_json() for jpeg, row in zip(jpegs, probabilities, strict=True)]
    return {"golden_images": images}


def _graph(net: nn.Module, model: TrainedModel, input: InputKind) -> onnx.ModelProto:
    proto = _convert(net, model.size)
    return proto if input == "batch" else with_image_input(proto, model.resize, model.size)


def _convert(net: nn.Module, size: int) -> onnx.ModelProto:
    program = torch.onnx.export(
        net,
        (torch.zeros(2, 3, size, size, dtype=torch.uint8),),  # two, because torch.export would fix a batch size of 1
        input_names=["images"],
        output_names=["probabilities", "logits", "unknown_score"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    assert program is not None  # only the legacy exporter returns None
    proto = program.model_proto  # the property returns a new object each time
    graph = proto.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.input, *graph.output):
        part.ClearField("metadata_props")  # stack traces: 0.3 MB for a MobileNet, with paths of this machine
    return proto


def seal(proto: onnx.ModelProto, metadata: dict[str, Any]) -> bytes:
    """The content of a file with its metadata and the digest of everything else."""
    onnx.checker.check_model(proto)
    onnx.helper.set_model_props(proto, as_text(metadata))
    sha256 = digest(proto.SerializeToString())
    proto.metadata_props.add(key="sha256", value=sha256)
    return proto.SerializeToString()


def _torch_outputs(net: nn.Module, images: list[np.ndarray], model: TrainedModel) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, C) and unknown scores (N,) that torch gives for images (H, W, 3)."""
    batch = np.stack([model.resize(image, model.size).transpose(2, 0, 1) for image in images])
    with torch.inference_mode():
        probabilities, _, scores = net(torch.from_numpy(batch))
    return probabilities.numpy(), scores.numpy()


def _verify(file: Path, net: nn.Module, contents: list[bytes], model: TrainedModel) -> float:
    """Maximum difference of a probability between torch and the file, in a batch and image by image."""
    identifier = Identifier(file, self_check=False)
    kind = identifier.metadata.input
    images = [decode(content, model.size if kind == "batch" else None) for content in contents]
    one_by_one = [np.concatenate(parts) for parts in zip(*map(identifier.outputs, images), strict=True)]
    outputs = zip(OUTPUTS, _torch_outputs(net, images, model), identifier.outputs(images), one_by_one, strict=True)
    differences = {}
    for name, expected, *found in outputs:
        difference = np.abs(np.stack(found) - expected).max() / max(1, np.abs(expected).max())
        if not difference <= TOLERANCES[kind]:  # also true for NaN
            raise UsageError(
                f"the exported file differs from torch by {difference:.1e} in {name} (allowed: {TOLERANCES[kind]:g}), "
                "so nothing was written. Update torch, onnxscript and onnxruntime, or report an issue."
            )
        differences[name] = float(difference)
    return differences["probabilities"]


def _write_int8(
    file: Path, proto: onnx.ModelProto, metadata: dict[str, Any], validation: Catalog
) -> tuple[onnx.ModelProto, Int8Comparison]:
    """Replace a verified file by its int8 variant; print the comparison and add it to the metadata.

    Raises:
        UsageError: The variant is worse.
    """
    float32, proto = LoadedFile.load(file), quantise_weights(proto)
    metadata["weights"] = "int8"
    file.write_bytes(seal(proto, metadata))
    comparison = compare(float32, LoadedFile.load(file), validation)
    show(comparison.table())
    comparison.require_recall()
    metadata["int8_comparison"] = comparison.as_json()
    return proto, comparison


def _write_own_probabilities(file: Path, proto: onnx.ModelProto, metadata: dict[str, Any], jpegs: list[bytes]) -> None:
    """Give the golden images the file's own probabilities.

    A graph that resizes or has int8 weights differs more from torch than from itself on another machine.
    """
    identifier = Identifier(file, self_check=False)
    own = identifier.probabilities([decode(jpeg, metadata["input_size"]) for jpeg in jpegs])
    metadata |= _golden(jpegs, own)
    file.write_bytes(seal(proto, metadata))
    Identifier(file)  # compares its golden images
