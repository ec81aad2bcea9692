"""Export a model as a folder that ``timm.create_model`` and the ``transformers`` pipeline load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_data_config
from timm.models import save_for_hf
from torch import nn

from animals_pl.data.catalog import english_name
from animals_pl.data.decode import decode
from animals_pl.deploy.verification_images import verification_images
from animals_pl.errors import UsageError
from animals_pl.files import atomic_folder, printable, require_empty
from animals_pl.models.layers import TTA
from animals_pl.models.transfer import TransferNet
from animals_pl.training.trained import TrainedModel

TIMM_FILES = ("config.json", "model.safetensors")

CROP_MODES = {"stretch": "squash", "crop": "center"}
"""``data.resize`` → crop_mode of timm."""

LOGIT_TOLERANCE = 1e-4
"""Maximum accepted difference of a logit, as a fraction of the largest if that is above 1."""

PIXEL_TOLERANCE = 1.0
"""Maximum accepted mean difference of a resized pixel, in levels of 0…255. If Pillow crops after resizing, its pixels
differ by at most one level (mean over an Animals-10 image: at most 0.2)."""

TIE_TOLERANCE = 0.01
"""Classes whose probabilities differ by less are accepted as equal: tiny pixel differences can reorder them."""


def export_timm_folder(
    model: TrainedModel, output: str | Path, image_folder: str | Path | None = None, tta: TTA | None = None
) -> tuple[Path, str, float]:
    """Write ``config.json`` and ``model.safetensors``, after comparing what timm loads from them with the model.

    Args:
        model: A linear head on timm's own features.
        output: A new or empty folder.
        image_folder: As in :func:`~animals_pl.deploy.verification_images.verification_images`.
        tta: Must be "none" for a model that was trained with test-time augmentation.

    Returns:
        The folder, what it was verified on, and the maximum difference of a logit.

    Raises:
        UsageError: The model cannot be expressed as a timm model, the folder cannot be written, or results differ.
    """
    target = Path(output)
    if target.suffix.lower() == ".onnx":
        raise UsageError(
            f"output={str(output)!r} is the name of a file, but format=timm writes a folder. Choose another."
        )
    net = timm_model(model, tta)
    require_empty(target)
    contents, source = verification_images(image_folder, model)
    with atomic_folder(target) as partial:
        save_for_hf(net, str(partial), _model_config(model), safe_serialization=True, data_config=_data_config(model))
        _finish(partial)
        difference = _verify(partial, model, [decode(content) for content in contents])
        size = sum(file.stat().st_size for file in partial.iterdir())
    verified_on = f"{len(contents)} {source}"
    print(
        f"{printable(target)} written ({size / 1e6:.1f} MB): {', '.join(TIMM_FILES)}; uncalibrated logits\n"
        f"verified on {printable(verified_on)}: timm's logits differ by at most {difference:.1e}, same classes"
    )
    return target, verified_on, difference


def timm_model(model: TrainedModel, tta: TTA | None = None) -> Any:
    """The model as a plain timm model for normalised images, in evaluation mode.

    Raises:
        UsageError: The model cannot be expressed as a timm model.
    """
    net: Any = model.net
    fault = ""
    if not isinstance(net, TransferNet):
        fault = f"model.net={model.hparams['net']} is not a timm model"
    elif net.pooled:
        fault = f"timm's {net.name} has a layer between model.features=pooled and its classifier"
    elif not net.head_fits_classifier:
        fault = f"timm's classifier is one layer, but model.head={model.hparams['head']} has two"
    elif net.prior is not None:
        fault = f"timm's classifier is one layer, but model.imagenet_prior={net.prior.strength} adds another"
    elif (tta or model.tta) != "none":
        raise UsageError(f"format=timm cannot include test-time augmentation (tta={tta or model.tta}). Pass tta=none.")
    if not fault:
        plain: Any = timm.create_model(net.name, num_classes=len(model.class_names), **net.size_option())
        if _set_classifier(plain.get_classifier(), net.head[-1]):
            plain.load_state_dict(plain.state_dict() | net.backbone.state_dict())
            plain.pretrained_cfg = {**plain.pretrained_cfg, "tag": None, "license": None}  # of the pretrained weights
            return plain.eval()
        fault = f"timm's classifier of {net.name} is not a single linear layer"
    raise UsageError(f"format=timm does not suit this model: {fault}. Choose format=onnx.")


@torch.no_grad()
def _set_classifier(classifier: Any, linear: Any) -> bool:
    """Copy a linear layer to timm's classifier, which may be a 1×1 convolution; return whether it fits."""
    fits = isinstance(classifier, nn.Linear | nn.Conv2d) and classifier.bias is not None
    if fits := fits and classifier.weight.numel() == linear.weight.numel():
        classifier.weight.copy_(linear.weight.view_as(classifier.weight))
        classifier.bias.copy_(linear.bias)
    return fits


def _model_config(model: TrainedModel) -> dict[str, Any]:
    english = {name: english_name(name) for name in model.class_names}
    return {
        "label_names": model.class_names,
        "label_descriptions": {name: text for name, text in english.items() if text != name},
    }


def _data_config(model: TrainedModel) -> dict[str, Any]:
    net: Any = model.net
    mean, std = net.normalize.mean_std()
    return {
        "input_size": (3, model.size, model.size),
        "interpolation": model.resize.interpolation,
        "crop_mode": CROP_MODES[model.resize.rule],
        "crop_pct": model.resize.crop_pct,
        "mean": mean,
        "std": std,
    }


def _finish(folder: Path) -> None:
    """Remove the second ``num_classes`` of config.json, which transformers 5 would pass to timm twice."""
    config, weights = (folder / name for name in TIMM_FILES)
    settings = json.loads(config.read_text(encoding="utf-8"))
    settings.get("model_args", {}).pop("num_classes", None)
    config.write_text(json.dumps(settings, indent=2), encoding="utf-8")
    weights.chmod(config.stat().st_mode)  # safetensors makes it readable only by its owner


def _verify(folder: Path, model: TrainedModel, images: list[np.ndarray]) -> float:
    """Maximum difference of a logit between a model and what timm loads from a folder.

    Raises:
        UsageError: The logits differ, or timm's preprocessing gives other pixels or classes.
    """
    net: Any = model.net
    loaded = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    transform: Any = create_transform(**resolve_data_config({}, model=loaded))
    pixels = np.stack([model.resize(image, model.size).transpose(2, 0, 1) for image in images])
    normalised = net.normalize(torch.from_numpy(pixels))
    transformed = torch.stack([transform(Image.fromarray(image)) for image in images])
    with torch.inference_mode():
        expected, found, prepared = net(torch.from_numpy(pixels)), loaded(normalised), loaded(transformed)
    difference = ((found - expected).abs().max() / expected.abs().max().clamp(min=1)).item()
    levels = ((transformed - normalised) * net.normalize.std).abs().mean((1, 2, 3)).max().item()
    others = prepared.argmax(1, keepdim=True)
    probabilities = expected.softmax(1)
    loss = (probabilities.amax(1, keepdim=True) - probabilities.gather(1, others)).max().item()
    for name, value, limit in (
        ("logits", difference, LOGIT_TOLERANCE),
        ("resized pixels", levels, PIXEL_TOLERANCE),
        ("probability of the class", loss, TIE_TOLERANCE),
    ):
        if not value <= limit:  # also true for NaN
            raise UsageError(
                f"timm's results differ from those of the checkpoint: {name} by {value:.1e} (allowed: {limit:g}), so "
                "nothing was written. Choose format=onnx, or report an issue."
            )
    return difference
