"""``watch`` on a folder: which files are taken, when, and how often; state, log, exit codes, wrong use."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import onnx
import pytest
from PIL import Image
from watching import distinct, lines, watch, watch_until

from animals_pl.deploy.metadata import read_texts
from animals_pl.deploy.onnx_file import seal
from animals_pl.deploy.watch import folder as folder_module
from animals_pl.deploy.watch.folder import CENSUS, REMEMBERED, Folder
from animals_pl.deploy.watch.frame import Stop
from animals_pl.deploy.watch.state import KEPT_ALERTS, Alert, FileVersion, State
from animals_pl.errors import UsageError

ALL = "dog:0,horse:0,elephant:0"
"""Every image raises three alerts."""


def images(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.jpg"))


def paths(file: Path) -> list[object]:
    return sorted({line["path"] for line in lines(file)})


def refused(capsys, *args: object) -> str:
    """Run a command with wrong options and return its one-line message."""
    assert watch(*args) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("animals_pl watch: error: ")
    return line


# ---------------------------------------------------------------- alerts


def test_alerts_are_the_files_at_or_above_the_threshold(model, identifier, tiny_tree, card, tmp_path):
    for number, file in enumerate(sorted(tiny_tree.rglob("*.jpg"))):
        target = card / f"day {number % 3}" / "a" / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    out, snaps = tmp_path / "alerts.jsonl", tmp_path / "snaps"
    expected = {
        (one.path, name): probability
        for one in identifier.predict(images(card), top_k=10, unknown=False)
        for name, probability in one.top
        if probability >= {"elefante": 0.2, "cane": 0.3}.get(name, 2)
        and one.unknown_score <= identifier.metadata.unknown_threshold
    }
    args = [model, card, "--alert", "elephant,cane:0.3", "--threshold", 0.2, "--quiet", 0, "--unknown"]
    args += ["--output", out, "--snapshots", snaps]
    assert watch_until(lambda: len(lines(out)) >= len(expected), *args) == 130
    found = lines(out)
    assert {(line["path"], line["class"]) for line in found} == expected.keys() and len(found) == len(expected)
    assert {line["class"] for line in found} == {"elefante", "cane"}
    for line in found:
        assert line["probability"] == pytest.approx(expected[line["path"], line["class"]], abs=1e-5)
        key = [str(card.resolve()), hashlib.sha256(Path(line["path"]).read_bytes()).hexdigest(), line["class"]]
        assert line["id"] == hashlib.sha256("\0".join(key).encode()).hexdigest()[:32]
        with Image.open(line["snapshot"]) as picture, Image.open(line["path"]) as original:
            assert picture.format == "JPEG" and picture.size == original.size
        assert (line["source"], line["model"]) == (str(card), identifier.metadata.sha256[:12])
        assert line["english"] == {"elefante": "elephant", "cane": "dog"}[line["class"]]
        assert line["threshold"] == {"elefante": 0.2, "cane": 0.3}[line["class"]]
    assert {file.name for file in snaps.iterdir()} == {f"{line['id']}.jpg" for line in found}


def with_threshold(model: Path, file: Path, threshold: float | None) -> Path:
    """Write the model with another threshold for unknown images."""
    texts = {key: text for key, text in read_texts(model.read_bytes()).items() if key != "sha256"}
    texts["unknown_threshold"] = json.dumps(threshold)
    file.write_bytes(seal(onnx.load_from_string(model.read_bytes()), texts))
    return file


@pytest.mark.parametrize(
    ("above", "options", "expected"),
    [
        (-1, ["--unknown", "null"], 0),
        (-1, ["--unknown", "false"], 3),
        (1, ["--unknown", "true"], 3),
        (None, ["--unknown", "null"], 3),
    ],
)
def test_images_of_no_known_class_raise_no_alert(
    model, identifier, certain, card, tmp_path, monkeypatch, above, options, expected
):
    (card / "a.jpg").write_bytes(certain["elefante"])
    (score,) = [one.unknown_score for one in identifier.predict(card)]
    file = with_threshold(model, tmp_path / "other.onnx", None if above is None else score + above)
    args = [file, card, "--alert", ALL, "--output", tmp_path / "out.jsonl", *options]
    (card / "b.jpg").touch()
    assert is_done_after(args, card / "b.jpg")
    assert len(lines(tmp_path / "out.jsonl")) == expected


def test_quiet_time_survives_a_restart(model, certain, card, tmp_path):
    out = tmp_path / "out.jsonl"
    args = [model, card, "--alert", "elephant:0,dog:0", "--output", out]
    (card / "a.jpg").write_bytes(certain["elefante"])
    assert watch_until(lambda: len(lines(out)) == 2, *args) == 130
    (card / "b.jpg").write_bytes(certain["cane"])
    (card / "bad.jpg").touch()  # the last one by its time: when it is done, so is b.jpg
    assert is_done_after(args, card / "bad.jpg") and len(lines(out)) == 2
    (card / "c.jpg").write_bytes(certain["gatto"])
    assert watch_until(lambda: len(lines(out)) == 4, *args, "--quiet", 0) == 130
    assert paths(out) == [str(card / "a.jpg"), str(card / "c.jpg")]


def is_done_after(args: list[object], file: Path) -> bool:
    """Run the command until a file without an image is in the log, and return True."""
    log = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stderr", log)
        assert watch_until(lambda: f"{file}: empty file" in log.getvalue(), *args) == 130
    return True


# ---------------------------------------------------------------- which files, and when


@pytest.fixture
def clock(monkeypatch):
    """The clock of this machine, as a list with one time."""
    now = [1000.0]
    monkeypatch.setattr(folder_module.time, "monotonic", lambda: now[0])
    return now


class Look:
    """Looks at a folder, and records what is found as done."""

    def __init__(self, root: Path, settle: float = 2) -> None:
        self.state = State(root.parent / "state.sqlite", str(root))
        self.counts: Counter[str] = Counter()
        self._frames = iter(Folder(root, self.state, 32, 0, settle, self.counts, Stop()))

    def __call__(self) -> list[str]:
        """Paths of the files that are taken at the next look."""
        found = []
        while frame := next(self._frames):
            found.append(frame.file.path)
            self.state.record([], [], frame.file, folder_module.time.time())
        return found


def test_a_file_is_taken_when_it_has_not_changed_for_a_while(card, certain, clock):
    look, content = Look(card), certain["cane"]
    file = card / "a" / "b" / "photo.JPG"
    file.parent.mkdir(parents=True)
    taken = []
    for part in (0, 100, 200, len(content)):
        file.write_bytes(content[:part])
        for _ in range(2):
            taken += look()
            clock[0] += 1
        os.utime(file, (part, part))
    assert taken == []
    assert look() == []
    clock[0] += 1.9
    assert look() == []
    clock[0] += 0.2
    assert look() == ["a/b/photo.JPG"]
    clock[0] += 100
    assert look() == []
    with file.open("ab") as stream:
        stream.write(b"more")
    assert look() == []
    clock[0] += 2
    assert look() == ["a/b/photo.JPG"]


def test_hidden_files_other_files_pipes_and_circles_are_skipped(card, certain):
    look = Look(card, settle=0)
    for name in (".hidden.jpg", ".folder/a.jpg", "notes.txt", "upload.jpg.part", "no_suffix", "sub/good.png", "ok.jpg"):
        (card / name).parent.mkdir(exist_ok=True)
        (card / name).write_bytes(certain["cane"])
    os.mkfifo(card / "pipe.jpg")
    (card / "dead.jpg").symlink_to("nowhere.jpg")
    (card / "linked.jpg").symlink_to("ok.jpg")
    (card / "folder.jpg").mkdir()
    (card / "sub" / "circle").symlink_to(card)
    assert sorted(look()) == ["linked.jpg", "ok.jpg", "sub/good.png"]


def test_names_that_are_not_utf8(model, card, certain, tmp_path):
    out = tmp_path / "out.jsonl"
    names = [os.fsdecode(name) for name in (b"new\nline.jpg", b"latin-\xe4.jpg", "ünï 🐕.jpg".encode(), b"-x'\".jpg")]
    for number, name in enumerate(names):
        (card / name).write_bytes(distinct(certain["cane"], number))
    args = [model, card, "--alert", "dog:0", "--quiet", 0, "--output", out, "--snapshots", tmp_path / "s"]
    assert watch_until(lambda: len(lines(out)) == len(names), *args) == 130
    assert paths(out) == sorted(str(card / name) for name in names)


def test_unreadable_files_are_logged_once_and_taken_again_when_they_change(card, certain, capsys):
    look = Look(card, settle=0)
    (card / "a.jpg").touch()
    (card / "b.jpg").write_bytes(b"not an image")
    (card / "c.jpg").write_bytes(certain["cane"][:-200])
    assert sorted(look()) == ["a.jpg", "b.jpg", "c.jpg"] and look() == []
    log = capsys.readouterr().err
    assert log.count("\n") == 3 and "a.jpg: empty file" in log and "c.jpg: truncated" in log
    assert look.counts["unreadable"] == 2
    (card / "a.jpg").write_bytes(certain["cane"])
    assert look() == ["a.jpg"] and look() == []
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_read_is_tried_again(card, certain, clock, monkeypatch, capsys):
    look = Look(card)
    (card / "a.jpg").write_bytes(certain["cane"])
    read_file = folder_module.read_file
    monkeypatch.setattr(folder_module, "read_file", lambda path: (b"", {}, "cannot be read: Input/output error"))
    for _ in range(100):
        assert look() == []
        clock[0] += 2
    assert capsys.readouterr().err.count("Input/output error; it will be tried again") == 1
    monkeypatch.setattr(folder_module, "read_file", read_file)
    clock[0] += 60
    assert look() == ["a.jpg"]


def test_a_file_that_changes_while_it_is_read_is_not_done(card, certain, monkeypatch):
    look = Look(card, settle=0)
    (card / "a.jpg").write_bytes(certain["cane"])
    read_file = folder_module.read_file

    def grow(path: str):
        with Path(path).open("ab") as stream:
            stream.write(b"x")
        return read_file(path)

    monkeypatch.setattr(folder_module, "read_file", grow)
    assert look() == []
    monkeypatch.setattr(folder_module, "read_file", read_file)
    assert look() == ["a.jpg"]


def test_a_network_drive_that_goes_and_comes_back(card, certain, capsys):
    look = Look(card, settle=0)
    for number in range(20):
        (card / f"{number}.jpg").write_bytes(certain["cane"])
    assert len(look()) == 20
    card.rename(card.with_name("away"))
    assert [look() for _ in range(5)] == [[]] * 5
    assert capsys.readouterr().err.count("the folder cannot be read: No such file or directory") == 1
    card.mkdir()  # the mount point without the drive
    assert look() == []
    card.rmdir()
    (card.with_name("away") / "new.jpg").write_bytes(certain["cane"])
    card.with_name("away").rename(card)
    assert look() == ["new.jpg"]


def test_more_files_than_are_observed_at_the_same_time(card, certain, monkeypatch):
    monkeypatch.setattr(folder_module, "MOST_PENDING", 3)
    look = Look(card, settle=0)
    for number in range(10):
        (card / f"{number}.jpg").write_bytes(certain["cane"])
        os.utime(card / f"{number}.jpg", (100 - number, 100 - number))
    found = [look() for _ in range(5)]
    assert [len(names) for names in found] == [3, 3, 3, 1, 0]
    assert {name for names in found for name in names} == {f"{number}.jpg" for number in range(10)}
    assert all(names == sorted(names, reverse=True) for names in found)  # the oldest first


def test_files_that_are_gone_for_long_are_forgotten(card, certain, clock, monkeypatch):
    now = [1e9]
    monkeypatch.setattr(folder_module.time, "time", lambda: now[0])
    look = Look(card, settle=0)
    for name in ("stays.jpg", "goes.jpg"):
        (card / name).write_bytes(certain["cane"])
    assert len(look()) == 2
    statuses = {file.name: file.stat() for file in card.iterdir()}
    kept = {name: FileVersion(name, status.st_size, status.st_mtime_ns) for name, status in statuses.items()}
    (card / "goes.jpg").rename(card.parent / "goes.jpg")
    away = card.rename(card.with_name("away"))
    card.mkdir()
    for _ in range(40):  # days without the network drive
        clock[0] += CENSUS
        now[0] += CENSUS
        assert look() == []
    assert all(map(look.state.is_done, kept.values()))
    card.rmdir()
    away.rename(card)
    clock[0] += CENSUS
    assert look() == []
    assert {name: look.state.is_done(file) for name, file in kept.items()} == {"stays.jpg": True, "goes.jpg": False}
    assert CENSUS * 40 > REMEMBERED


def test_a_restart_neither_repeats_nor_loses_a_file(model, card, certain, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    args = [model, card, "--alert", "dog:0", "--quiet", 0, "--output", out]
    for number in range(6):
        (card / f"{number}.jpg").write_bytes(distinct(certain["cane"], number))
        expected = 2 * number + 1
        assert watch_until(lambda: len(lines(out)) >= expected, *args) == 130  # noqa: B023 - called at once
        (card / f"{number}b.jpg").write_bytes(distinct(certain["cane"], 100 + number))
    assert watch_until(lambda: len(lines(out)) >= 12, *args, number=signal.SIGINT) == 130
    assert paths(out) == images(card) and len({line["id"] for line in lines(out)}) == len(lines(out)) == 12
    assert "0 alerts" not in capsys.readouterr().err.splitlines()[-2]


def test_the_same_content_under_another_name_raises_no_new_alert(model, card, certain, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    args = [model, card, "--alert", "dog:0", "--quiet", 0, "--output", out]
    (card / "a.jpg").write_bytes(certain["cane"])
    assert watch_until(lambda: len(lines(out)) == 1, *args) == 130
    (card / "a.jpg").rename(card / "b.jpg")
    (card / "c.jpg").write_bytes(certain["gatto"])
    assert watch_until(lambda: len(lines(out)) == 2, *args) == 130
    assert paths(out) == [str(card / "a.jpg"), str(card / "c.jpg")]


# ---------------------------------------------------------------- state


def test_a_state_is_used_by_one_process_and_one_source(tmp_path):
    file = tmp_path / "state.sqlite"
    first = State(file, "here")
    with pytest.raises(UsageError, match="another process uses it"):
        State(file, "here")
    first.close()
    with pytest.raises(UsageError, match="it belongs to another source"):
        State(file, "rtsp://user:secret@there")
    (tmp_path / "text").write_text("no database " * 100)
    with pytest.raises(UsageError, match="file is not a database"):
        State(tmp_path / "text", "here")
    State(file, "here").close()
    assert b"secret" not in file.read_bytes()


def test_a_database_of_another_program_is_refused(tmp_path):
    import sqlite3

    with sqlite3.connect(tmp_path / "other") as database:
        database.execute("CREATE TABLE files (path TEXT)")
    database.close()
    with pytest.raises(UsageError, match="another program or version"):
        State(tmp_path / "other", "here")


def test_delivered_alerts_are_limited_and_waiting_ones_are_not(tmp_path):
    state = State(tmp_path / "state", "here")
    alerts = [Alert(str(number), "cane", number, "{}") for number in range(KEPT_ALERTS + 20)]
    assert state.record(alerts[:5], ["post"], None, 0) == 5
    assert state.record(alerts[3:], [], None, 0) == KEPT_ALERTS + 15
    state.forget(0)
    assert state.record(alerts[:30], [], None, 0) == 15  # 5 … 19 were forgotten
    assert state.waiting() == {"post": 5}
    assert state.next_delivery("post") == (1, "{}")
    assert state.last_alerts() == {"cane": 19}


def test_an_alert_and_its_file_are_recorded_together(tmp_path):
    state = State(tmp_path / "state", "here")
    file = FileVersion("a.jpg", 1, 2)
    with pytest.raises(UsageError):
        state.record([Alert("a", "cane", 0, "{}")], ["post", "post"], file, 0)  # the second delivery cannot be added
    assert not state.is_done(file) and state.waiting() == {} and state.last_alerts() == {}


# ---------------------------------------------------------------- processes


def test_signals_end_with_a_summary(model, card, certain, tmp_path, capsys):
    out = tmp_path / "out.jsonl"
    (card / "a.jpg").write_bytes(certain["cane"])
    args = [model, card, "--alert", "dog:0", "--output", out]
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert watch_until(lambda: lines(out), *args, number=signal.SIGTERM) == 143
    *_, summary, last = capsys.readouterr().err.splitlines()
    assert summary.endswith(f"watched {card}: 1 image, 1 alert") and last == "animals_pl watch: terminated"
    assert watch_until(lambda: "watching" in capsys.readouterr().err, *args) == 130
    assert "0 images, 0 alerts" in capsys.readouterr().err
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


WITHOUT_TORCH = """
import sys
for name in ("torch", "lightning", "timm", "pandas", "sklearn", "scipy", "matplotlib", "onnx", "cv2", "jinja2"):
    sys.modules[name] = None
from animals_pl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_runs_where_only_the_runtime_is_installed_and_writes_to_standard_output(model, card, certain, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "watch", model, card, "--alert", "dog:0", "--settle", "0"]
    command += ["--unknown", "false"]
    (card / "a.jpg").write_bytes(certain["cane"])
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert json.loads(process.stdout.readline())["path"] == str(card / "a.jpg")
        process.terminate()
        rest, log = process.communicate()
    assert (process.returncode, rest) == (143, "")
    assert "1 image, 1 alert" in log


def test_ends_when_the_reader_of_standard_output_is_gone(model, card, certain):
    command = [sys.executable, "-m", "animals_pl", "watch", model, card, "--alert", "dog:0", "--quiet", "0"]
    command += ["--settle", "0", "--unknown", "false"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        (card / "a.jpg").write_bytes(certain["cane"])
        log = process.stderr.read()
        assert process.wait() == 0, log
    assert b"Traceback" not in log
    out = card.parent / "out.jsonl"
    assert watch_until(lambda: lines(out), model, card, "--alert", "dog:0", "--output", out) == 130  # not lost


def test_wrong_use_is_one_line(model, card, tmp_path, capsys, monkeypatch):
    ok = [model, card, "--alert", "dog"]
    assert "'elefant', which is not a class" in refused(capsys, model, card, "--alert", "elefant")
    assert "--alert is missing" in refused(capsys, model, card)
    assert "source='nowhere' does not exist" in refused(capsys, model, "nowhere", "--alert", "dog")
    assert "frames='2/3' only applies to videos" in refused(capsys, *ok, "--frames", "2/3")
    assert "threshold=2.0 is out of range" in refused(capsys, *ok, "--threshold", 2)
    assert "quiet='soon' is invalid" in refused(capsys, *ok, "--quiet", "soon")
    assert "every='0' is invalid" in refused(capsys, *ok, "--every", 0)
    assert "is inside the watched folder" in refused(capsys, *ok, "--snapshots", card / "snaps")
    assert "is a folder" in refused(capsys, *ok, "--output", tmp_path)
    assert "output='/dev/null' is a stream" in refused(capsys, *ok, "--output", "/dev/null")
    assert "post is not a usable URL" in refused(capsys, *ok, "--post", "ftp://a/b")
    assert "post is not a usable URL" in refused(capsys, *ok, "--post", "http://user:password@a/b")
    assert "secret_file='s' only applies to post" in refused(capsys, *ok, "--secret_file", "s")
    assert "secret_file='s' cannot be read" in refused(capsys, *ok, "--secret_file", "s", "--post", "http://a/b")
    (tmp_path / "s").touch()
    assert "secret_file='s' is empty" in refused(capsys, *ok, "--secret_file", "s", "--post", "http://a/b")
    assert "is not a command" in refused(capsys, *ok, "--run", '["no-such-command"]')
    assert "is not a command" in refused(capsys, *ok, "--run", "[]")
    assert "run=notify is invalid" in refused(capsys, *ok, "--run", "notify")
    assert "is a folder" in refused(capsys, *ok, "--state", tmp_path)
    without = with_threshold(model, tmp_path / "without.onnx", None)
    assert "the model has no threshold" in refused(capsys, without, *ok[1:], "--unknown")
    monkeypatch.setitem(sys.modules, "cv2", None)
    for source in ("0", "rtsp://127.0.0.1/x", model):
        message = refused(capsys, model, source, "--alert", "dog")
        assert "need OpenCV. Run: pip install 'animals_pl[video]'" in message
