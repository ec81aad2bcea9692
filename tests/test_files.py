"""Output files, the cache folder and tables."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from rich.table import Table

from animals_pl.cli import main
from animals_pl.errors import UsageError
from animals_pl.files import StagedFolder, atomic_write, cache_dir, require_writable, show


def write(file: Path, text: str = "new") -> None:
    with atomic_write(file) as partial:
        partial.write_text(text)


def test_a_failure_keeps_the_old_file(tmp_path):
    file = tmp_path / "file.txt"
    file.write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_write(file) as partial:
        partial.write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "old"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_written_through(tmp_path, exists):
    target, link = tmp_path / "there" / "target.txt", tmp_path / "link.txt"
    target.parent.mkdir()
    link.symlink_to(target)
    if exists:
        target.write_text("old")
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert list(target.parent.iterdir()) == [target]


def test_a_pipe_receives_the_content(tmp_path):
    pipe, received = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    write(pipe)
    reader.join(timeout=20)
    assert received == ["new"]
    assert pipe.is_fifo()


@pytest.mark.parametrize("redirected", [True, False], ids=["file", "pipe"])
def test_standard_output_is_written_in_place(tmp_path, redirected):
    script = (
        "from pathlib import Path; from animals_pl.files import atomic_write\n"
        "print('before')\n"
        "with atomic_write(Path('/dev/stdout')) as partial: partial.write_text('new\\n')\n"
        "print('after')"
    )
    out = tmp_path / "out.txt"
    with out.open("wb") as stream:
        stdout = stream if redirected else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", script], stdout=stdout, check=True)
    assert (out.read_bytes() if redirected else done.stdout) == b"before\nnew\nafter\n"


def test_a_full_disk_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(Path("/dev/full"))


def test_the_longest_file_name_can_be_written(tmp_path):
    write(tmp_path / ("x" * 255))
    assert [len(file.name) for file in tmp_path.iterdir()] == [255]


@pytest.mark.parametrize(
    ("name", "folder", "fault"),
    [
        ("folder", False, "is a folder"),
        ("file", True, "is a file"),
        ("file/below", False, "cannot be created: '.*file' is a file"),
        ("file/below/that", True, "cannot be created: '.*file' is a file"),
        ("/proc/file", False, r"cannot be written \(No such file or directory\)"),
        ("/dev/null", True, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_written_is_refused(tmp_path, name, folder, fault):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match=rf"output='{tmp_path / name}' {fault}\. Choose another output\."):
        require_writable(tmp_path / name, folder=folder)


def test_a_check_leaves_nothing(tmp_path):
    require_writable(tmp_path / "new" / "file.csv")
    require_writable(tmp_path / "new" / "folder", folder=True)
    require_writable(Path("/dev/stdout"))
    assert list(tmp_path.iterdir()) == []


def test_a_user_without_a_home_folder_has_no_cache(monkeypatch, capsys):
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    libraries = ("HF_HOME", "MPLCONFIGDIR", "TORCH_HOME")
    for name in ("HOME", "ANIMALS_PL_CACHE", "XDG_CACHE_HOME", *libraries):
        monkeypatch.setenv(name, "")  # so that it is restored
        monkeypatch.delenv(name)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.warns(UserWarning, match="no home folder. Set ANIMALS_PL_CACHE"):
        assert main(["--help"]) == 0
    folder = cache_dir()
    assert folder.is_dir()
    assert {Path(os.environ[name]).parent for name in libraries} == {folder}


def test_cells_are_shown_as_they_are(capsys):
    table = Table("[class]")
    for name in ("lynx [male]", "[/]", ":cat:", "[link=x]a[/link]"):
        table.add_row(name)
    show(table)
    printed = capsys.readouterr().out
    assert [
        name for name in ("[class]", "lynx [male]", "[/]", ":cat:", "[link=x]a[/link]") if name not in printed
    ] == []


def staged(target: Path, text: str) -> StagedFolder:
    folder = StagedFolder(target)
    (folder.path / "file.txt").write_text(text)
    return folder


@pytest.mark.parametrize("linked", [True, False])
def test_a_folder_is_replaced_with_all_its_files(tmp_path, linked):
    target = tmp_path / "there"
    target.mkdir()
    (target / "old.txt").write_text("old")
    place = tmp_path / "link" if linked else target
    if linked:
        place.symlink_to(target)
    folder = staged(place, "new")
    assert [file.name for file in place.iterdir()] == ["old.txt"]
    folder.publish()
    assert [file.name for file in place.iterdir()] == ["file.txt"]
    assert set(tmp_path.iterdir()) == {target, place}


def test_a_folder_that_is_discarded_leaves_the_target(tmp_path):
    staged(tmp_path / "new", "half").discard()
    assert list(tmp_path.iterdir()) == []


def test_two_processes_may_replace_one_folder_at_once(tmp_path, monkeypatch):
    target = tmp_path / "folder"
    target.mkdir()
    first = staged(target, "first")
    monkeypatch.setattr(os, "getpid", lambda: 1)
    second = staged(target, "second")
    rename = Path.rename

    def interrupted(self: Path, to: Path) -> Path:
        """The second process publishes after the first has moved the target away."""
        moved = rename(self, to)
        if self == target:
            monkeypatch.setattr(Path, "rename", rename)
            second.publish()
        return moved

    monkeypatch.setattr(Path, "rename", interrupted)
    first.publish()
    assert (target / "file.txt").read_text() == "first"
    assert list(tmp_path.iterdir()) == [target]
