"""How many DataLoader workers start."""

from __future__ import annotations

import math
import os
from pathlib import Path

import pytest

from animals_pl.data.cores import cpu_quota
from animals_pl.data.dataset import default_num_workers


def write(cgroup: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (cgroup / name).parent.mkdir(parents=True, exist_ok=True)
        (cgroup / name).write_text(text)
    return cgroup


@pytest.mark.parametrize(
    ("text", "cores"), [("200000 100000\n", 2.0), ("50000 100000\n", 0.5), ("max 100000\n", math.inf)]
)
def test_quota_of_cgroup_version_2(tmp_path, text, cores):
    assert cpu_quota(write(tmp_path, {"cpu.max": text})) == cores


@pytest.mark.parametrize(("quota", "cores"), [("150000\n", 1.5), ("-1\n", math.inf)])
def test_quota_of_cgroup_version_1(tmp_path, quota, cores):
    files = {"cpu/cpu.cfs_quota_us": quota, "cpu/cpu.cfs_period_us": "100000\n"}
    assert cpu_quota(write(tmp_path, files)) == cores


@pytest.mark.parametrize("files", [{}, {"cpu.max": ""}, {"cpu.max": "1 0"}])
def test_no_readable_quota_is_no_limit(tmp_path, files):
    assert cpu_quota(write(tmp_path, files)) == math.inf


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="needs CPU affinity")
@pytest.mark.parametrize(
    ("cores", "quota", "workers"),
    [(8, math.inf, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.5, 1), (1, 4.0, 1), (64, math.inf, 16)],
)
def test_workers_respect_affinity_and_quota(monkeypatch, cores, quota, workers):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr("animals_pl.data.cores.cpu_quota", lambda: quota)
    assert default_num_workers() == workers
