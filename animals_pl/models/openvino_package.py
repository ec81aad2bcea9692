"""Import OpenVINO without its telemetry. The only module that imports it."""

from __future__ import annotations

import sys
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
