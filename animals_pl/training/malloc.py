"""Allocator settings of glibc."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def set_malloc_thresholds() -> None:
    """Keep freed activations in the process instead of returning them to the kernel. No effect without glibc.

    Measured with a frozen MobileNetV3-Small at 224 px, batch 64, two cores: 2.2 times the images per second, for about
    3 % more memory. Both thresholds are needed; either alone gives little.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
