"""Engines that run the graph of an exported file. OpenVINO is imported only if it is chosen."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import onnxruntime

from animals_pl.data.cores import available_cores
from animals_pl.errors import UsageError, listed, one_line
from animals_pl.models.openvino_package import load_openvino, openvino_core

EngineName = Literal["onnxruntime", "openvino"]

CPU = "CPUExecutionProvider"

OUTPUTS = ["probabilities", "unknown_score"]

FLOAT_ARITHMETIC = ("session.disable_quant_qdq", "1")
"""Session option with which int8 weights become float32 when a file is loaded, instead of in every call."""


class Engine(Protocol):
    """A loaded graph. Several threads may call it.

    Attributes:
        inputs, outputs: Names of the graph's inputs and outputs.
    """

    inputs: list[str]
    outputs: list[str]

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The values of ``OUTPUTS`` for the graph's only input."""


def load_engine(name: EngineName, content: bytes, threads: int | None, providers: Sequence[str]) -> Engine:
    """Load the content of an ONNX file.

    Args:
        name: Engine.
        content: Content of the file, without external data.
        threads: Threads of each call. Default: one per core.
        providers: Names of onnxruntime's execution providers, the preferred one first.

    Raises:
        UsageError: The engine is not installed, or cannot load the file.
    """
    return OnnxRuntime(content, threads, providers) if name == "onnxruntime" else OpenVino(content, threads)


def require_engine(name: EngineName, providers: Sequence[str]) -> None:
    """Raise a :class:`UsageError` if an engine is not installed, or does not have the execution providers."""
    if name == "openvino" and not load_openvino():
        raise UsageError("engine=openvino is not installed. Run: pip install 'animals_pl[openvino]'")
    if name == "openvino" and list(providers) != [CPU]:
        raise UsageError(f"providers={list(providers)} only apply to engine=onnxruntime. Remove providers.")
    available = onnxruntime.get_available_providers()
    if isinstance(providers, str) or not providers:
        raise UsageError(f"providers={providers!r} is not a list of names. Pass providers=[{available[-1]!r}].")
    if missing := [provider for provider in providers if provider not in available]:
        raise UsageError(
            f"providers={missing[0]} is not available; onnxruntime has {listed(available)}. Choose one of these, or "
            "install a build of onnxruntime that has it."
        )


class OnnxRuntime:
    """A graph loaded by onnxruntime, see :func:`load_engine`."""

    def __init__(self, content: bytes, threads: int | None, providers: Sequence[str]) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 4  # errors are raised
        options.add_session_config_entry(*FLOAT_ARITHMETIC)
        try:
            self.session = onnxruntime.InferenceSession(content, options, providers=list(providers))
        except Exception as error:  # onnxruntime may raise any exception
            raise UsageError(f"onnxruntime cannot load it ({one_line(error)})") from error
        if unused := [name for name in providers if name not in self.session.get_providers()]:
            raise UsageError(f"onnxruntime cannot start {unused[0]}. Choose another provider")
        self.inputs = [value.name for value in self.session.get_inputs()]
        self.outputs = [value.name for value in self.session.get_outputs()]

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The values of ``OUTPUTS``."""
        return self.session.run(OUTPUTS, {self.inputs[0]: images})


class OpenVino:
    """A graph compiled by OpenVINO for the CPU in float32, see :func:`load_engine`."""

    def __init__(self, content: bytes, threads: int | None) -> None:
        cores = available_cores()
        streams = max(1, cores // (threads or cores))  # calls that run at the same time
        config = {
            "INFERENCE_PRECISION_HINT": "f32",  # the default on CPUs with bfloat16 is bfloat16
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams * (threads or cores),
        }
        try:
            core = openvino_core()
            model = core.read_model(content)
            _compute_float_weights(model)
            self.compiled = core.compile_model(model, "CPU", config)
        except Exception as error:  # OpenVINO may raise any exception
            raise UsageError(f"OpenVINO cannot load it ({one_line(error)})") from error
        self.inputs = [value.any_name for value in self.compiled.inputs]
        self.outputs = [value.any_name for value in self.compiled.outputs]
        self._of_thread = threading.local()

    def __call__(self, images: np.ndarray) -> list[np.ndarray]:
        """The values of ``OUTPUTS``."""
        found = self._request().infer([images])
        return [found[name] for name in OUTPUTS]

    def _request(self) -> Any:
        """The inference request of this thread; a request runs one call at a time."""
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self.compiled.create_infer_request()
        return self._of_thread.request


def _compute_float_weights(model: Any) -> None:
    """Replace int8 weights in an OpenVINO model by the float32 weights that they stand for.

    Otherwise, OpenVINO 2026.4 converts them while it compiles the model, and gives wrong results with several streams.
    """
    from openvino.passes import ConstantFolding, Manager  # after load_openvino

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(model)
