"""Compute the features of a backbone with the fastest engine that agrees with torch."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor

from animals_pl.errors import one_line
from animals_pl.models.openvino import OpenVinoFeatures, Precision
from animals_pl.models.openvino_package import openvino_version
from animals_pl.models.transfer import TransferNet

_CHECKED = 4
"""Images on which OpenVINO is compared with torch."""

_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "bf16": 0.1}
"""Precision → largest accepted difference, relative to the largest feature."""


class Extractor:
    """Computes ``net.forward_features`` in evaluation mode: with OpenVINO on a CPU where it is installed, else torch.

    Args:
        net: The net.
        device: Device of the net.
        precision: Precision of OpenVINO. ``bf16`` is faster on CPUs with AMX instructions.
        context: Context of torch's forward pass, such as autocast. OpenVINO is not used with it.

    Attributes:
        uses_openvino: Whether the engine is OpenVINO.
    """

    def __init__(
        self,
        net: TransferNet,
        device: torch.device | str = "cpu",
        precision: Precision = "float32",
        context: Callable[[], AbstractContextManager[object]] | None = None,
    ) -> None:
        self.net = net
        self.device = torch.device(device)
        self.precision = precision
        self.context = context or nullcontext
        self._run: Callable[[Iterable[Tensor]], Iterator[Tensor]] | None = None  # chosen with the first images
        self.uses_openvino = bool(openvino_version()) and self.device.type == "cpu" and context is None

    @property
    def engine(self) -> str:
        """Engine and version, and precision of OpenVINO, such as ``openvino 2026.4.1 float32``."""
        return f"openvino {openvino_version()} {self.precision}" if self.uses_openvino else f"torch {torch.__version__}"

    def __call__(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield the features (B, F) float32, on the CPU, of each batch (B, 3, S, S) uint8, in order."""
        stream = iter(batches)  # workers load the next images while OpenVINO converts the net
        training = self.net.training
        self.net.eval()
        for first in stream:
            if self._run is None:
                self._run = self._convert(first[:_CHECKED]) if self.uses_openvino else self._run_torch
            yield from self._run(itertools.chain([first], stream))
        self.net.train(training)

    def _convert(self, images: Tensor) -> Callable[[Iterable[Tensor]], Iterator[Tensor]]:
        """Return OpenVINO's features, or torch's if the net cannot be converted or its features differ."""
        expected = next(self._run_torch([images]))
        try:
            features = OpenVinoFeatures(self.net, images, self.precision)
            difference = float((next(features([images])) - expected).abs().max() / expected.abs().max())
            problem = "" if difference <= _TOLERANCE[self.precision] else f"features differ by {difference:.1e}"
        except Exception as error:  # OpenVINO may raise any exception
            problem = one_line(error)
        if not problem:
            return features
        warnings.warn(f"OpenVINO is not used for {self.net.name}: {problem}", stacklevel=2)
        self.uses_openvino = False
        return self._run_torch

    @torch.no_grad()
    def _run_torch(self, batches: Iterable[Tensor]) -> Iterator[Tensor]:
        for images in batches:
            with self.context():
                yield self.net.forward_features(images.to(self.device, non_blocking=True)).float().cpu()
