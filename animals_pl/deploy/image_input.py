"""Resizing as part of an exported graph."""

from __future__ import annotations

import math

import onnx
from onnx import compose, parser

from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError

_ANTIALIASED = 'antialias = 1, coordinate_transformation_mode = "half_pixel"'

OPERATORS = {
    "nearest": 'mode = "nearest", nearest_mode = "round_prefer_ceil", coordinate_transformation_mode = "half_pixel"',
    "bilinear": f'mode = "linear", {_ANTIALIASED}',
    "bicubic": f'mode = "cubic", cubic_coeff_a = -0.5, {_ANTIALIASED}',
}
"""Interpolation → attributes of ONNX's Resize that give the pixels of Pillow's filter.

On uint8 images, onnxruntime rounds as Pillow does: the mean difference is 0.01 of 255 levels (on float images 0.17, in
twice the time). Only tiny images that are enlarged many times differ by up to 9 levels, where bicubic overshoots.
"""

_WHOLE = """
    sizes = Constant <value_ints = [1, 3, {size}, {size}]> ()
    resized = Resize <{operator}> (batch, "", "", sizes)
"""

_CENTER = """
    sides = Shape <start = 0, end = 2> (image)
    shortest = ReduceMin <keepdims = 1> (sides)
    short_side = Constant <value_ints = [{short_side}]> ()
    scaled = Mul (sides, short_side)
    resized_sides = Div (scaled, shortest)
    batch_and_channels = Constant <value_ints = [1, 3]> ()
    sizes = Concat <axis = 0> (batch_and_channels, resized_sides)
    whole = Resize <{operator}> (batch, "", "", sizes)
    size = Constant <value_ints = [{size}]> ()
    excess = Sub (resized_sides, size)
    excess_float = Cast <to = 1> (excess)
    half = Constant <value_float = 0.5> ()
    half_excess = Mul (excess_float, half)
    rounded = Round (half_excess)
    start = Cast <to = 7> (rounded)
    end = Add (start, size)
    height_and_width = Constant <value_ints = [2, 3]> ()
    center = Slice (whole, start, end, height_and_width)
    shape = Constant <value_ints = [1, 3, {size}, {size}]> ()
    resized = Reshape (center, shape)
"""
"""The same as ``Resize.box``: Div rounds down, Round rounds half to even."""


def with_image_input(model: onnx.ModelProto, resize: Resize, size: int) -> onnx.ModelProto:
    """A model with the input ``image``, one uint8 RGB image (H, W, 3) of any size, which the graph resizes.

    Args:
        model: A model with the input ``images``, uint8 (B, 3, size, size).
        resize: How images are resized.
        size: Side of the square in pixels.

    Raises:
        UsageError: ONNX has no operator for the interpolation.
    """
    operator = OPERATORS.get(resize.interpolation)
    if operator is None:
        raise UsageError(
            f"input=image cannot be used with data.interpolation={resize.interpolation}, which ONNX does not have. "
            f"Export with input=batch, or train with one of {', '.join(OPERATORS)}."
        )
    body = _CENTER if resize.rule == "crop" else _WHOLE
    nodes = body.format(operator=operator, size=size, short_side=math.floor(size / resize.crop_pct))
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    text = f"""
    <ir_version: {model.ir_version}, opset_import: ["": {opset}]>
    resize (uint8[height, width, 3] image) => (uint8[1, 3, {size}, {size}] resized) {{
        channels_first = Transpose <perm = [2, 0, 1]> (image)
        first = Constant <value_ints = [0]> ()
        batch = Unsqueeze (channels_first, first)
        {nodes}
    }}
    """
    resizing = compose.add_prefix(parser.parse_model(text), "resize_", rename_inputs=False, rename_outputs=False)
    return compose.merge_models(resizing, model, io_map=[("resized", "images")])
