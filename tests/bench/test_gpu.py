"""scripts.bench.gpu: a quick try on the CPU, and what it says without a GPU."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from scripts.bench import gpu


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_missing_gpu_is_explained(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        gpu.main([])
    assert caught.value.code == 2
    assert "no CUDA GPU is available. Use a machine with one" in capsys.readouterr().err


def test_a_quick_try_runs_on_the_cpu(
    make_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(gpu, "MODES", ("eager",))
    root = make_tree("three", {"cane": 4, "gatto": 4, "mucca": 4})
    gpu.main(["--device", "cpu", "--quick", "--net", "test_resnet", "--root", str(root)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "test_resnet" in line]
    assert [row[1:4] for row in rows] == [
        [precision, layout, "eager"]
        for precision in ("32-true", "bf16-mixed")
        for layout in ("contiguous", "channels_last")
    ]
    for *_, limit, loaded, ratio in rows:
        assert float(limit) > 0 and float(loaded) > 0 and float(ratio) > 0
