"""Resizing in the exported graph, compared with Pillow's."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

from animals_pl.data.decode import decode
from animals_pl.data.resize import Resize
from animals_pl.data.walk import find_images
from animals_pl.deploy.image_input import with_image_input
from animals_pl.errors import UsageError

RULES = {
    "stretch": Resize("stretch"),
    "stretch, bicubic": Resize("stretch", "bicubic"),
    "crop": Resize("crop", "bilinear", 0.875),
    "crop, whole": Resize("crop", "bilinear", 1.0),
    "crop, bicubic": Resize("crop", "bicubic", 0.9),
}
SHAPES = [(225, 300), (300, 199), (333, 333), (97, 640), (61, 50)]


def resizing(rule: Resize, size: int) -> onnxruntime.InferenceSession:
    """A graph that only resizes."""
    header, shape = '<ir_version: 10, opset_import: ["": 20]>', f"uint8[batch, 3, {size}, {size}]"
    text = f"{header} net ({shape} images) => ({shape} pixels) {{ pixels = Identity (images) }}"
    model = with_image_input(onnx.parser.parse_model(text), rule, size)
    onnx.checker.check_model(model, full_check=True)
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def differences(session: onnxruntime.InferenceSession, rule: Resize, size: int, image: np.ndarray) -> np.ndarray:
    (pixels,) = session.run(None, {"image": image})
    assert (pixels.shape, pixels.dtype) == ((1, 3, size, size), np.uint8)
    return np.abs(pixels[0].transpose(1, 2, 0).astype(int) - rule(image, size))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("size", [64, 75])
def test_pixels_are_those_of_pillow(rule, size):
    session = resizing(RULES[rule], size)
    for shape in SHAPES:
        small = np.random.default_rng(shape).integers(0, 256, (6, 8, 3)).astype(np.uint8)
        image = np.asarray(Image.fromarray(small).resize(shape[::-1], Image.Resampling.BICUBIC))
        found = differences(session, RULES[rule], size, image)
        assert found.mean() < 0.1 and found.max() <= 2, shape


@pytest.mark.parametrize("rule", RULES)
def test_pixels_of_photographs_are_those_of_pillow(animals10_root, rule):
    session = resizing(RULES[rule], 224)
    found = [differences(session, RULES[rule], 224, decode(file)) for file in find_images(animals10_root)[::150]]
    assert np.mean([each.mean() for each in found]) < 0.05


def test_nearest_takes_the_pixels_that_pillow_takes():
    session, rule = resizing(Resize("stretch", "nearest"), 10), Resize("stretch", "nearest")
    image = np.random.default_rng(0).integers(0, 256, (35, 23, 3)).astype(np.uint8)
    assert not differences(session, rule, 10, image).any()


def test_lanczos_is_refused():
    with pytest.raises(UsageError, match=r"input=image cannot be used with data.interpolation=lanczos.*input=batch"):
        resizing(Resize("stretch", "lanczos"), 10)
