"""Malicious and malformed files: each is refused in one line, and nothing in it runs."""

from __future__ import annotations

import io
import json
import pickle
import re
import shutil
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import yaml
from PIL import Image

from animals_pl.cli import main
from animals_pl.deploy.metadata import MOST_CHARACTERS

pytestmark = pytest.mark.usefixtures("small_figures")


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A file that exists if foreign code ran."""
    return tmp_path / "foreign code ran"


@pytest.fixture(scope="module")
def run(evaluated_run: Path) -> Path:
    return evaluated_run


def pickled(file: Path, run: Path, mark: Path) -> None:
    file.write_bytes(pickle.dumps(Payload(mark)))


def saved_by_torch(file: Path, run: Path, mark: Path) -> None:
    checkpoint = torch.load(run / "best.ckpt", weights_only=True)
    torch.save({**checkpoint, "callbacks": Payload(mark)}, file)


def cut(file: Path, run: Path, mark: Path) -> None:
    content = (run / "best.ckpt").read_bytes()
    file.write_bytes(content[: len(content) // 2])


def long_safetensors_header(file: Path, run: Path, mark: Path) -> None:
    file.write_bytes((2**62).to_bytes(8, "little") + b"{}")


def python_tag(file: Path, run: Path, mark: Path) -> None:
    file.write_text(f"data: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n")


def parent_folder(file: Path, run: Path, mark: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cane/a.jpg", b"")
        archive.writestr(f"../{mark.name}", b"")


def link(file: Path, run: Path, mark: Path) -> None:
    with tarfile.open(file, "w") as archive:
        entry = tarfile.TarInfo("cane")
        entry.type, entry.linkname = tarfile.SYMTYPE, str(mark.parent)
        archive.addfile(entry)


def bomb(file: Path, run: Path, mark: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("cane/a.jpg", b"")
        archive.infolist()[0].file_size = 2**31


def external_weights(file: Path, run: Path, mark: Path) -> None:
    proto = onnx.load(run / "model.onnx")
    onnx.save(proto, file, save_as_external_data=True, location="passwd", size_threshold=0)


def long_metadata(file: Path, run: Path, mark: Path) -> None:
    proto = onnx.load(run / "model.onnx")
    proto.metadata_props.add(key="comment", value="x" * (MOST_CHARACTERS + 1))
    onnx.save(proto, file)


def other_weights(file: Path, run: Path, mark: Path) -> None:
    content = bytearray((run / "model.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


def nested_json(file: Path, run: Path, mark: Path) -> None:
    file.write_text('{"images": ' + "[" * 200_000)


def null_characters(file: Path, run: Path, mark: Path) -> None:
    file.write_bytes(b"path,split\0\n" * 10)


PREDICT = ["predict", "{images}", "--output", "{tmp}/out.csv", "--ckpt_path", "{file}"]
FIT = [
    "fit",
    "--data.root",
    "{tree}",
    "--data.size",
    32,
    "--data.num_workers",
    0,
    "--trainer.default_root_dir",
    "{tmp}",
]
WEIGHTS = [*FIT, "--model.net", "test_resnet", "--model.weights", "{file}"]
CLASSIFY = ["classify", "{file}", "{images}", "--output", "{tmp}/out.csv"]
DETECTIONS = ["classify", "{run}/model.onnx", "{images}", "--output", "{tmp}/out.json", "--detections", "{file}"]


@pytest.mark.parametrize(
    ("write", "name", "command", "reason"),
    [
        (pickled, "best.ckpt", PREDICT, "is not a checkpoint"),
        (saved_by_torch, "best.ckpt", PREDICT, "is not a checkpoint (UnpicklingError)"),
        (saved_by_torch, "best.ckpt", [*FIT, "--ckpt_path", "{file}"], "is not a checkpoint (UnpicklingError)"),
        (saved_by_torch, "best.ckpt", ["export", "{file}"], "is not a checkpoint (UnpicklingError)"),
        (cut, "best.ckpt", PREDICT, "is not a checkpoint"),
        (pickled, "weights.pth", WEIGHTS, "could not be loaded"),
        (saved_by_torch, "weights.pth", WEIGHTS, "could not be loaded"),
        (pickled, "weights.safetensors", WEIGHTS, "could not be loaded"),
        (long_safetensors_header, "weights.safetensors", WEIGHTS, "could not be loaded"),
        (python_tag, "config.yaml", [*FIT, "--config", "{file}"], "could not determine a constructor"),
        (parent_folder, "a.zip", ["prepare", "{file}", "--output", "{tmp}/out"], "is outside the folder"),
        (link, "a.tar", ["prepare", "{file}", "--output", "{tmp}/out"], "is a link or a device"),
        (bomb, "a.zip", ["prepare", "{file}", "--output", "{tmp}/out"], "too many for its size"),
        (external_weights, "model.onnx", CLASSIFY, "external data"),
        (long_metadata, "model.onnx", CLASSIFY, "a value in its metadata has 16,777,"),
        (other_weights, "model.onnx", CLASSIFY, "it was altered after the export"),
        (pickled, "model.onnx", CLASSIFY, "it is not an ONNX file"),
        (nested_json, "detections.json", DETECTIONS, "detections="),
        (null_characters, "split.csv", [*FIT, "--data.split", "{file}"], "cannot be read as CSV"),
        (pickled, "prior.csv", [*PREDICT[:-1], "{run}/best.ckpt", "--prior", "{file}"], "prior="),
    ],
)
def test_a_hostile_file_is_refused_in_one_line(run, tiny_tree, tmp_path, mark, capsys, write, name, command, reason):
    file = tmp_path / "hostile" / name
    file.parent.mkdir()
    write(file, run, mark)
    places = {"file": file, "run": run, "tree": tiny_tree, "tmp": tmp_path, "images": tiny_tree / "cane"}
    capsys.readouterr()
    assert main([str(argument).format(**places) for argument in command]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert reason in line
    assert not mark.exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"hostile", "cache"}


def test_a_hostile_cache_of_features_is_ignored(tiny_tree, tmp_path, mark, monkeypatch, capsys):
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))
    command = ["fit", "--data.root", tiny_tree, "--data.size", 32, "--data.num_workers", 0, "--trainer.max_epochs", 1]
    command += ["--model.net", "test_resnet", "--model.freeze", True, "--trainer.default_root_dir", tmp_path / "runs"]
    assert main(list(map(str, command))) == 0
    files = [file for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert len(files) >= 2  # features and the manifest
    for file in files:
        pickled(file, tmp_path, mark)
    capsys.readouterr()
    assert main(list(map(str, command))) == 0
    assert "43 new" in capsys.readouterr().out
    assert not mark.exists()


def copied_run(run: Path, folder: Path, mark: Path) -> Path:
    """A run whose configuration names a class of somebody else."""
    copy = shutil.copytree(run, folder / "checkpoints" / "run" / "version_0")
    config = yaml.safe_load((copy / "config.yaml").read_text())
    foreign = {"class_path": "pathlib.Path.touch", "init_args": {"self": str(mark)}}
    config["trainer"]["callbacks"] = [foreign, {"class_path": "hostile_module.Callback"}]
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    (copy / "hostile_module.py").write_text(f"from pathlib import Path\nPath({str(mark)!r}).touch()\n")
    return copy


@pytest.mark.parametrize(
    "command",
    [
        ["validate", "--ckpt_path", "{run}/best.ckpt"],
        ["test", "--ckpt_path", "{run}/best.ckpt"],
        ["predict", "{images}", "--ckpt_path", "{run}/best.ckpt", "--output", "{tmp}/out.csv"],
        ["export", "{run}/best.ckpt", "--output", "{tmp}/model.onnx"],
        ["report", "{tmp}/checkpoints"],
        ["report", "--card", "{run}"],
        ["fit", "--ckpt_path", "{run}/last.ckpt", "--trainer.max_epochs", 2, "--trainer.default_root_dir", "{tmp}"],
    ],
    ids=lambda command: " ".join(command[:2]),
)
def test_the_configuration_beside_a_checkpoint_does_not_run(run, tiny_tree, tmp_path, mark, monkeypatch, command):
    copy = copied_run(run, tmp_path, mark)
    monkeypatch.syspath_prepend(str(copy))
    monkeypatch.chdir(tmp_path)
    places = {"run": copy, "tmp": tmp_path, "images": tiny_tree / "cane"}
    assert main([str(argument).format(**places) for argument in command]) == 0
    assert not mark.exists()


HOSTILE_CLASS = "<img src=x onerror=alert(1)>"
HOSTILE_FILE = '"><svg onload=alert(2)>.jpg'
END_OF_SCRIPT = ("x<", "script><svg onload=alert(3)>.jpg")
"""A class and a file whose path ends a script."""


@pytest.fixture(scope="module")
def hostile_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with HTML and a formula in the names of classes and files."""
    root = tmp_path_factory.mktemp("hostile") / "tree"
    rng = np.random.default_rng(0)
    for label, name in enumerate([HOSTILE_CLASS, "=HYPERLINK(1)", END_OF_SCRIPT[0]]):
        (root / name).mkdir(parents=True)
        for index in range(12):
            pixels = rng.integers(0, 255, (40, 40, 3), dtype=np.uint8) // (label + 1)
            Image.fromarray(pixels).save(root / name / (HOSTILE_FILE if index == 0 else f"{index}.jpg"))
        (root / name / f"x{HOSTILE_FILE}").write_bytes(b"broken")
        shutil.copy(root / name / "1.jpg", root / name / f"copy{HOSTILE_FILE}")
    shutil.copy(root / END_OF_SCRIPT[0] / "1.jpg", root / END_OF_SCRIPT[0] / END_OF_SCRIPT[1])
    return root


def assert_harmless(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert "onerror=alert" in text or "onload=alert" in text  # the names are shown
    assert not re.search(r"<(img src=x|svg onload|/script><svg)", text)


def test_html_in_names_is_text_on_pages_and_exact_in_tables(hostile_tree, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["analyze", str(hostile_tree), "--output", "report"]) == 0
    fit_command = ["fit", "--data.root", str(hostile_tree), "--data.size", "16", "--data.test_fraction", "0.3"]
    assert (
        main([*fit_command, "--model.net", "shallownet", "--trainer.max_epochs", "1", "--data.num_workers", "0"]) == 0
    )
    run = tmp_path / "checkpoints" / "run" / "version_0"
    assert main(["test", "--ckpt_path", str(run / "best.ckpt")]) == 0
    assert main(["report", "checkpoints"]) == 0
    pages = [*tmp_path.rglob("*.html")]
    assert len(pages) >= 2
    for page in pages:
        if "alert" in page.read_text(encoding="utf-8"):
            assert_harmless(page)
    assert any("alert" in page.read_text(encoding="utf-8") for page in pages)
    rows = (run / "split.csv").read_text(encoding="utf-8")
    assert f"{HOSTILE_CLASS}/1.jpg" in rows and "=HYPERLINK(1)/1.jpg" in rows


def png_with(*chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG with additional chunks."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "red").save(stream, "PNG")
    content = stream.getvalue()
    more = b"".join(
        len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big") for kind, data in chunks
    )
    return content[:33] + more + content[33:]


ODD_IMAGES: dict[str, Callable[[], bytes]] = {
    "text bomb": lambda: png_with((b"zTXt", b"key\0\0" + zlib.compress(bytes(50 * 2**20)))),
    "profile bomb": lambda: png_with((b"iCCP", b"key\0\0" + zlib.compress(bytes(50 * 2**20)))),
    "many texts": lambda: png_with(*[(b"tEXt", b"key\0" + bytes(60_000))] * 2000),
    "EXIF that refers to itself": lambda: png_with(
        (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0")
    ),
    "EXIF of four gigabytes": lambda: png_with(
        (b"eXIf", b"II*\0\x08\0\0\0\x01\0\x32\x01\x02\0\xff\xff\xff\xff\x08\0\0\0")
    ),
}


def test_images_with_hostile_metadata_have_a_row_each(run, tmp_path, capsys):
    images = tmp_path / "images"
    images.mkdir()
    for name, content in ODD_IMAGES.items():
        (images / f"{name}.png").write_bytes(content())
    output = tmp_path / "out.jsonl"
    assert main(["classify", str(run / "model.onnx"), str(images), "--output", str(output)]) == 0
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(rows) == len(ODD_IMAGES)
    assert all(row["class"] or row["problem"] for row in rows)
    assert all(len(row["problem"] or "") < 200 for row in rows)
