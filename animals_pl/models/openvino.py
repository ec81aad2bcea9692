"""Compute features with OpenVINO."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from animals_pl.models.openvino_package import load_openvino, openvino_core

Precision = Literal["float32", "bf16"]


def computes_in_bf16() -> bool:
    """Whether OpenVINO is installed and the CPU has bfloat16 instructions."""
    return load_openvino() is not None and "BF16" in openvino_core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class _Features(nn.Module):
    """``forward_features`` of a net as ``forward``, which can be traced."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, images: Tensor) -> Tensor:
        return self.net.forward_features(images)


class OpenVinoFeatures:
    """``net.forward_features`` compiled by OpenVINO.

    Args:
        net: A net on the CPU in evaluation mode, see :class:`~animals_pl.models.transfer.TransferNet`.
        images: Sample images (B, 3, S, S) uint8, to trace the net.
        precision: Precision of the computation. The features are float32 in any case.
    """

    def __init__(self, net: nn.Module, images: Tensor, precision: Precision = "float32") -> None:
        openvino = load_openvino()
        with warnings.catch_warnings(action="ignore"), torch.no_grad():  # torch.jit.trace is deprecated
            # The check of torch.jit.trace traces once more: 1.2 s of 3 s with MobileNetV3-Large.
            traced = torch.jit.trace(_Features(net), images, check_trace=False)
            shape = openvino.PartialShape([-1, *images.shape[1:]])
            model = openvino.convert_model(traced, example_input=images, input=[shape])
        hints = {
            "PERFORMANCE_HINT": "THROUGHPUT",
            "INFERENCE_PRECISION_HINT": "f32" if precision == "float32" else "bf16",
        }
        self._compiled = openvino_core().compile_model(model, "CPU", hints)

    def __call__(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the features (B, F) float32 of each batch (B, 3, S, S) uint8, in order.

        Batches are loaded while earlier ones are computed.
        """
        free = [
            self._compiled.create_infer_request()
            for _ in range(self._compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))
        ]
        running: deque[Any] = deque()
        for images in batches:
            if not free:
                yield self._finish(running, free)
            request = free.pop()
            request.start_async(np.ascontiguousarray(images))
            running.append(request)
        while running:
            yield self._finish(running, free)

    @staticmethod
    def _finish(running: deque[Any], free: list[Any]) -> Tensor:
        request = running.popleft()
        request.wait()
        free.append(request)
        return torch.from_numpy(request.get_output_tensor().data.copy())
