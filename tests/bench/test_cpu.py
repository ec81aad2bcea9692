"""scripts.bench.cpu: what it prints and writes, and how it ends."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from pathlib import Path

import pytest
import torch
from rich.console import Console

from scripts.bench import cpu
from scripts.bench.benchmarks import BENCHMARKS, PARTS, TITLES
from scripts.bench.cpu import Result, ratio, result_table
from scripts.bench.ours import PIXELS, BatchEnd, images_per_second
from scripts.bench.process_memory import Outcome

MIB = 2**20


def frozen(name: str, *values: float, failure: str = "") -> list[Result]:
    return [
        Result("frozen", name, repeat, value, "s", 100.0 * (repeat + 1), f"note {repeat}", failure)
        for repeat, value in enumerate(values)
    ]


def printed(results: list[Result]) -> list[str]:
    console = Console(width=110, file=io.StringIO())
    console.print(result_table("A title", results))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_ratios_are_those_of_medians() -> None:
    results = frozen("cold", 10, 30, 20) + frozen("keras", 100, 900, 300)
    assert ratio("keras ÷ cold", results) == 15
    assert math.isnan(ratio("plain ÷ cold", results))
    memory = [
        Result("memory", name, 0, value, "s", peak)
        for name, value, peak in (("frozen_3", 10, 500), ("frozen_12", 40, 550))
    ]
    assert ratio("frozen_12 ÷ frozen_3", memory) == pytest.approx(1.1)


def test_table_shows_median_spread_memory_ratio_and_failures() -> None:
    lines = printed(
        frozen("cold", 10, 30, 20)
        + frozen("keras", 100, 900, 300)
        + frozen("plain", math.nan, failure="it broke")
        + frozen("plain", 40)
    )
    assert "ours, cold: the first run 20 s 10 … 30 200 MiB" in lines
    assert "Keras, as in the reference, extrapolated 300 s 100 … 900 200 MiB keras ÷ cold: 15.00" in lines
    assert "plain Lightning, extrapolated 40 s 40 … 40 100 MiB plain ÷ cold: 2.00" in lines
    assert "plain Lightning, extrapolated: failed 1 of 2 times: it broke" in lines
    assert "Keras, as in the reference, extrapolated: note 2" in lines
    assert "plain Lightning, extrapolated failed" in printed(frozen("plain", math.nan, failure="it broke"))


def test_ratios_refer_to_benchmarks_of_their_table() -> None:
    assert PARTS.keys() == TITLES.keys()
    assert len(BENCHMARKS) == sum(map(len, PARTS.values()))
    for table in PARTS.values():
        for benchmark in table.values():
            assert not benchmark.ratio or set(benchmark.ratio.split(" ÷ ")) <= table.keys()


def test_speed_excludes_the_warm_up() -> None:
    slow_start = [BatchEnd(end, 0, 8, 64) for end in (10, 20, 30, 31, 32, 33)]
    assert images_per_second(slow_start) == 8
    assert images_per_second(slow_start[:2]) == pytest.approx(0.8)
    assert pytest.approx(0.643, abs=5e-4) == PIXELS


def test_benchmarks_are_interleaved_and_a_failure_stops_nothing(
    tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """The commands only print a number; the second one fails."""
    commands = []

    def fake_run(command: list[str], environment: dict[str, str]) -> Outcome:
        name = command[command.index("--benchmark") + 1] if "--benchmark" in command else "keras"
        commands.append((name, environment["ANIMALS_PL_CACHE"]))
        if name == "loop" and len(commands) == 2:
            return Outcome(1.0, 0, 1, "", "out of luck")
        return Outcome(1.0, 300 * MIB, 0, f'[not this]\n[{len(commands)}, "a remark"]\n', "")

    monkeypatch.setattr(cpu, "run", fake_run)
    file = tmp_path / "new" / "bench.csv"
    args = ["--root", str(tiny_tree), "--no-keras", "--repeats", "2", "--csv", str(file)]
    assert cpu.main([*args, "--only", "finetune"]) == 1
    names = ["finetune", "loop", "progressive"]
    assert [name for name, _ in commands] == [*names, *names]
    rows = list(csv.DictReader(file.open()))
    assert [(row["benchmark"], row["repeat"]) for row in rows] == [
        *((name, "0") for name in names),
        *((name, "1") for name in names),
    ]
    assert [row["failure"] for row in rows] == ["", "out of luck", *[""] * 4]
    assert (rows[0]["value"], rows[0]["peak_mib"], rows[0]["note"]) == ("1", "300.0", "a remark")
    out = capsys.readouterr().out
    assert "plain PyTorch loop: failed 1 of 2 times: out of luck" in out
    assert f"{os.cpu_count()} cores" in out and f"torch {torch.__version__.partition('+')[0]}" in out

    commands.clear()
    assert cpu.main([*args, "--only", "frozen"]) == 0
    caches = dict(commands)
    assert "keras" not in caches and caches["cold"] == caches["warm"] != caches["export"]
    assert len({cache for name, cache in commands if name == "cold"}) == 2
    assert [name for name, _ in commands].count("export") == 1


@pytest.mark.parametrize("benchmark", ["ours", "torchvision"])
def test_a_benchmark_prints_its_number(
    tiny_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture, benchmark: str
) -> None:
    assert cpu.main(["--root", str(tiny_tree), "--benchmark", benchmark, "--scratch", str(tmp_path)]) == 0
    value, note = json.loads(capsys.readouterr().out)
    assert value > 1
    assert note == ""


@pytest.mark.slow
def test_loaders_are_measured_side_by_side(tiny_tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file = tmp_path / "bench.csv"
    assert cpu.main(["--root", str(tiny_tree), "--only", "loader", "--repeats", "1", "--csv", str(file)]) == 0
    rows = list(csv.DictReader(file.open()))
    assert [row["benchmark"] for row in rows] == list(PARTS["loader"])
    assert all(float(row["value"]) > 1 and float(row["peak_mib"]) > 100 for row in rows)
    assert {(row["part"], row["repeat"], row["unit"], row["failure"]) for row in rows} == {
        ("loader", "0", "images/s", "")
    }
    assert "light ÷ crop: " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--root", "/nowhere"], "root='/nowhere' is not a folder"),
        (["--repeats", "0"], "--repeats=0 is too small. Choose 1 or more"),
        (["--keras", "/nowhere"], "--keras='/nowhere' is not a file. Pass one"),
        (["--csv", "/proc/bench.csv"], "/proc/bench.csv"),
    ],
)
def test_wrong_use_is_refused_in_one_line(
    tiny_tree: Path, capsys: pytest.CaptureFixture, wrong: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        cpu.main(["--root", str(tiny_tree), *wrong])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]
