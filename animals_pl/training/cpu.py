"""The processor of this machine."""

from __future__ import annotations

import platform
from pathlib import Path

VECTORS = {"AVX2": "avx2", "AVX-512": "avx512f", "VNNI": "avx512_vnni", "BF16": "avx512_bf16", "AMX": "amx_bf16"}
"""Vector instructions → their name in /proc/cpuinfo."""


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


def cpu_vectors() -> list[str]:
    """The processor's vector instructions that speed up inference, such as ``AVX2``; empty if they are not known."""
    flags = cpu_facts().get("flags", "").split()
    return [name for name, flag in VECTORS.items() if flag in flags]
