"""The command analyze: from the command line to the files that it writes."""

from __future__ import annotations

import contextlib
import csv
import html
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageOps
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl.cli import main
from animals_pl.data.catalog import display_name
from animals_pl.data.sources.practice.practice_set import draw_animal
from animals_pl.data.tables import read_rows

FIGURES = ["aspect_ratios", "class_counts", "contact_sheet", "file_sizes", "sizes"]
TABLES = ["broken", "classes", "duplicates", "outliers", "sizes"]
CONFLICTING = ("cane/0.jpg", "gatto/copy.jpg")
NEAR = ("ragno/1.jpg", "ragno/small mirror.jpg")


def analyze(*args: object) -> int:
    return main(["analyze", *map(str, args)])


def last_line(capsys) -> str:
    return capsys.readouterr().err.strip().splitlines()[-1]


def files_below(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of everything below a folder."""
    return {
        path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def table(folder: Path, name: str) -> list[dict[str, str]]:
    return read_rows(folder / "tables" / f"{name}.csv", name)


@pytest.fixture(scope="module")
def images(tmp_path_factory) -> Path:
    """16 images of 3 classes: identical files with conflicting labels, a near-duplicate, a broken file."""
    root = tmp_path_factory.mktemp("images") / "raw-img"
    for number, name in enumerate(("cane", "gatto", "ragno")):
        (root / name).mkdir(parents=True)
        for index in range((6, 4, 3)[number]):
            draw_animal(name, np.random.default_rng([8, number, index])).save(root / name / f"{index}.jpg", quality=90)
    shutil.copy(root / CONFLICTING[0], root / CONFLICTING[1])
    with Image.open(root / NEAR[0]) as picture:
        half = picture.resize((picture.width // 2, picture.height // 2))
        ImageOps.mirror(half).save(root / NEAR[1], quality=80)
    (root / "cane" / "broken.jpg").write_bytes((root / "cane" / "1.jpg").read_bytes()[:700])
    return root


@pytest.fixture(scope="module")
def analyzed(images, tmp_path_factory) -> tuple[Path, list[str]]:
    """The folder of a report on the images, which was empty before, and the printed lines."""
    folder = tmp_path_factory.mktemp("report")
    before = files_below(images.parent)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert analyze(images, "--output", folder) == 0
    assert files_below(images.parent) == before
    return folder, [" ".join(line.split()) for line in printed.getvalue().splitlines()]


@pytest.fixture(scope="module")
def report(analyzed) -> Path:
    """The folder of a report on the images."""
    return analyzed[0]


# ---------------------------------------------------------------- what is written


def test_report_has_page_tables_figures_and_events(report):
    events = [path.name for path in report.iterdir() if path.name.startswith("events.out.tfevents")]
    assert len(events) == 1
    assert sorted(path.relative_to(report).as_posix() for path in report.rglob("*") if path.is_file()) == sorted(
        ["report.html", "exclude.csv", "manifest.csv", *events]
        + [f"tables/{name}.csv" for name in TABLES]
        + [f"figures/{name}.png" for name in FIGURES]
    )


def test_page_links_to_the_other_files(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "Dataset report: raw-img" in page
    for name in ["exclude.csv", "manifest.csv", *(f"tables/{name}.csv" for name in TABLES)]:
        assert f'href="{name}"' in page


def test_tensorboard_has_every_figure(report):
    board = EventAccumulator(str(report), size_guidance={"images": 0})
    board.Reload()
    assert sorted(board.Tags()["images"]) == [f"dataset/{name}" for name in FIGURES]
    for name in FIGURES:
        (event,) = board.Images(f"dataset/{name}")
        with (
            Image.open(io.BytesIO(event.encoded_image_string)) as shown,
            Image.open(report / "figures" / f"{name}.png") as file,
        ):
            assert shown.format == "PNG" and min(shown.size) > 100
            assert shown.width / shown.height == pytest.approx(file.width / file.height, rel=0.02)
            assert len(np.unique(np.asarray(shown))) > 1


def test_tables_list_broken_files_and_duplicates(report):
    assert [(row["path"], row["problem"].partition(":")[0]) for row in table(report, "broken")] == [
        ("cane/broken.jpg", "truncated")
    ]
    rows = table(report, "duplicates")
    assert [(row["group"], row["kind"], row["labels"], row["splits"], row["path"]) for row in rows] == [
        *(("1", "exact", "2", "0", path) for path in CONFLICTING),
        *(("2", "near", "1", "0", path) for path in NEAR),
    ]
    assert [(row["class"], row["images"]) for row in table(report, "classes")] == [
        ("cane (dog)", "6"),
        ("gatto (cat)", "5"),
        ("ragno (spider)", "4"),
    ]
    assert sum(int(row["images"]) for row in table(report, "sizes")) == 15


def test_exclude_csv_lists_conflicting_labels_only(report):
    assert read_rows(report / "exclude.csv", "x") == [
        {"path": path, "reason": "identical files with the labels cane and gatto"} for path in CONFLICTING
    ]


def test_fit_accepts_exclude_csv(report, images, tmp_path):
    run = ["--trainer.max_epochs", 1, "--trainer.accelerator", "cpu", "--trainer.default_root_dir", tmp_path]
    data = ["--data.root", images, "--data.size", 16, "--data.num_workers", 0, "--data.exclude"]
    args = ["fit", "--model.net", "shallownet", "--name", "run", *run, *data, report / "exclude.csv"]
    assert main([str(arg) for arg in args]) == 0
    with (tmp_path / "run" / "version_0" / "split.csv").open(newline="", encoding="utf-8") as stream:
        left_out = {row["path"] for row in csv.DictReader(stream) if row["split"] not in ("train", "val", "test")}
    assert left_out == {*CONFLICTING, "cane/broken.jpg"}


def test_manifest_paths_are_relative_to_its_folder(report, images):
    paths = [(report / row["path"]).resolve() for row in read_rows(report / "manifest.csv", "x")]
    assert paths == [path.resolve() for path in sorted(images.rglob("*.jpg"))]


def test_summary_is_printed(analyzed):
    folder, lines = analyzed
    for expected in (
        "images 16 in 3 classes, imbalance 1.50 : 1",
        "broken 1",
        "exact duplicates 1 group",
        "near-duplicates 1 group",
        "largest group 2 images",
        "conflicting labels 1 group",
        "in several splits 0 groups",
        f"report: {folder / 'report.html'}",
    ):
        assert expected in lines


# ---------------------------------------------------------------- output


def test_default_output_is_the_next_version_and_a_manifest_is_a_source(report, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "checkpoints" / "analysis" / "version_0").mkdir(parents=True)
    assert analyze(report / "manifest.csv") == 0
    output = tmp_path / "checkpoints" / "analysis" / "version_1"
    assert (output / "report.html").is_file()
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    for name in TABLES:
        first, second = (pd.read_csv(folder / "tables" / f"{name}.csv") for folder in (report, output))
        pd.testing.assert_frame_equal(first, second)


def test_analyze_without_a_model_loads_no_torch(images, tmp_path):
    code = (
        "import sys; from animals_pl.reports.analyze import analyze; analyze(*sys.argv[1:]); "
        "print(sorted({'torch', 'lightning', 'timm', 'onnx', 'onnxruntime'} & sys.modules.keys()))"
    )
    command = [sys.executable, "-c", code, str(images), str(tmp_path / "report")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines()[-1] == "[]"


@pytest.mark.parametrize("what", ["folder", "file"])
def test_used_output_is_refused_and_unchanged(images, tmp_path, capsys, what):
    output = tmp_path / "report"
    mine = output if what == "file" else output / "notes.txt"
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    assert analyze(images, "--output", output) == 2
    assert f"output={str(output)!r} exists and is not an empty folder" in last_line(capsys)
    assert files_below(tmp_path).keys() == {"report", *(["report/notes.txt"] if what == "folder" else [])}
    assert mine.read_text() == "mine"


def test_checkpoint_and_model_together_are_refused(images, tmp_path, capsys):
    args = ["--output", tmp_path / "report", "--ckpt_path", "best.ckpt", "--model", "model.onnx"]
    assert analyze(images, *args) == 2
    assert "ckpt_path and model are mutually exclusive" in last_line(capsys)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- refused sources


@pytest.mark.parametrize("make", ["nothing", "empty folder", "no images"])
def test_source_without_images_is_refused(tmp_path, capsys, make):
    source = tmp_path / "source"
    if make != "nothing":
        source.mkdir()
    if make == "no images":
        (source / "cane").mkdir()
        (source / "cane" / "notes.txt").write_text("a list of dogs")
    assert analyze(source, "--output", tmp_path / "report") == 2
    assert f"source={str(source)!r}" in last_line(capsys)
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize("output", ["named", "numbered"])
def test_source_of_broken_images_is_refused(tmp_path, capsys, monkeypatch, output):
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "source"
    for name in ("cane", "gatto"):
        (source / name).mkdir(parents=True)
        (source / name / "0.jpg").write_bytes(b"no picture")
    assert analyze(source, *(["--output", tmp_path / "report"] if output == "named" else [])) == 2
    assert f"source={str(source)!r}: none of its images can be decoded" in last_line(capsys)
    assert not list(tmp_path.glob("**/version_0")) and not (tmp_path / "report").exists()


def test_missing_split_is_refused(images, tmp_path, capsys):
    assert analyze(images, "--output", tmp_path / "report", "--split", tmp_path / "split.csv") == 2
    assert f"split={str(tmp_path / 'split.csv')!r} is not a file" in last_line(capsys)
    assert not any(tmp_path.iterdir())


# ---------------------------------------------------------------- splits


def test_duplicates_in_several_splits_are_found(images, tmp_path, capsys):
    paths = sorted(path.relative_to(images).as_posix() for path in images.rglob("*.jpg"))
    split_of = {**dict.fromkeys(paths, "train"), NEAR[1]: "val", "cane/broken.jpg": "excluded"}
    rows = ["path,label,split", *(f"{path},{path.split('/')[0]},{split}" for path, split in split_of.items())]
    (tmp_path / "split.csv").write_text("\n".join(rows), encoding="utf-8")
    output = tmp_path / "report"
    assert analyze(images.parent, "--output", output, "--split", tmp_path / "split.csv") == 0
    assert [(row["path"], row["split"], row["splits"], row["group"]) for row in table(output, "duplicates")] == [
        *((path, "train", "1", "1") for path in CONFLICTING),
        (NEAR[0], "train", "2", "2"),
        (NEAR[1], "val", "2", "2"),
    ]
    assert "in several splits 1 group suspected" in " ".join(capsys.readouterr().out.split())
    page = (output / "report.html").read_text(encoding="utf-8")
    assert "2 splits" in page and "2 labels" in page


NAMES = ["$$", ":cat:", "<b>bold", "lynx [female]", "lynx [male]", "{{7}}", "猫", os.fsdecode(b"\xfcber")]
"""Class names that are syntax elsewhere, and one whose bytes are not UTF-8."""


@pytest.fixture
def oddly_named(tmp_path) -> Path:
    for number, name in enumerate(NAMES):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(2):
            picture = draw_animal("cane", np.random.default_rng([7, number, index]))
            picture.save(tmp_path / "images" / name / os.fsdecode(b"%d \xe4 [x] <i>$.jpg" % index))
    return tmp_path / "images"


@pytest.mark.filterwarnings("ignore:no installed font has")
def test_names_are_text_on_the_page_and_exact_in_tables(oddly_named, tmp_path, capsys):
    folder = tmp_path / os.fsdecode(b"r\xe9port [1] $")
    assert analyze(oddly_named, "--output", folder) == 0
    assert r"r\udce9port [1] $/report.html" in capsys.readouterr().out
    assert len(list(folder.glob("events.out.tfevents.*"))) == 1
    assert [row["class"] for row in table(folder, "classes")] == sorted(NAMES)
    manifest = read_rows(folder / "manifest.csv", "source", "path")
    assert {(folder / row["path"]).resolve() for row in manifest} == set(oddly_named.glob("*/*.jpg"))
    page = (folder / "report.html").read_text(encoding="utf-8")
    for name in NAMES:
        shown = html.escape(name).encode(errors="backslashreplace").decode()
        assert f"<h3>{shown}</h3>" in page
        assert f'"name":{json.dumps(html.escape(display_name(name)))}'.replace("&", r"\u0026") in page.replace(
            "&", r"\u0026"
        )
    assert f'href="{quote(os.fsencode("../images/lynx [male]/"))}' in page


def test_a_class_without_readable_images_is_named(images, tmp_path, capsys):
    shutil.copytree(images, tmp_path / "images")
    (tmp_path / "images" / "zebra").mkdir()
    (tmp_path / "images" / "zebra" / "a.heic").write_bytes(b"no image")
    assert analyze(tmp_path / "images", "--output", tmp_path / "report") == 0
    assert "class 'zebra' has no image that can be decoded.\n" in capsys.readouterr().out
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert "class &#39;zebra&#39; has no image that can be decoded." in page
