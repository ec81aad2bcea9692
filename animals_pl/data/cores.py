"""CPU cores that this process may use. Standard library only."""

from __future__ import annotations

import math
import os
from pathlib import Path


def available_cores() -> int:
    """CPU cores available to this process: affinity and container limit, rounded up."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(cores, cpu_quota()))


def cpu_quota(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """CPU limit of the container in cores (control groups, version 1 or 2), or infinity."""
    try:
        if (cgroup / "cpu.max").exists():
            quota, period = (cgroup / "cpu.max").read_text().split()
        else:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        limit = int(quota) / int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or "max"
        return math.inf
    return limit if limit > 0 else math.inf  # version 1 writes -1 for no limit
