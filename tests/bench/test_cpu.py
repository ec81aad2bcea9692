"""scripts/bench.py and its kin: what they measure with, what they print, and how they end."""

from __future__ import annotations

import csv
import io
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from rich.console import Console

from scripts.bench import cpu as bench
from scripts.bench import gpu as bench_gpu
from scripts.bench import process_memory

SCRIPTS = Path(__file__).parents[1] / "scripts"
MIB = 2**20
HOLD = "held = b'x' * (200 << 20); print('ready', flush=True); input()"
INNER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@pytest.mark.parametrize("code", [HOLD, INNER], ids=["child", "grandchild"])
def test_memory_of_all_descendants_is_seen(code: str) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True) as child:
        assert child.stdout.readline() == "ready\n"
        pids = process_memory.family(child.pid)
        held = sum(map(process_memory.memory, pids))
        assert set(pids) < set(process_memory.family(os.getpid()))
        child.communicate("\n")
    assert len(pids) == (1 if code == HOLD else 2)
    assert 200 * MIB <= held < 300 * MIB
    assert process_memory.family(child.pid) == []
    assert process_memory.memory(child.pid) == 0


def test_a_command_is_run_to_its_end_and_its_peak_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child holds its memory until it was seen."""
    seen, reading = tmp_path / "seen", process_memory.memory

    def memory(pid: int) -> int:
        found = reading(pid)
        if found > 200 * MIB:
            seen.touch()
        return found

    monkeypatch.setattr(process_memory, "memory", memory)
    code = f"""
import pathlib, sys, time
held = b"x" * (200 << 20)
while not pathlib.Path({str(seen)!r}).exists():
    time.sleep(0.01)
del held
print("y" * (1 << 20))
print("oh\\nno", file=sys.stderr)
sys.exit(3)
"""
    outcome = process_memory.run([sys.executable, "-c", code])
    assert 200 * MIB <= outcome.peak < 300 * MIB
    assert outcome.seconds > 0
    assert (outcome.exit_code, outcome.complaint, len(outcome.printed)) == (3, "no", (1 << 20) + 1)


def test_a_command_that_is_not_there_has_failed() -> None:
    outcome = process_memory.run(["/nowhere/python"])
    assert outcome.exit_code != 0
    assert "/nowhere/python" in outcome.complaint


def frozen(name: str, *values: float, failure: str = "") -> list[bench.Result]:
    return [
        bench.Result("frozen", name, repeat, value, "s", 100.0 * (repeat + 1), f"note {repeat}", failure)
        for repeat, value in enumerate(values)
    ]


def printed(results: list[bench.Result]) -> list[str]:
    console = Console(width=110, file=io.StringIO())
    console.print(bench.table("A title", results))
    return [" ".join(line.split()) for line in console.file.getvalue().splitlines()]


def test_ratios_are_those_of_medians() -> None:
    results = frozen("cold", 10, 30, 20) + frozen("keras", 100, 900, 300)
    assert bench.ratio("keras ÷ cold", results) == 15
    assert math.isnan(bench.ratio("plain ÷ cold", results))
    memory = [
        bench.Result("memory", name, 0, value, "s", peak)
        for name, value, peak in (("frozen_3", 10, 500), ("frozen_12", 40, 550))
    ]
    assert bench.ratio("frozen_12 ÷ frozen_3", memory) == pytest.approx(1.1)


def test_table_tells_median_spread_memory_ratio_and_failures() -> None:
    lines = printed(
        frozen("cold", 10, 30, 20)
        + frozen("keras", 100, 900, 300)
        + frozen("plain", math.nan, failure="it broke")
        + frozen("plain", 40)
    )
    assert "ours, cold: the first run 20 s 10 … 30 200 MiB" in lines
    assert "Keras, as the reference, scaled up 300 s 100 … 900 200 MiB keras ÷ cold: 15.00" in lines
    assert "plain Lightning, scaled up 40 s 40 … 40 100 MiB plain ÷ cold: 2.00" in lines
    assert "plain Lightning, scaled up: failed 1 of 2 times: it broke" in lines
    assert "Keras, as the reference, scaled up: note 2" in lines
    assert "plain Lightning, scaled up failed" in printed(frozen("plain", math.nan, failure="it broke"))


def test_every_ratio_is_one_of_subjects_of_its_table() -> None:
    assert bench.PARTS.keys() == bench.TITLES.keys()
    assert len(bench.SUBJECTS) == sum(map(len, bench.PARTS.values()))
    for subjects in bench.PARTS.values():
        for subject in subjects.values():
            assert not subject.ratio or set(subject.ratio.split(" ÷ ")) <= subjects.keys()


def test_speed_is_that_of_the_batches_after_the_first() -> None:
    slow_start = [bench.Mark(end, 0, 8, 64) for end in (10, 20, 30, 31, 32, 33)]
    assert bench.images_per_second(slow_start) == 8
    assert bench.images_per_second(slow_start[:2]) == pytest.approx(0.8)
    assert pytest.approx(0.643, abs=5e-4) == bench.PIXELS


def test_rivals_take_turns_and_a_failure_stops_nothing(
    tiny_tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """With commands that only tell their subject's name, the second of which fails."""
    commands = []

    def stand_in(command: list[str], environment: dict[str, str]) -> process_memory.Outcome:
        name = command[command.index("--subject") + 1] if "--subject" in command else "keras"
        commands.append((name, environment["ANIMALS_PL_CACHE"]))
        if name == "loop" and len(commands) == 2:
            return process_memory.Outcome(1.0, 0, 1, "", "out of luck")
        return process_memory.Outcome(1.0, 300 * MIB, 0, f'[not this]\n[{len(commands)}, "a remark"]\n', "")

    monkeypatch.setattr(bench, "run", stand_in)
    file = tmp_path / "new" / "bench.csv"
    args = ["--root", str(tiny_tree), "--no-keras", "--repeats", "2", "--csv", str(file)]
    assert bench.main([*args, "--only", "finetune"]) == 1
    once = ["finetune", "loop", "progressive"]
    assert [name for name, _ in commands] == [*once, "same_results", *once]
    rows = list(csv.DictReader(file.open()))
    assert [(row["subject"], row["repeat"]) for row in rows] == [
        *((name, "0") for name in [*once, "same_results"]),
        *((name, "1") for name in once),
    ]
    assert [row["failure"] for row in rows] == ["", "out of luck", *[""] * 5]
    assert (rows[0]["value"], rows[0]["peak_mib"], rows[0]["note"]) == ("1", "300.0", "a remark")
    out = capsys.readouterr().out
    assert "plain PyTorch loop: failed 1 of 2 times: out of luck" in out
    assert f"{os.cpu_count()} cores" in out and f"torch {torch.__version__.partition('+')[0]}" in out

    commands.clear()
    assert bench.main([*args, "--only", "frozen"]) == 0
    caches = dict(commands)
    assert "keras" not in caches and caches["cold"] == caches["warm"] != caches["export"]
    assert len({cache for name, cache in commands if name == "cold"}) == 2


def test_loaders_are_measured_side_by_side(tiny_tree: Path, tmp_path: Path) -> None:
    file = tmp_path / "bench.csv"
    args = ["--root", tiny_tree, "--only", "loader", "--no-keras", "--repeats", "1", "--csv", file]
    result = subprocess.run(
        [sys.executable, SCRIPTS / "bench.py", *args],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    rows = list(csv.DictReader(file.open()))
    assert [row["subject"] for row in rows] == list(bench.PARTS["loader"])
    assert all(float(row["value"]) > 1 and float(row["peak_mib"]) > 100 for row in rows)
    assert {(row["part"], row["repeat"], row["unit"], row["failure"]) for row in rows} == {
        ("loader", "0", "images/s", "")
    }
    assert "light ÷ crop: " in result.stdout


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (["--root", "/nowhere"], "root='/nowhere' is not a folder"),
        (["--repeats", "0"], "--repeats=0 is too small; choose 1 or more"),
        (["--keras", "/nowhere"], "--keras='/nowhere' is not a file; pass one"),
        (["--csv", "/proc/bench.csv"], "/proc/bench.csv"),
    ],
)
def test_wrong_use_ends_in_one_line(
    tiny_tree: Path, capsys: pytest.CaptureFixture, wrong: list[str], said: str
) -> None:
    with pytest.raises(SystemExit) as caught:
        bench.main(["--root", str(tiny_tree), *wrong])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_gpu_benchmark_says_that_there_is_no_gpu(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as caught:
        bench_gpu.main([])
    assert caught.value.code == 2
    assert "there is no CUDA GPU that torch can use here; run this on a machine with one" in capsys.readouterr().err


def test_gpu_benchmark_runs_on_a_cpu_for_a_try(
    make_tree: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(bench_gpu, "MODES", ("eager",))
    root = make_tree("three", {"cane": 4, "gatto": 4, "mucca": 4})
    bench_gpu.main(["--device", "cpu", "--quick", "--net", "tf_mobilenetv3_small_100", "--root", str(root)])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if "tf_mobilenetv3_small_100" in line]
    assert [row[1:4] for row in rows] == [
        [precision, layout, "eager"]
        for precision in ("32-true", "bf16-mixed")
        for layout in ("contiguous", "channels_last")
    ]
    for *_, limit, loaded, ratio in rows:
        assert float(limit) > 0 and float(loaded) > 0 and float(ratio) > 0
