"""Import OpenVINO without its telemetry. The only module that imports it."""

from __future__ import annotations

import ctypes
import sys
from functools import cache
from typing import Any


def load_openvino() -> Any:
    """Return the module ``openvino``, or ``None`` if it is not installed.

    Its telemetry is blocked: it would write a client id to the home folder and send statistics.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # importing it then fails
    try:
        import openvino
    except ImportError:
        return None
    return openvino


def openvino_version() -> str:
    """Version of OpenVINO, such as ``2026.4.1``; empty if it is not installed."""
    openvino = load_openvino()
    return openvino.__version__.partition("-")[0] if openvino else ""


@cache
def openvino_core() -> Any:
    """The process's only ``openvino.Core``, which is never destroyed. OpenVINO must be installed.

    Each core installs a signal stack, and restores the previous one when it is destroyed. If two cores are destroyed in
    the order of their creation, the active stack is freed memory, and the next signal causes a segmentation fault
    (OpenVINO 2026.4 on Linux).
    """
    core = load_openvino().Core()
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(core))  # never freed: signals can arrive during shutdown
    return core
