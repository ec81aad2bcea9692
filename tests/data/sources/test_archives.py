"""Archives: layouts, refusals, and resuming."""

from __future__ import annotations

import gzip
import io
import resource
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animals_pl.cli import main
from animals_pl.data.catalog import find_root
from animals_pl.data.sources import archives
from animals_pl.data.sources.archives import Unpacked, unpack
from animals_pl.errors import UsageError

FORMATS = ["zip", "tar", "tar.gz"]


def image(seed: int) -> bytes:
    """A small JPEG, different for each seed."""
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "JPEG")
    return stream.getvalue()


IMAGES = {f"{name}/{name}_{n}.jpg": image(10 * c + n) for c, name in enumerate(["cane", "gatto"]) for n in (0, 1)}


def nested(prefix: str, images: Mapping[str, bytes] = IMAGES) -> dict[str, bytes]:
    return {f"{prefix}{path}": content for path, content in images.items()}


def tar_member(name: str, content: bytes = b"", **attributes: object) -> tuple[tarfile.TarInfo, io.BytesIO]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info, io.BytesIO(content)


def write_archive(file: Path, members: Mapping[str, bytes]) -> Path:
    if file.suffix == ".zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    else:
        with tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w") as archive:
            for name, content in members.items():
                archive.addfile(*tar_member(name, content))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """Function that asserts that an archive is refused and no file is written. Returns the message."""

    def check(archive: Path) -> str:
        before = sorted(tmp_path.rglob("*"))
        assert main(["prepare", "--source", str(archive), "--output", str(tmp_path / "set")]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert f"source={str(archive)!r} cannot be unpacked: " in error
        assert error.count("pass the folder as --source") == 1
        assert [path for path in sorted(tmp_path.rglob("*")) if path.is_file() or path in before] == before
        return error

    return check


@pytest.mark.parametrize("suffix", [*FORMATS, "tgz", "ZIP"])
@pytest.mark.parametrize("prefix", ["", "raw-img/", "archive/raw-img/", "animals10/", "a/b/", "./", "./raw-img/"])
def test_folders_around_class_folders_are_removed(tmp_path, suffix, prefix):
    file = tmp_path / f"x.{suffix}"
    write_archive(file.with_suffix(".gz" if suffix == "tgz" else file.suffix.lower()), nested(prefix)).rename(file)
    assert unpack(file, tmp_path / "set") == Unpacked(images=4, written=4, left_out=0)
    assert contents(tmp_path / "set") == IMAGES


@pytest.mark.parametrize("written", ["zip", "tar", "gz"])
@pytest.mark.parametrize("name", ["x.zip", "x.tar.gz", "x.tar", "x", "x.bin"])
def test_archives_are_recognised_by_their_content(tmp_path, capsys, written, name):
    members = IMAGES | {"notes/inner.zip": write_archive(tmp_path / "inner.zip", IMAGES).read_bytes()}
    write_archive(tmp_path / f"archive.{written}", members).rename(tmp_path / name)
    assert main(["prepare", str(tmp_path / name), "--output", str(tmp_path / "set")]) == 0
    assert "4 images unpacked, 1 other item left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("raw", "declared", "name"),
    [
        ("lämx".encode(), True, "lämx"),
        ("lämx".encode(), False, "lämx"),
        ("パンダ".encode(), False, "パンダ"),
        (b"l\x84mx", False, "lämx"),
        (b"l\xe4mx", False, "lΣmx"),
    ],
)
def test_names_in_a_zip_are_utf_8_or_else_code_page_437(tmp_path, raw, declared, name):
    file = write_archive(tmp_path / "x.zip", {f"{'X' * len(raw)}/a.jpg": image(0), "cane/b.jpg": image(1)})
    file.write_bytes(file.read_bytes().replace(b"X" * len(raw), raw))
    if declared:
        content = bytearray(file.read_bytes())
        content[content.index(LOCAL) + 7] |= 8
        content[content.index(CENTRAL) + 9] |= 8
        file.write_bytes(content)
    unpack(file, tmp_path / "set")
    assert sorted(contents(tmp_path / "set")) == ["cane/b.jpg", f"{name}/a.jpg"]


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "paths",
    [
        ["cane/a.jpg", "gatto/b.jpg"],
        ["cane/a.jpg", "cane/more/b.jpg"],
        ["cane/deep/er/a.jpg"],
        ["set/cane/a.jpg", "set/gatto/deep/b.jpg"],
        ["one/two/cane/a.jpg", "one/two/gatto/b.jpg"],
        ["one/raw-img/cane/a.jpg"],
        ["raw-img/cane/a.jpg", "others/x/b.jpg"],
        ["set/cane/a.jpg", "set/gatto/b.jpg", "cover.jpg"],
    ],
)
def test_class_folders_are_found_as_in_a_folder(tmp_path, suffix, paths):
    archive = write_archive(tmp_path / f"x.{suffix}", dict.fromkeys(paths, IMAGES["cane/cane_0.jpg"]))
    for path in paths:
        (tmp_path / "tree" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree" / path).write_bytes(IMAGES["cane/cane_0.jpg"])
    unpack(archive, tmp_path / "set")
    assert contents(tmp_path / "set") == contents(find_root(tmp_path / "tree"))


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("prefix", ["", "set/raw-img/"])
def test_backslashes_separate_folders(tmp_path, suffix, prefix):
    members = {path.replace("/", "\\"): content for path, content in nested(prefix).items()}
    unpack(write_archive(tmp_path / f"x.{suffix}", members), tmp_path / "set")
    assert contents(tmp_path / "set") == IMAGES


@pytest.mark.parametrize("suffix", FORMATS)
def test_other_files_are_left_out(tmp_path, suffix):
    others = [
        "translate.py",
        "raw-img/cover.jpg",
        "raw-img/cane/.hidden.jpg",
        "raw-img/.git/a.jpg",
        "__MACOSX/raw-img/cane/._cane_0.jpg",
        "__MACOSX/raw-img/cane/cane_0.jpg",
        "raw-img/cane/notes.txt",
    ]
    archive = write_archive(tmp_path / f"x.{suffix}", nested("raw-img/") | dict.fromkeys(others, b"x"))
    assert unpack(archive, tmp_path / "set") == Unpacked(images=4, written=4, left_out=len(others))
    assert contents(tmp_path / "set") == IMAGES


def test_images_are_unpacked_whatever_their_suffix(tmp_path):
    names = ["cane/a.JPG", "cane/b.jpeg", "cane/c.Png", "cane/d.webp", "cane/e.jfif", "cane/f.heic", "cane/no_suffix"]
    archive = write_archive(tmp_path / "x.zip", dict.fromkeys(names, image(0)))
    unpack(archive, tmp_path / "set")
    assert sorted(contents(tmp_path / "set")) == names


def test_folder_named_like_an_image_is_a_folder(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("cane/album.jpg/", b"")
        archive.writestr("cane/album.jpg/a.jpg", IMAGES["cane/cane_0.jpg"])
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(tar_member("cane/album.jpg", type=tarfile.DIRTYPE)[0])
        archive.addfile(*tar_member("cane/album.jpg/a.jpg", IMAGES["cane/cane_0.jpg"]))
    for suffix in ("zip", "tar"):
        assert unpack(tmp_path / f"x.{suffix}", tmp_path / suffix).images == 1
        assert list(contents(tmp_path / suffix)) == ["cane/album.jpg/a.jpg"]


def test_file_names_may_contain_any_bytes(tmp_path):
    name = "cane/caf\udce9.jpg"
    with tarfile.open(tmp_path / "x.tar", "w") as archive:
        archive.addfile(*tar_member(name, IMAGES["cane/cane_0.jpg"]))
    unpack(tmp_path / "x.tar", tmp_path / "set")
    assert list(contents(tmp_path / "set")) == [name]


@pytest.mark.parametrize("suffix", FORMATS)
def test_second_run_writes_nothing(tmp_path, suffix):
    archive = write_archive(tmp_path / f"x.{suffix}", IMAGES)
    unpack(archive, tmp_path / "set")
    before = {path: path.stat() for path in tmp_path.rglob("*")}
    assert unpack(archive, tmp_path / "set") == Unpacked(images=4, written=0, left_out=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == {
        path: status.st_mtime_ns for path, status in before.items()
    }


@pytest.mark.parametrize("suffix", FORMATS)
def test_missing_images_are_unpacked_again(tmp_path, suffix):
    archive = write_archive(tmp_path / f"x.{suffix}", IMAGES)
    root = tmp_path / "set"
    unpack(archive, root)
    kept, *gone = sorted(root.rglob("*.jpg"))
    for path in gone:
        path.unlink()
    modified = kept.stat().st_mtime_ns
    assert unpack(archive, root) == Unpacked(images=4, written=3, left_out=0)
    assert contents(root) == IMAGES
    assert kept.stat().st_mtime_ns == modified


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, OSError])
def test_interruption_leaves_only_complete_files(tmp_path, monkeypatch, interruption):
    archive = write_archive(tmp_path / "x.zip", IMAGES)
    extract = zipfile.ZipFile.extract

    def interrupt(file: zipfile.ZipFile, member: zipfile.ZipInfo, path: Path) -> None:
        if member.filename == "gatto/gatto_1.jpg":
            (path / "gatto" / "gatto_1.jpg").write_bytes(b"half of it")
            raise interruption(28, "No space left on device")
        extract(file, member, path)

    monkeypatch.setattr(zipfile.ZipFile, "extract", interrupt)
    with pytest.raises(interruption):
        unpack(archive, tmp_path / "set")
    assert list(tmp_path.iterdir()) == [archive]


@pytest.mark.parametrize("suffix", FORMATS)
def test_different_file_is_reported_and_kept(tmp_path, capsys, suffix):
    archive = write_archive(tmp_path / f"x.{suffix}", IMAGES)
    mine = tmp_path / "set/raw-img/gatto/gatto_1.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    assert main(["prepare", "--source", str(archive), "--output", str(tmp_path / "set")]) == 2
    error = capsys.readouterr().err
    assert repr(str(mine)) in error
    assert "another --output" in error
    assert contents(tmp_path / "set") == {"raw-img/gatto/gatto_1.jpg": b"mine"}


def test_symlink_is_not_followed(tmp_path):
    archive = write_archive(tmp_path / "x.zip", IMAGES)
    (tmp_path / "set/cane").mkdir(parents=True)
    (tmp_path / "set/cane/cane_0.jpg").symlink_to(tmp_path / "elsewhere.jpg")
    with pytest.raises(UsageError, match=r"cane_0\.jpg"):
        unpack(archive, tmp_path / "set")
    assert not (tmp_path / "elsewhere.jpg").exists()
    assert contents(tmp_path / "set") == {}


def test_failed_write_names_the_output(tmp_path, capsys):
    archive = write_archive(tmp_path / "x.zip", IMAGES)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1]))  # no file may be as large as an image
    try:
        assert main(["prepare", "--source", str(archive), "--output", str(tmp_path / "set")]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    error = capsys.readouterr().err
    assert f"output={str(tmp_path / 'set')!r}" in error
    assert "File too large" in error
    assert contents(tmp_path / "set") == {}


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize(
    "name",
    [
        "../cane/evil.jpg",
        "raw-img/cane/../../../evil.jpg",
        "cane/..",
        "/etc/evil.jpg",
        "//server/evil.jpg",
        "C:/evil.jpg",
        "c:evil.jpg",
        "..\\evil.jpg",
        "\\server\\evil.jpg",
        "C:\\evil.jpg",
        "../notes.txt",
    ],
)
def test_names_outside_the_folder_are_refused(tmp_path, refused, suffix, name):
    message = refused(write_archive(tmp_path / f"x.{suffix}", IMAGES | {name: image(99)}))
    posix = name.replace("\\", "/")
    assert f"its entry {posix!r} is outside the folder" in message


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE],
    ids=["symbolic link", "hard link", "character device", "block device", "pipe"],
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, refused, suffix, kind):
    file = tmp_path / f"x.{suffix}"
    with tarfile.open(file, "w:gz" if suffix == "tar.gz" else "w") as archive:
        for name, content in IMAGES.items():
            archive.addfile(*tar_member(name, content))
        archive.addfile(tar_member("cane/odd.jpg", type=kind, linkname="cane/cane_0.jpg")[0])
    assert "its entry 'cane/odd.jpg' is a link or a device" in refused(file)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices_in_a_zip_are_refused(tmp_path, refused, kind):
    file = write_archive(tmp_path / "x.zip", IMAGES)
    with zipfile.ZipFile(file, "a") as archive:
        odd = zipfile.ZipInfo("cane/odd.jpg")
        odd.external_attr = (kind | 0o777) << 16
        archive.writestr(odd, "/etc/passwd")
    assert "its entry 'cane/odd.jpg' is a link or a device" in refused(file)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("again", ["cane/cane_0.jpg", "./cane/cane_0.jpg", "cane//cane_0.jpg"])
def test_two_files_with_the_same_path_are_refused(tmp_path, refused, suffix, again):
    file = write_archive(tmp_path / f"x.{suffix}", IMAGES)
    if suffix == "zip":
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(again, image(99))
    else:
        with tarfile.open(file, "w:gz" if suffix == "tar.gz" else "w") as archive:
            for name, content in [*IMAGES.items(), (again, image(99))]:
                archive.addfile(*tar_member(name, content))
    assert f"two files {again!r}" in refused(file)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("first", [True, False])
def test_a_file_and_a_folder_of_one_name_are_refused(tmp_path, refused, suffix, first):
    members = {"cane": b"x"} | IMAGES if first else IMAGES | {"cane": b"x"}
    assert "is both a file and a folder" in refused(write_archive(tmp_path / f"x.{suffix}", members))


def patch_zip(file: Path, signature: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes of the last header with this signature."""
    content = bytearray(file.read_bytes())
    start = content.rindex(signature) + offset
    content[start : start + len(value)] = value
    file.write_bytes(content)


LOCAL, CENTRAL = b"PK\x03\x04", b"PK\x01\x02"


def test_encrypted_zip_is_refused(tmp_path, refused):
    file = write_archive(tmp_path / "x.zip", IMAGES)
    patch_zip(file, LOCAL, 6, b"\1\0")
    patch_zip(file, CENTRAL, 8, b"\1\0")
    assert "its entry 'gatto/gatto_1.jpg' is encrypted" in refused(file)


@pytest.mark.parametrize("change", [-200, -1])
def test_wrong_size_in_a_zip_header_is_refused(tmp_path, refused, change):
    file = write_archive(tmp_path / "x.zip", {"cane/a.jpg": image(0)})
    size = len(image(0)) + change
    patch_zip(file, LOCAL, 22, struct.pack("<I", size))
    patch_zip(file, CENTRAL, 24, struct.pack("<I", size))
    assert "cannot be read" in refused(file)


def test_zip_of_two_gigabytes_is_refused(tmp_path, refused):
    file = write_archive(tmp_path / "x.zip", IMAGES)
    patch_zip(file, CENTRAL, 24, struct.pack("<I", 2**31))
    assert "unpacks to more than 1,073,741,824 bytes" in refused(file)


@pytest.mark.parametrize("suffix", ["tar", "tar.gz"])
def test_tar_of_two_gigabytes_is_refused_before_reading_them(tmp_path, refused, suffix):
    file = tmp_path / f"x.{suffix}"
    header = tar_member("cane/huge.jpg", size=2**31)[0].tobuf()
    file.write_bytes(gzip.compress(header) if suffix == "tar.gz" else header)
    assert "unpacks to more than 1,073,741,824 bytes" in refused(file)


@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_only_extreme_expansion_is_refused(tmp_path, refused, monkeypatch, suffix):
    monkeypatch.setattr(archives, "ALWAYS_ALLOWED", 50_000)
    bomb = write_archive(tmp_path / f"bomb.{suffix}", IMAGES | {"cane/zeros.jpg": bytes(1_000_000)})
    assert archives.MAX_EXPANSION * bomb.stat().st_size < 1_000_000
    assert "too many for its size" in refused(bomb)
    many = {f"cane/{n}.jpg": image(n) for n in range(40)}
    assert sum(map(len, many.values())) > archives.ALWAYS_ALLOWED
    assert unpack(write_archive(tmp_path / f"many.{suffix}", many), tmp_path / "many").written == 40


@pytest.mark.parametrize("suffix", FORMATS)
def test_too_many_entries_are_refused(tmp_path, refused, monkeypatch, suffix):
    monkeypatch.setattr(archives, "MAX_ENTRIES", 3)
    assert "more than 3 entries" in refused(write_archive(tmp_path / f"x.{suffix}", IMAGES))


def damage(content: bytes, at: float) -> bytes:
    """Invert 40 bytes at a fraction of the length."""
    start = int(at * len(content))
    return content[:start] + bytes(255 - byte for byte in content[start : start + 40]) + content[start + 40 :]


@pytest.mark.parametrize(
    "spoil",
    [lambda c: b"", lambda c: b"no archive", lambda c: c[: len(c) // 2], lambda c: c[:-600], lambda c: damage(c, 0.0)],
    ids=["empty", "text", "first half", "end missing", "beginning damaged"],
)
@pytest.mark.parametrize("suffix", ["zip", "tar.gz"])
def test_damaged_archive_is_refused(tmp_path, refused, suffix, spoil):
    file = write_archive(tmp_path / f"x.{suffix}", IMAGES)
    file.write_bytes(spoil(file.read_bytes()))
    assert "cannot be read" in refused(file)


def test_damaged_file_in_a_zip_is_refused(tmp_path, refused):
    file = write_archive(tmp_path / "x.zip", IMAGES)
    file.write_bytes(damage(file.read_bytes(), 0.1))
    assert "cannot be read" in refused(file)


def test_damaged_tar_gz_is_refused(tmp_path, refused):
    file = write_archive(tmp_path / "x.tar.gz", IMAGES)
    file.write_bytes(damage(file.read_bytes(), 0.5))
    assert "cannot be read" in refused(file)


@pytest.mark.parametrize("member", range(4))
def test_damaged_header_in_a_tar_is_refused(tmp_path, refused, member):
    file = write_archive(tmp_path / "x.tar", IMAGES)
    content = bytearray(file.read_bytes())
    content[content.index(list(IMAGES)[member].encode())] ^= 255
    file.write_bytes(content)
    assert "cannot be read" in refused(file)


def test_truncated_tar_is_refused(tmp_path, refused):
    file = write_archive(tmp_path / "x.tar", IMAGES)
    content = file.read_bytes()
    file.write_bytes(content[: content.index(IMAGES["gatto/gatto_1.jpg"]) + 100])
    assert "cannot be read" in refused(file)


@pytest.mark.parametrize("suffix", FORMATS)
@pytest.mark.parametrize("members", [{}, {"notes.txt": b"x"}, {"cover.jpg": b"x"}, {"__MACOSX/cane/._a.jpg": b"x"}])
def test_archive_without_images_is_refused(tmp_path, refused, suffix, members):
    assert "no folders of images" in refused(write_archive(tmp_path / f"x.{suffix}", members))
