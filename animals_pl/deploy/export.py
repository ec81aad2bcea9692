"""Export a checkpoint to an ONNX file."""

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
from animals_pl.data.catalog import Catalog, english_name, find_images
from animals_pl.data.decode import decode, decodes
from animals_pl.deploy.golden import GoldenSource, drawings, golden_jpegs, spread
from animals_pl.deploy.image_input import with_image_input
from animals_pl.deploy.inference_time import EngineTimes, measure_engines
from animals_pl.deploy.int8 import quantise_weights
from animals_pl.deploy.int8_comparison import Int8Comparison, LoadedFile, compare, validation_images
from animals_pl.deploy.metadata import GoldenImage, InputKind, WeightsKind, as_text, digest
from animals_pl.deploy.run_facts import package_versions, run_metrics
from animals_pl.deploy.runtime import OUTPUTS, Identifier
from animals_pl.errors import UsageError, require_types
from animals_pl.evaluation.calibration import Calibration
from animals_pl.files import atomic_write, is_stream, message_stream, printable, require_writable, show
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.training.cpu import cpu_name, cpu_vectors
from animals_pl.training.trained import TrainedModel, load_model

TOLERANCES: dict[InputKind, float] = {"batch": 1e-4, "image": 0.05}
"""Maximum accepted difference between torch and the exported file: of a probability, and of an unknown score as a
fraction of the largest. A graph that resizes differs from Pillow in a few pixels: in 3,292 Animals-10 images, the
largest difference was 0.027, and 99.9 % were below 0.008."""

GOLDEN_TOLERANCES: dict[InputKind, float] = {"batch": 0.01, "image": 0.05}
"""Maximum accepted difference of a probability from those of the golden images, on any machine: JPEG decoders may
differ by a level or two, and GPUs may round to fewer bits."""

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
    """Maximum difference of a probability between torch and the file, with float32 weights."""
    comparison: Int8Comparison | None = None
    """With int8 weights: what they change."""


def export(
    ckpt_path: str | Path,
    output: str | Path = "model.onnx",
    image_folder: str | Path | None = None,
    tta: TTA | None = None,
    prior: str | None = None,
    input: InputKind = "batch",
    golden: GoldenSource | None = None,
    weights: WeightsKind = "float32",
    benchmark: bool = False,
) -> Export:
    """Export a checkpoint to a single, self-contained ONNX file.

    Input ``images``: uint8 RGB (B, 3, S, S) for any B. Outputs: ``probabilities`` (calibrated) and ``logits`` (B, C),
    ``unknown_score`` (B,). Normalisation is part of the graph. The metadata has the class names, the preprocessing, the
    threshold of the score, metrics of the run, and 8 golden images with the probabilities that the file must give for
    them, which ``Identifier`` checks when it loads the file. The file is compared with torch on images before it
    replaces an existing one.

    Args:
        ckpt_path: The best.ckpt or last.ckpt of a run.
        output: The ONNX file to write.
        image_folder: Folder of images to verify on. Default: the training data, or generated images if it no longer
            exists.
        tta: Test-time augmentation to include. "hflip" doubles the time per image. Default: the run's model.tta.
        prior: Class frequencies expected in use: train, uniform, or a CSV file with the columns class and frequency.
            Default: the model's own prior, without adjustment.
        input: "batch" for resized images. "image" for one decoded image (H, W, 3) of any size, which the graph resizes.
        golden: Golden images: 8 validation images of the run, or 8 drawings ("practice") where photographs must not be
            passed on. Default: validation, or practice if the validation images no longer exist.
        weights: "int8" for a third of the size; refused if validation macro recall falls by more than 0.5 points.
        benchmark: Measure the installed engines with the file on this CPU, and name the quickest.

    Returns:
        The file's path and the result of the comparison.

    Raises:
        UsageError: The checkpoint, the output or the folder cannot be used, or the file differs from torch.
    """
    require_types(export, {"tta": tta, "input": input, "golden": golden, "weights": weights, "benchmark": benchmark})
    target = _require_output(output, ckpt_path, benchmark)
    model = load_model(ckpt_path, prior=prior)
    net = ExportedNet(model.net, tta or model.tta, model.calibration).eval()
    run = Path(ckpt_path).resolve().parent
    validation = validation_images(model, run) if weights == "int8" else None
    images, source = _verification_images(image_folder, model)
    metadata = _metadata(model, net.tta, Path(ckpt_path), prior, input) | _golden_metadata(golden, net, model, run)
    proto = _graph(net, model, input)
    with atomic_write(target) as partial, redirect_stdout(message_stream(target)):
        partial.write_bytes(seal(proto, metadata))
        difference = _verify(partial, net, images, model)
        comparison = _write_int8(partial, proto, metadata, validation) if validation else None
        size = partial.stat().st_size
    exported = Export(target, f"{len(images)} {source}", difference, comparison)
    print(_summary(exported, size, metadata), file=message_stream(target))
    if benchmark:
        _print_times(measure_engines(target))
    return exported


def _print_times(times: EngineTimes) -> None:
    show(times.table())
    for engine, fault in times.faults.items():
        print(printable(f"{engine} was not measured: {fault}"))
    vectors = ", ".join(cpu_vectors()) or "no vector instructions known"
    print(f"quickest on this CPU, {cpu_name()} ({vectors}): engine={times.quickest}")


def _summary(exported: Export, size: int, metadata: dict[str, Any]) -> str:
    """What was written, in the lines that are printed."""
    side, classes, metrics = metadata["input_size"], len(metadata["class_names"]), metadata["metrics"]
    shape = "image uint8 (H, W, 3)" if metadata["input"] == "image" else f"images uint8 (B, 3, {side}, {side})"
    measured = "none, since this checkpoint was not evaluated (animals_pl test)"
    if metrics:
        acc, recall = metrics["acc"]["value"], metrics["macro_recall"]["value"]
        measured = f"{metrics['images']:,} {metrics['split']} images: accuracy {acc:.3f}, macro recall {recall:.3f}"
    golden = "validation images" if metadata["golden_source"] == "validation" else "drawings"
    before = "before the weights became int8, " if exported.comparison else ""
    return (
        f"{printable(exported.path)} written ({size / 1e6:.1f} MB): {shape} → probabilities, logits (B, {classes}), "
        f"unknown_score (B,)\n"
        f"{before}verified on {printable(exported.verified_on)}: probabilities differ from torch by at most "
        f"{exported.difference:.1e}\nmetrics in the file: {measured}\n"
        f"the file contains {len(metadata['golden_images'])} {golden}, to check it when it is loaded (--golden)"
    )


def _require_output(output: str | Path, ckpt_path: str | Path, benchmark: bool) -> Path:
    if not isinstance(output, str | Path):
        raise UsageError(f"output={output!r} is not a path. Pass the ONNX file to write.")
    target = Path(output)
    require_writable(target)
    if benchmark and is_stream(target):
        raise UsageError(f"benchmark=true reads the file again, but output={str(output)!r} is a stream. Name a file.")
    if not is_stream(target) and target.suffix.lower() != ".onnx":
        raise UsageError(f"output={str(output)!r} does not end in .onnx. Choose another name.")
    if target.resolve() == Path(str(ckpt_path)).resolve():
        raise UsageError(f"output={str(output)!r} is the checkpoint itself. Choose another output.")
    return target


def _verification_images(image_folder: str | Path | None, model: TrainedModel) -> tuple[list[bytes], str]:
    """Contents of image files to verify on, and where they come from."""
    folder = image_folder or model.data_hparams.get("root")
    paths = find_images(Path(folder)) if folder and Path(folder).is_dir() else []
    contents = [path.read_bytes() for path in spread(paths, NUM_IMAGES) if decodes(path)]
    if image_folder and not contents:
        fault = f"has no image that can be decoded (such as {paths[0]})" if paths else "is not a folder with images"
        raise UsageError(f"image_folder={str(image_folder)!r} {fault}. Choose another, or remove the argument.")
    return (contents, f"images of {folder}") if contents else (drawings(NUM_IMAGES), "generated images")


def _metadata(model: TrainedModel, tta: TTA, ckpt_path: Path, prior: str | None, input: InputKind) -> dict[str, Any]:
    """Metadata of a file with float32 weights, without golden images."""
    normalize: Any = model.net.normalize
    run, temperature = ckpt_path.resolve().parent, model.calibration.temperature
    evaluated = {"checkpoint": ckpt_path.name, "tta": tta, "prior": prior, "temperature": temperature}
    return {
        "input": input,
        "weights": "float32",
        "golden_tolerance": GOLDEN_TOLERANCES[input],
        "class_names": model.class_names,
        "english_names": [english_name(name) for name in model.class_names],
        "input_size": model.size,
        "resize": model.resize.rule,
        "interpolation": model.resize.interpolation,
        "crop_pct": model.resize.crop_pct,
        "tta": tta,
        "temperature": temperature,
        "log_shift": np.broadcast_to(model.calibration.log_shift, len(model.class_names)).tolist(),
        "unknown_threshold": model.calibration.unknown_threshold,
        "mean": [round(value / 255, 6) for value in normalize.mean.flatten().tolist()],
        "std": [round(value / 255, 6) for value in normalize.std.flatten().tolist()],
        "net": model.hparams["net"],
        "metrics": run_metrics(run, evaluated),
        "training_run": "/".join(ckpt_path.resolve().parts[-3:]),
        "animals_pl_version": animals_pl.__version__,
        "versions": package_versions(),
    }


def _golden_metadata(source: GoldenSource | None, net: nn.Module, model: TrainedModel, run: Path) -> dict[str, Any]:
    jpegs, source = golden_jpegs(source, model.data_hparams.get("root"), run, model.size)
    expected, _ = _torch_outputs(net, [decode(jpeg, model.size) for jpeg in jpegs], model)
    images = [GoldenImage(jpeg, row).as_json() for jpeg, row in zip(jpegs, expected, strict=True)]
    return {"golden_source": source, "golden_images": images}


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
    proto = program.model_proto  # a new one at each access
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
    identifier.check_golden_images()
    return differences["probabilities"]


def _write_int8(file: Path, proto: onnx.ModelProto, metadata: dict[str, Any], validation: Catalog) -> Int8Comparison:
    """Replace a verified file by its int8 variant, and print what this changes.

    The metadata get the comparison, and the golden images the variant's own probabilities.

    Raises:
        UsageError: The variant is worse.
    """
    float32, proto = LoadedFile.load(file), quantise_weights(proto)
    metadata["weights"] = "int8"
    file.write_bytes(seal(proto, metadata))
    int8 = LoadedFile.load(file)
    comparison = compare(float32, int8, validation)
    show(comparison.table())
    comparison.require_recall()
    golden = [GoldenImage.from_json(values) for values in metadata["golden_images"]]
    rows = int8.identifiers[0].probabilities([decode(image.jpeg, metadata["input_size"]) for image in golden])
    golden = [GoldenImage(image.jpeg, row) for image, row in zip(golden, rows, strict=True)]
    metadata |= {"golden_images": [image.as_json() for image in golden], "int8_comparison": comparison.as_json()}
    file.write_bytes(seal(proto, metadata))
    Identifier(file)  # compares its golden images
    return comparison
