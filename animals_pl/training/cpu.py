"""The processor of this machine."""

from __future__ import annotations

import platform
from pathlib import Path


def cpu_facts() -> dict[str, str]:
    """Entries of /proc/cpuinfo, such as ``model name`` and ``flags``; empty on systems other than Linux."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines if ":" in line)
    return {key.strip(): value.strip() for key, _, value in pairs}


def cpu_name() -> str:
    """Name of the processor, or else its architecture, such as ``aarch64``."""
    return cpu_facts().get("model name") or platform.processor() or platform.machine()
