"""Alerts arrive at least once: a server that is down, kills, failing commands."""

from __future__ import annotations

import hashlib
import hmac
import json
import random
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from watching import Receiver, distinct, lines, until, watch_until, whole_lines

from animals_pl.deploy.watch.sinks import Output


@pytest.fixture
def args(model, card, certain, tmp_path) -> list[object]:
    """Watch a folder of ten images, each of which raises an alert."""
    for number in range(10):
        (card / f"{number}.jpg").write_bytes(distinct(certain["elefante"], number))
    return [model, card, "--alert", "elephant:0", "--quiet", 0, "--output", tmp_path / "out.jsonl"]


def test_alerts_are_posted_in_order_and_signed(args, receiver, tmp_path, monkeypatch):
    monkeypatch.setenv("ANIMALS_PL_SECRET", "from the environment")
    (tmp_path / "key").write_text("from a file\n")
    assert watch_until(lambda: len(receiver.bodies) == 10, *args, "--post", receiver.url, "--secret_file", "key") == 130
    assert [json.loads(body) for body in receiver.bodies] == lines(tmp_path / "out.jsonl")
    for body, headers in zip(receiver.bodies, receiver.headers, strict=True):
        digest = hmac.new(b"from a file", body, hashlib.sha256).hexdigest()
        assert headers["X-Signature-256"] == f"sha256={digest}"
        assert headers["Content-Type"] == "application/json"


@pytest.mark.parametrize("secret", ["key", ""])
def test_the_secret_in_the_environment(args, receiver, monkeypatch, secret):
    monkeypatch.setenv("ANIMALS_PL_SECRET", secret)
    assert watch_until(lambda: len(receiver.bodies) == 10, *args, "--post", receiver.url) == 130
    digest = hmac.new(b"key", receiver.bodies[0], hashlib.sha256).hexdigest()
    assert receiver.headers[0].get("X-Signature-256") == (f"sha256={digest}" if secret else None)


def test_a_server_that_is_down_receives_all_alerts_when_it_is_back(args, receiver, tmp_path, capsys):
    receiver.down()
    post = ["--post", receiver.url]
    assert watch_until(lambda: len(lines(tmp_path / "out.jsonl")) == 10, *args, *post) == 130
    log = capsys.readouterr().err
    assert "10 waiting for post" in log and "Connection refused; next attempt in 0.02 s" in log
    receiver.up()
    assert watch_until(lambda: len(receiver.bodies) == 10, *args, *post) == 130
    assert "0 alerts" in capsys.readouterr().err.splitlines()[-2]
    assert receiver.ids == [line["id"] for line in lines(tmp_path / "out.jsonl")]


def test_only_an_accepted_alert_is_not_sent_again(args, receiver, tmp_path, capsys):
    receiver.statuses = [500, 503, 429, 404, 302, 307, 0, 200, 204, 201]
    assert watch_until(lambda: len(set(receiver.ids)) == 10, *args, "--post", receiver.url) == 130
    ids = [line["id"] for line in lines(tmp_path / "out.jsonl")]
    assert receiver.ids == [ids[0]] * 7 + ids
    assert "HTTP Error 503: Service Unavailable; next attempt" in capsys.readouterr().err


def test_an_alert_that_the_server_refuses_does_not_stop_the_others(args, receiver, tmp_path, capsys):
    receiver.statuses = [200, 422]
    assert watch_until(lambda: len(receiver.bodies) == 10, *args, "--post", receiver.url) == 130
    assert len(set(receiver.ids)) == 10
    refused = [line for line in capsys.readouterr().err.splitlines() if "refuses an alert" in line]
    assert len(refused) == 1 and receiver.ids[1] in refused[0]


COMMAND = """
import json, sys
alert = json.load(sys.stdin)
with open(sys.argv[1], "a") as file:
    print(alert["id"], *sys.argv[2:], file=file)
print("to standard error")
count = len(open(sys.argv[1]).readlines())
sys.exit(3 if count in (1, 2) else 0)
"""


def test_a_command_runs_for_each_alert_until_it_succeeds(args, tmp_path, capfd):
    script, out = tmp_path / "command.py", tmp_path / "got [ü]; touch x"
    script.write_text(COMMAND)
    run = json.dumps([sys.executable, str(script), str(out), "$HOME; exit 1", "--flag"])

    def received() -> list[str]:
        return out.read_text().splitlines() if out.exists() else []

    assert watch_until(lambda: len({*received()}) == 10, *args, "--run", run) == 130
    ids = [line["id"] for line in lines(tmp_path / "out.jsonl")]
    assert [line.split()[0] for line in received()][:4] == [ids[0]] * 3 + [ids[1]]
    assert {line.split(" ", 1)[1] for line in received()} == {"$HOME; exit 1 --flag"}
    captured = capfd.readouterr()
    assert "run: the command ended with exit code 3; next attempt in" in captured.err and captured.out == ""


def test_a_command_that_does_not_end_is_killed_and_repeated(args, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("animals_pl.deploy.watch.sinks.COMMAND_TIMEOUT", 0.2)
    log = []

    def is_repeated() -> bool:
        log.append(capsys.readouterr().err)
        return "".join(log).count("the command took more than 0.2 s") >= 2

    assert watch_until(is_repeated, *args, "--run", json.dumps([sys.executable, "-c", "while True: pass"])) == 130


def test_a_line_that_was_torn_does_not_damage_the_next_one(tmp_path):
    file = tmp_path / "new" / "out.jsonl"
    Output(file).send('{"id": "a"}')
    with file.open("ab") as stream:
        stream.write(b'{"id": "to')
    Output(file).send('{"id": "b"}')
    Output(file).send('{"id": "c"}')
    assert file.read_text().splitlines() == ['{"id": "a"}', '{"id": "to', '{"id": "b"}', '{"id": "c"}']


def test_an_output_that_cannot_be_written_for_a_while(args, tmp_path, capsys):
    out = tmp_path / "new" / "out.jsonl"
    args[-1] = out
    log = []

    def restore() -> bool:
        if not out.parent.is_dir():
            log.append(capsys.readouterr().err)
            if "No such file or directory" in "".join(log):
                out.parent.mkdir()
        return len(lines(out)) >= 10

    assert watch_until(lambda: len(lines(out)) == 10, *args) == 130
    out.unlink()
    out.parent.rmdir()
    for file in args[1].iterdir():
        file.write_bytes(file.read_bytes() + b"changed")
    send, Output.__init__ = Output.__init__, lambda self, file: setattr(self, "_file", file)
    try:
        assert watch_until(restore, *args) == 130
    finally:
        Output.__init__ = send


# ---------------------------------------------------------------- kills


class Killable:
    """The command in a process of its own."""

    def __init__(self, *args: object) -> None:
        command = [sys.executable, "-m", "animals_pl", "watch", *map(str, args)]
        command += ["--settle", "10ms", "--every", "10ms", "--unknown", "false"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE)
        assert b"watching" in self.process.stderr.readline()
        threading.Thread(target=self.process.stderr.read, daemon=True).start()

    def end(self, number: int) -> int:
        """Send a signal, and return the exit code."""
        self.process.send_signal(number)
        return self.process.wait()


def write_files(folder: Path, contents: list[bytes], start: int, end: int) -> None:
    """Write files as a camera does: not all at once."""
    for number in range(start, end):
        with (folder / f"{number:03}.jpg").open("wb") as stream:
            stream.write(contents[number][:300])
            stream.flush()
            stream.write(contents[number][300:])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_thirty_times_no_file_and_no_alert_is_lost(model, card, certain, tmp_path, request):
    """500 files come in steps of 16; the server is down in a third of them, and does not answer once in five."""
    rng, receiver = random.Random(0), Receiver()
    contents = [distinct(content, number) for number, content in enumerate([*certain.values()] * 50)]
    out, snapshots = tmp_path / "out.jsonl", tmp_path / "snapshots"
    receiver.up()
    args = [model, card, "--alert", "elephant:0,dog:0", "--quiet", "0", "--output", out, "--snapshots", snapshots]
    args += ["--post", receiver.url]
    unanswered = 0
    for kill in range(30):
        if kill % 3 == 2:
            receiver.down()
        elif kill % 3 == 0 and kill:
            receiver.up()
        if kill % 5 == 4:
            receiver.statuses = [0]
            unanswered += 1
        watched = Killable(*args)
        request.addfinalizer(watched.process.kill)
        aim = len(whole_lines(out)) + rng.randrange(32)  # of the 32 alerts of this step, or more
        write_files(card, contents, 16 * kill, 16 * kill + 16)
        until(lambda: len(whole_lines(out)) >= aim)  # noqa: B023 - called at once
        watched.end(signal.SIGKILL)
    receiver.down()
    receiver.up()
    watched = Killable(*args)
    request.addfinalizer(watched.process.kill)
    write_files(card, contents, 480, 500)
    until(lambda: len({line["id"] for line in whole_lines(out)}) >= 1000 and len(set(receiver.ids)) >= 1000)
    assert watched.end(signal.SIGTERM) == 143
    expected = {(str(card / f"{number:03}.jpg"), name) for number in range(500) for name in ("elefante", "cane")}
    assert {(line["path"], line["class"]) for line in whole_lines(out)} == expected
    ids = [line["id"] for line in whole_lines(out)]
    print(f"repeated: {len(ids) - 1000} lines, {len(receiver.ids) - 1000} requests, of which {unanswered} unanswered")
    assert len({*ids}) == 1000 and {*receiver.ids} == {*ids}
    assert {file.stem for file in snapshots.glob("*.jpg")} == {*ids}
    assert len(ids) - 1000 <= 30
    assert len(receiver.ids) - 1000 <= 30 + unanswered
