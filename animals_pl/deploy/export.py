"""Export a checkpoint: the command, its checks and what it prints."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from animals_pl.deploy.golden import GoldenSource
from animals_pl.deploy.inference_time import EngineTimes, measure_engines
from animals_pl.deploy.int8_comparison import Int8Comparison
from animals_pl.deploy.metadata import InputKind, WeightsKind
from animals_pl.deploy.onnx_file import OnnxFile, Variant, write_onnx
from animals_pl.deploy.timm_folder import export_timm_folder
from animals_pl.deploy.verification_images import verification_images
from animals_pl.errors import UsageError, require_types
from animals_pl.files import is_stream, message_stream, printable, require_writable, show
from animals_pl.models.layers import TTA
from animals_pl.training.cpu import cpu_name, cpu_vectors
from animals_pl.training.trained import load_model

ExportFormat = Literal["onnx", "timm"]


@dataclass(frozen=True)
class Export:
    """A verified ONNX file, or a verified folder for timm."""

    path: Path
    verified_on: str
    """The images on which it was compared with the checkpoint."""
    difference: float
    """Maximum difference of a probability, with float32 weights; for timm, of a logit."""
    comparison: Int8Comparison | None = None
    """With int8 weights: the comparison with float32."""


def export(
    ckpt_path: str | Path,
    output: str | Path = "model.onnx",
    image_folder: str | Path | None = None,
    tta: TTA | None = None,
    prior: str | None = None,
    input: InputKind = "batch",
    golden: GoldenSource | None = None,
    weights: WeightsKind = "float32",
    format: ExportFormat = "onnx",
    benchmark: bool = False,
) -> Export:
    """Export a checkpoint to a single, self-contained ONNX file, or to a folder that timm and transformers load.

    Input ``images``: uint8 RGB (B, 3, S, S) for any B. Outputs: ``probabilities`` (calibrated) and ``logits`` (B, C),
    ``unknown_score`` (B,). Normalisation is part of the graph. The metadata has the class names, the preprocessing, the
    threshold of the score, metrics of the run, and 8 golden images with their probabilities, which ``Identifier``
    checks when it loads the file. The file is compared with torch on images before it replaces an existing one.

    Args:
        ckpt_path: The best.ckpt, last.ckpt or refit.ckpt of a run.
        output: The ONNX file to write, or the folder with ``format="timm"``.
        image_folder: Folder of images to verify on. Default: the training data, or drawings if it no longer exists.
        tta: Test-time augmentation to include. "hflip" doubles the time per image. Default: the run's model.tta.
        prior: Class frequencies expected in use: train, uniform, or a CSV file with the columns class and frequency.
            Default: the model's own prior, without adjustment.
        input: "batch" for resized images. "image" for one decoded image (H, W, 3) of any size, which the graph resizes.
        golden: Golden images: "validation" for 8 validation images of the run, or "practice" for 8 drawings, if your
            photographs must not be passed on. Default: validation, or practice if those images no longer exist.
        weights: "int8" for a third of the size; refused if validation macro recall falls by more than 0.5 points.
        format: "timm" writes a folder for timm, with uncalibrated logits. Needs a linear head on timm's own features.
        benchmark: Measure the installed engines with the file on this CPU, and name the quickest.

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
    kinds = {"tta": tta, "input": input, "golden": golden, "weights": weights, "format": format, "benchmark": benchmark}
    require_types(export, kinds)
    if format == "timm":
        _require_defaults(prior=prior, input=input, golden=golden, weights=weights, benchmark=benchmark)
        return Export(*export_timm_folder(load_model(ckpt_path), output, image_folder, tta))
    target = _require_output(output, ckpt_path, benchmark)
    model = load_model(ckpt_path, prior=prior)
    images, source = verification_images(image_folder, model)
    variant = Variant(tta or model.tta, prior, input, golden, weights)
    written = write_onnx(target, Path(ckpt_path), model, images, variant)
    exported = Export(target, f"{len(images)} {source}", written.difference, written.comparison)
    print(_summary(exported, written), file=message_stream(target))
    if benchmark:
        _print_times(measure_engines(target))
    return exported


def _print_times(times: EngineTimes) -> None:
    show(times.table())
    for engine, fault in times.faults.items():
        print(printable(f"{engine} was not measured: {fault}"))
    vectors = ", ".join(cpu_vectors()) or "no vector instructions known"
    print(f"quickest on this CPU, {cpu_name()} ({vectors}): engine={times.quickest}")


def _summary(exported: Export, written: OnnxFile) -> str:
    """What was written, in the lines that are printed."""
    metadata = written.metadata
    side, classes, metrics = metadata["input_size"], len(metadata["class_names"]), metadata["metrics"]
    shape = "image uint8 (H, W, 3)" if metadata["input"] == "image" else f"images uint8 (B, 3, {side}, {side})"
    measured = "none, since this checkpoint was not evaluated (animals_pl test)"
    if metrics:
        acc, recall = metrics["acc"]["value"], metrics["macro_recall"]["value"]
        measured = f"{metrics['images']:,} {metrics['split']} images: accuracy {acc:.3f}, macro recall {recall:.3f}"
    golden = "validation images" if metadata["golden_source"] == "validation" else "drawings"
    before = "with float32 weights, " if exported.comparison else ""
    return (
        f"{printable(exported.path)} written ({written.size / 1e6:.1f} MB): {shape} → probabilities, "
        f"logits (B, {classes}), unknown_score (B,)\n"
        f"{before}verified on {printable(exported.verified_on)}: probabilities differ from torch by at most "
        f"{exported.difference:.1e}\nmetrics in the file: {measured}\n"
        f"the file contains {len(metadata['golden_images'])} {golden}, to check it when it is loaded (--golden)"
    )


def _require_defaults(**options: Any) -> None:
    """Raise UsageError if an option is given that applies to ONNX files only."""
    defaults = inspect.signature(export).parameters
    for name, value in options.items():
        if value != defaults[name].default:
            raise UsageError(f"{name}={value} has no effect with format=timm. Remove it, or choose format=onnx.")


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
