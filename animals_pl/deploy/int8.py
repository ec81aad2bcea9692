"""Weight-only int8: a third of the size, and the arithmetic of float32."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper, numpy_helper

MIN_ELEMENTS = 1024
"""Smaller weights stay float32: they would save less than their scales and nodes cost."""

LARGEST = 127
"""Largest int8 value that is used; -128 is left out, so that the range is symmetric."""


def quantise_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """Copy of a model with int8 weights in its convolutions and linear layers.

    Each weight becomes an int8 initializer with one float32 scale per output channel, and a ``DequantizeLinear`` node
    whose output has the weight's name, so that the rest of the graph is unchanged. Biases, and weights that other
    operators use, too, stay float32.

    onnxruntime keeps these nodes, which takes more than twice the time, unless the session option
    ``session.disable_quant_qdq`` is 1: it then computes the float32 weights once, when it loads the model.
    """
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    graph = quantised.graph
    axes = _channel_axes(graph)
    tensors, nodes = [], []
    for tensor in graph.initializer:
        if tensor.name not in axes or tensor.data_type != onnx.TensorProto.FLOAT or np.prod(tensor.dims) < MIN_ELEMENTS:
            tensors.append(tensor)
            continue
        values, scales = quantise(numpy_helper.to_array(tensor), axes[tensor.name])
        names = [f"{tensor.name}_int8", f"{tensor.name}_scale"]
        tensors += [numpy_helper.from_array(array, name) for array, name in zip((values, scales), names, strict=True)]
        nodes.append(helper.make_node("DequantizeLinear", names, [tensor.name], axis=axes[tensor.name]))
    nodes += graph.node
    del graph.initializer[:], graph.node[:]
    graph.initializer.extend(tensors)
    graph.node.extend(nodes)
    return quantised


def quantise(weights: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric int8 values of weights, and one float32 scale per channel; weights ≈ values · scale.

    No weight changes by more than half of its channel's scale, and zeros stay zero.

    Args:
        weights: Finite float32 weights.
        axis: The axis of the C output channels.

    Returns:
        int8 values of the same shape, in -127…127, and scales (C,), each the channel's largest magnitude / 127.
    """
    by_channel = np.moveaxis(weights.astype(np.float64), axis, -1)
    largest = np.abs(by_channel).max(axis=tuple(range(weights.ndim - 1)))
    scales = (largest / LARGEST).astype(np.float32)
    scales[scales < np.finfo(np.float32).tiny] = 1  # a channel of zeros, or too small for a scale of full precision
    values = np.rint(by_channel / scales).astype(np.int8)
    return np.ascontiguousarray(np.moveaxis(values, -1, axis)), scales


def _channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Tensor → axis of its output channels, for tensors that are weights of convolutions or linear layers only."""
    axes: dict[str, set[int | None]] = {output.name: {None} for output in graph.output}
    for node in graph.node:
        for position, name in enumerate(node.input):
            axes.setdefault(name, set()).add(_channel_axis(node) if position == 1 else None)
    return {name: axis for name, (axis, *others) in axes.items() if axis is not None and not others}


def _channel_axis(node: onnx.NodeProto) -> int | None:
    """Axis of the output channels in a node's second input; None: it has no weights there."""
    if node.op_type == "Gemm":
        is_transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
        return 0 if is_transposed else 1
    return {"Conv": 0, "MatMul": -1}.get(node.op_type)
