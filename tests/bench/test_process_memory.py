"""Memory of a process with its children."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.bench import process_memory

MIB = 2**20
HOLD = "held = b'x' * (200 << 20); print('ready', flush=True); input()"
INNER = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {HOLD!r}])"


@pytest.mark.parametrize("code", [HOLD, INNER], ids=["child", "grandchild"])
def test_memory_of_all_descendants_is_counted(code: str) -> None:
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


def test_a_command_runs_to_its_end_and_its_peak_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child holds its memory until it was read."""
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
    assert (outcome.exit_code, outcome.last_error, len(outcome.stdout)) == (3, "no", (1 << 20) + 1)


def test_a_missing_command_fails() -> None:
    outcome = process_memory.run(["/nowhere/python"])
    assert outcome.exit_code != 0
    assert "/nowhere/python" in outcome.last_error
