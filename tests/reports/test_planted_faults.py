"""Analyze finds exactly the faults that were planted in a practice set."""

from __future__ import annotations

import csv
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from animals_pl.cli import main
from animals_pl.data.sources.practice.practice_set import draw_practice_set

BROKEN = {
    "truncated": [f"cane/cut_{number}.jpg" for number in range(5)],
    "empty file": ["gatto/empty_0.jpg", "ragno/empty_1.jpg"],
    "not an image": ["mucca/notes.jpg"],
    "decompression bomb": ["pecora/bomb.png"],
}


def plant(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    """Plant the faults; return copy → original of the exact and the near-duplicates."""
    files = {name: sorted((root / name).iterdir()) for name in sorted(path.name for path in root.iterdir())}
    for number, file in enumerate(BROKEN["truncated"]):
        content = files["cane"][number].read_bytes()
        (root / file).write_bytes(content[: len(content) * (5 + number) // 10])
    for file in BROKEN["empty file"]:
        (root / file).touch()
    (root / BROKEN["not an image"][0]).write_text("a list of cows")
    (root / BROKEN["decompression bomb"][0]).write_bytes(bomb(30_000))
    exact = {}
    for number, (source, target) in enumerate(
        [("cane", "cane"), ("gallina", "gallina"), ("gatto", "gatto"), ("ragno", "ragno"), ("cane", "gatto"),
         ("cavallo", "mucca")]
    ):  # fmt: skip
        copy = root / target / f"copy_{number}.jpg"
        exact[key(copy, root)] = key(shutil.copy(files[source][5 + number], copy) and files[source][5 + number], root)
    near = {}
    for number, (name, change) in enumerate(CHANGES):
        original = files[name][11 + number // 4]
        copy = root / name / f"near_{number}.jpg"
        with Image.open(original) as picture:
            change(picture).save(copy, quality=80)
        near[key(copy, root)] = key(original, root)
    return exact, near


def key(file: Path, root: Path) -> str:
    return file.relative_to(root).as_posix()


def bomb(side: int) -> bytes:
    """Return a small PNG file with ``side`` × ``side`` black pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packer = zlib.compressobj(9)
    rows = b"".join(packer.compress(bytes(1 + side // 8)) for _ in range(side)) + packer.flush()
    head = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def cut(left: float, top: float, right: float, bottom: float):
    def change(picture: Image.Image) -> Image.Image:
        width, height = picture.size
        return picture.crop(
            (int(left * width), int(top * height), int((1 - right) * width), int((1 - bottom) * height))
        )

    return change


CHANGES = [
    ("cane", lambda picture: picture.resize((picture.width // 2, picture.height // 2))),
    ("gallina", lambda picture: picture.resize((picture.width * 2, picture.height * 2))),
    ("ragno", lambda picture: picture.resize((224, 224))),
    ("scoiattolo", lambda picture: picture.copy()),  # re-encoded
    ("cavallo", lambda picture: picture.quantize(64).convert("RGB")),
    ("farfalla", lambda picture: picture.point(lambda value: min(255, int(1.1 * value + 5)))),
    ("cane", cut(0.02, 0.02, 0.02, 0.02)),
    ("gallina", cut(0.05, 0.05, 0.05, 0.05)),
    ("ragno", cut(0.0, 0.03, 0.04, 0.0)),
    ("elefante", cut(0.04, 0.0, 0.0, 0.0)),
    ("pecora", ImageOps.mirror),
    ("mucca", ImageOps.mirror),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory) -> tuple[Path, dict[str, str], dict[str, str]]:
    """The report folder of an analysis, and the planted duplicates."""
    folder = tmp_path_factory.mktemp("planted")
    root = draw_practice_set(folder / "practice", 260)
    exact, near = plant(root)
    assert main(["analyze", str(root), "--output", str(folder / "report")]) == 0
    return folder / "report", exact, near


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_every_broken_file_is_found_with_its_reason(planted):
    found = {row["path"]: row["problem"] for row in rows(planted[0] / "tables" / "broken.csv")}
    assert found.keys() == {file for files in BROKEN.values() for file in files}
    for reason, files in BROKEN.items():
        assert all(found[file].startswith(reason) for file in files)


def test_exactly_the_planted_duplicates_are_found(planted):
    folder, exact, near = planted
    groups: dict[str, set[str]] = {}
    for row in rows(folder / "tables" / "duplicates.csv"):
        groups.setdefault(row["group"], set()).add(row["path"])
    found = sorted(sorted(group) for group in groups.values())
    assert found == sorted(sorted(pair) for pair in (exact | near).items())


def test_kinds_and_labels_of_duplicates(planted):
    folder, exact, near = planted
    table = {row["path"]: row for row in rows(folder / "tables" / "duplicates.csv")}
    assert all(table[path]["kind"] == "exact" for pair in exact.items() for path in pair)
    assert all(table[path]["kind"] == "near" for pair in near.items() for path in pair)
    conflicting = {path for pair in exact.items() for path in pair if pair[0].split("/")[0] != pair[1].split("/")[0]}
    assert {path for path, row in table.items() if row["labels"] == "2"} == conflicting
    assert len(conflicting) == 4
    assert {row["path"] for row in rows(folder / "exclude.csv")} == conflicting


def test_outliers_are_the_extremes(planted):
    table = rows(planted[0] / "tables" / "outliers.csv")
    manifest = [row for row in rows(planted[0] / "manifest.csv") if not row["problem"]]
    area = sorted(int(row["width"]) * int(row["height"]) for row in manifest)
    for kind, expected in (("smallest", area[:12]), ("largest", area[::-1][:12])):
        sizes = [row["value"].split("×") for row in table if row["kind"] == kind]
        assert [int(width) * int(height) for width, height in sizes] == expected
    contrast = np.sort([float(row["contrast"]) for row in manifest])[:12]
    lowest = [float(row["value"].split()[1]) for row in table if row["kind"] == "low-contrast"]
    assert lowest == pytest.approx(contrast, abs=0.051)
