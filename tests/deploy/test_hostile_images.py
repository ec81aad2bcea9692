"""classify with damaged and malicious image files: one row each, a reason, bounded memory, no crash."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.data.decode import MAX_FILE_BYTES
from animals_pl.data.walk import find_images
from animals_pl.deploy.export import export

FORMATS = ("JPEG", "PNG", "WEBP", "GIF")

MOST_BYTES = 400_000_000
"""Peak memory that is accepted: a quarter of it is Python with its packages."""


@pytest.fixture(scope="module")
def model(tiny_tree, tmp_path_factory) -> Path:
    """An exported file. Read only."""
    folder = tmp_path_factory.mktemp("hostile")
    data = AnimalsDataModule(str(tiny_tree), size=32, num_workers=0)
    run = fit(AnimalClassifier("shallownet"), data, max_epochs=1, default_root_dir=str(folder))
    return export(run.best_path, folder / "model.onnx").path


CLASSIFY = """
import sys
from pathlib import Path
from animals_pl.cli import main
code = main(["classify", *sys.argv[1:]])
print(*[line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")])
sys.exit(code)
"""
"""Runs the command and prints the peak memory of its process."""


def classified(model: Path, folder: Path, output: Path) -> tuple[dict[str, dict[str, str]], int]:
    """Name of a file → row of ``classify``, and the peak memory of its process in bytes."""
    command = [sys.executable, "-c", CLASSIFY, model, folder, "--output", output]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    with output.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(list(folder.iterdir()))
    return {Path(row["path"]).name: row for row in rows}, 1024 * int(done.stdout.split()[-2])


def encoded(path: Path, name: str) -> bytes:
    """An image in another format."""
    stream = io.BytesIO()
    with Image.open(path) as picture:
        picture.convert("RGB").save(stream, name)
    return stream.getvalue()


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one kind of damage: changed bytes, often in the header; a part cut out, repeated or zeroed."""
    data = bytearray(content)
    kind, end = rng.integers(5), len(data) if rng.random() < 0.5 else min(200, len(data))
    start, length = int(rng.integers(end)), int(rng.integers(1, 2000))
    part = slice(start, start + length)
    if kind == 0:
        for position in rng.integers(0, end, rng.integers(1, 30)):
            data[position] = rng.integers(256)
    elif kind == 1:
        del data[start:]
    elif kind == 2:
        del data[part]
    elif kind == 3:
        data[start:start] = data[part]
    else:
        data[part] = bytes(len(data[part]))
    return bytes(data)


@pytest.mark.slow
def test_three_hundred_mutated_photographs(model, animals10_root, tmp_path):
    rng = np.random.default_rng(0)
    folder = tmp_path / "mutated"
    folder.mkdir()
    photographs = find_images(animals10_root)
    for number in range(300):
        name = FORMATS[number % len(FORMATS)]
        content = mutated(encoded(photographs[number * 10], name), rng)
        (folder / f"{number:03}.{name.lower()}").write_bytes(content)
    rows, peak = classified(model, folder, tmp_path / "out.csv")
    assert all(row["class"] or row["problem"] for row in rows.values())
    damaged = [row for row in rows.values() if row["problem"]]
    assert 100 < len(damaged) < 300  # a changed pixel is not always noticed
    assert all(len(row["problem"]) < 200 for row in damaged)
    assert peak < MOST_BYTES


def png(side: int) -> bytes:
    """A square PNG of one bit per pixel, black: some kilobytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = side.to_bytes(4, "big") * 2 + bytes([1, 0, 0, 0, 0])
    pixels = zlib.compress(bytes((1 + -(-side // 8)) * side))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def test_huge_images_and_files_have_a_reason_and_take_no_memory(model, tmp_path):
    folder = tmp_path / "huge"
    folder.mkdir()
    (folder / "a.png").write_bytes(png(30_000))
    with (folder / "b.jpg").open("wb") as stream:
        stream.truncate(MAX_FILE_BYTES + 1)  # a sparse file
    (folder / "c.png").write_bytes(png(100))
    rows, peak = classified(model, folder, tmp_path / "out.csv")
    assert "decompression bomb" in rows["a.png"]["problem"]
    assert rows["b.jpg"]["problem"] == "cannot be read: it has more than 1 GiB"
    assert not rows["a.png"]["class"] and not rows["b.jpg"]["class"]
    assert rows["c.png"]["class"] and not rows["c.png"]["problem"]
    assert peak < MOST_BYTES
