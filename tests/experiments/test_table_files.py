"""The command report: test metrics, cost, its files, and folders that are no runs."""

from __future__ import annotations

import base64
import contextlib
import csv
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import run_folders
from run_folders import SPEED, add_speed, epoch, write_test

from animals_pl.cli import main
from animals_pl.evaluation.run_figures import DrawnRun, cost_scatter, run_curves


def cost_cells(text: str, run: str) -> list[str]:
    """Return the cells of a run in the table of test metrics and cost."""
    table = re.split(r"\n\s*\n(?=[ \n]*test )", text.partition("Ranked by")[0])[1]
    (line,) = [line for line in table.splitlines() if f" {run}" in line]
    return re.split(r"  +", line.partition(run)[2].strip())


def csv_rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


# ---------------------------------------------------------------- test metrics and cost


def test_test_metrics_size_speed_and_time_are_reported(write_run, reported):
    run = write_run("mine", [epoch(0) | {"seconds": 3500.4}, epoch(1, 0.6) | {"seconds": 200.2}], test_images="cd")
    write_test(run)
    add_speed(run)
    text = reported()
    cells = ["0.900 (0.800–0.950)", "0.700 (0.500–0.800)", "5.5", "2.35", "1:01:41"]
    assert cost_cells(text, "mine/version_0") == cells
    assert "\nms/image: one image at a time, on Some CPU, 2 threads, precision 32-true.\n" in text
    assert "\nTest metrics are those of best.ckpt, with 95 % intervals.\n" in text


def test_unknown_test_metrics_and_cost_are_blank(write_run, reported):
    (write_run("bare") / "best.ckpt").unlink()
    text = reported()
    assert cost_cells(text, "bare/version_0") == [""]
    assert "ms/image:" not in text
    assert "Test metrics" not in text


def test_speeds_on_several_machines_are_told_apart(write_run, reported):
    for name, speed in (
        ("a", SPEED),
        ("b", replace(SPEED, device="GPU", threads=None, ms_per_image=12.34)),
        ("c", replace(SPEED, ms_per_image=0.5)),
    ):
        add_speed(write_run(name), speed)
    text = reported()
    assert [cost_cells(text, f"{name}/version_0")[1] for name in "abc"] == ["2.35 [1]", "12.3 [2]", "0.50 [1]"]
    assert "on [1] Some CPU, 2 threads, precision 32-true; [2] GPU, precision 32-true." in text


def test_the_size_of_a_run_without_speed_is_that_of_its_checkpoint(write_run, reported):
    write_run("old", parameters=250_000)  # and 9 of the backbone
    assert cost_cells(reported(), "old/version_0") == ["1.0"]


def test_a_run_with_speed_needs_no_torch(write_run, tmp_path):
    add_speed(write_run("mine"))
    code = (
        "import sys\nfrom animals_pl.experiments.run_table import report\n"
        f"report({str(tmp_path / 'runs')!r})\nassert {{'torch', 'pandas', 'matplotlib'}}.isdisjoint(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


@pytest.mark.parametrize(
    ("others", "reason"),
    [
        ({"checkpoint": "last.ckpt"}, "of last.ckpt, epoch 1; the best epoch is 1"),
        ({"epoch": 3}, "of best.ckpt, epoch 3; the best epoch is 1"),
        ({"prior": "train"}, "with the prior train"),
        ({"tta": "hflip"}, "with model.tta hflip instead of none"),
        ({"images": 1}, "on 1 images; the run has 2 test images"),
    ],
    ids=["checkpoint", "epoch", "prior", "tta", "images"],
)
def test_tests_of_another_model_are_left_out_with_the_reason(write_run, reported, others, reason):
    write_test(write_run("mine", test_images="cd"), **others)
    text = reported()
    assert cost_cells(text, "mine/version_0") == ["0.0"]
    assert f"\ntest metrics left out: mine/version_0 ({reason})\n" in text


def test_runs_tested_on_other_images_are_marked(write_run, reported):
    for value, (name, letters) in enumerate([("d", "cd"), ("c", "dc"), ("b", "ef"), ("a", "")]):
        run = write_run(name, [epoch(0, 0.9 - value / 10)], test_images=letters)
        if letters:
            write_test(run)
    text = reported()
    assert re.findall(r"(\S+) ‡", text) == ["b/version_0"]
    assert "\n‡ tested on images that are unknown or differ from the first tested run's.\n" in text


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("evaluation/test/metrics.json", b"{"),
        ("evaluation/test/metrics.json", b"[1]"),
        ("evaluation/test/metrics.json", b'{"acc": 0.9}'),
        ("evaluation/test/metrics.json", b"\xff\x00"),
        ("speed.json", b"{"),
        ("speed.json", b'{"ms_per_image": 3}'),
    ],
)
def test_a_damaged_file_leaves_its_cells_empty(write_run, reported, name, content):
    run = write_run("mine")
    write_test(run)
    (run / name).write_bytes(content)
    text = reported()
    assert re.findall(r"^unreadable: mine/version_0/(\S+) \(", text, re.M) == [name]
    assert cost_cells(text, "mine/version_0")[-1] == "0.0"


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_the_tables_fit_the_screen(write_run, reported, width):
    run = write_run("mobilenetv3_large_frozen_aug", test_images="cd")
    write_test(run)
    add_speed(run, replace(SPEED, size_mb=411.3, ms_per_image=1234.5))
    text = reported(width=width).partition("Ranked by")[0]
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    assert "0.700 (0.500–0.800) 411.3" in re.sub(" +", " ", text)


# ---------------------------------------------------------------- files


def test_csv_has_one_row_per_run_with_all_digits(write_run, reported, tmp_path):
    first = write_run("lenet", [epoch(0, 1 / 3) | {"seconds": 1.25}], test_images="cd")
    write_test(first)
    add_speed(first)
    write_run("b, c", [epoch(0, 0.25)], images="x")
    file = tmp_path / "runs.CSV"
    reported("--output", file)
    one, two = csv_rows(file)
    numbers = {
        **{"rank": 1, "trainable": 1234, "epochs": 1, "best_epoch": 1, "macro_recall/val": 1 / 3, "loss/train": 1 / 3},
        **{"images/test": 2, "acc/test": 0.9, "acc/test_low": 0.9 - 0.1, "macro_recall/test_high": 0.9 - 0.1},
        **{"size_mb": 5.5, "ms_per_image": 2.34567, "threads": 2, "training_seconds": 1.25},
    }
    assert {key: float(one[key]) for key in numbers} == numbers
    assert (one["run"], one["device"], one["same_images"]) == ("lenet/version_0", "Some CPU", "True")
    assert (two["run"], two["acc/test"], two["ms_per_image"], two["same_images"]) == ("b, c/version_0", "", "", "False")


def test_without_runs_the_csv_is_empty(write_run, reported, tmp_path):
    write_run("empty", [])
    reported("--output", tmp_path / "runs.csv")
    assert csv_rows(tmp_path / "runs.csv") == []


def test_the_page_has_the_tables_the_notes_and_the_figures(write_run, reported, tmp_path):
    run = write_run("lenet", [epoch(0), epoch(1, 0.6)], test_images="cd")
    write_test(run)
    add_speed(run)
    write_run("<b>bold</b>", [epoch(0, 0.3)])
    write_run("empty", [])
    file = tmp_path / "page.html"
    text = reported("--output", file)
    page = file.read_text(encoding="utf-8")
    for cell in ("lenet/version_0", "&lt;b&gt;bold&lt;/b&gt;/version_0", "0.900 (0.800–0.950)", "78,432,080", "2.35"):
        assert cell in page
    assert "<b>bold" not in page
    assert "incomplete: empty/version_0" in page
    images = [base64.b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert [image[:4] for image in images] == [b"\x89PNG"] * 2
    assert re.findall(r'(?:src|href)="(?!data:|#)', page) == []  # nothing outside of the file
    assert text.endswith(f"{file} written\n")


def test_a_page_without_runs_has_the_notes(write_run, reported, tmp_path):
    write_run("empty", [])
    reported("--output", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "incomplete: empty/version_0" in page
    assert "<img" not in page


@pytest.mark.parametrize("name", ["runs.txt", "table", "runs.xlsx"])
def test_another_extension_is_refused(write_run, tmp_path, capsys, name):
    write_run("mine")
    assert main(["report", str(tmp_path / "runs"), "--output", str(tmp_path / name)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"output='{tmp_path / name}' is not a .md, .csv or .html file. Choose one of these extensions." in line
    assert not (tmp_path / name).is_file()


def test_standard_output_gets_markdown(write_run, tmp_path):
    write_run("mine")
    command = [sys.executable, "-m", "animals_pl", "report", tmp_path / "runs", "--output", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "| rank | model architecture | run |" in done.stdout


# ---------------------------------------------------------------- figures


def drawn(count: int, **others: object) -> list[DrawnRun]:
    """Runs that lie close to each other."""
    rows = [epoch(0, 0.5), epoch(1, 0.6)]
    return [
        DrawnRun(f"{i + 1} run {i}", rows, epoch(1, 0.6 + i / 1000), 10_000 + i, others.get("ms", 2.0))
        for i in range(count)
    ]


def test_curves_have_a_legend_of_all_runs_and_a_dot_at_each_best_epoch():
    figure = run_curves(drawn(30))
    assert len(figure.axes) == 4
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [f"{i + 1} run {i}" for i in range(30)]
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[1].lines}
    assert len(looks) == 30
    assert {tuple(line.get_markevery()) for line in figure.axes[1].lines} == {(1,)}
    assert figure.axes[1].lines[0].get_ydata().tolist() == [0.5, 0.6]


def test_labels_of_close_points_do_not_overlap():
    figure = cost_scatter(drawn(10))
    figure.draw_without_rendering()
    for axes in figure.axes:
        boxes = [text.get_window_extent() for text in axes.texts]
        dots = [axes.transData.transform(line.get_xydata()[0]) for line in axes.lines]
        assert len(dots) == 10
        assert len(boxes) > 3
        assert not any(box.overlaps(other) for i, box in enumerate(boxes) for other in boxes[:i])
        assert not any(box.contains(*dot) for box in boxes for dot in dots)


def test_without_speeds_there_is_no_plot_of_them():
    figure = cost_scatter(drawn(2, ms=None))
    assert [axes.get_xlabel() for axes in figure.axes] == ["", "trainable parameters"]
    bare = [replace(run, trainable=None) for run in drawn(2, ms=None)]
    assert cost_scatter(bare) is None


# ---------------------------------------------------------------- foreign folders


def foreign(folder: Path, **files: str | bytes) -> None:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name.replace("_", ".")).write_bytes(content.encode() if isinstance(content, str) else content)


LIGHTNING = {
    "metrics_csv": "epoch,step,train_loss,val_loss\n0,9,0.7,\n0,9,,0.6\n",
    "hparams_yaml": "lr: 0.1\n",
}


@pytest.mark.parametrize(
    ("files", "line"),
    [
        ({}, "not a run (no config.yaml, metrics.csv or checkpoint): x/version_0"),
        ({"notes_txt": "a"}, "not a run (no config.yaml, metrics.csv or checkpoint): x/version_0"),
        (LIGHTNING, "unreadable: x/version_0/config.yaml (FileNotFoundError: No such file or directory)"),
        (
            {**LIGHTNING, "config_yaml": "model: {class_path: Other}\ndata: {}\n"},
            "unreadable: x/version_0/config.yaml (ValueError: not the configuration of a run)",
        ),
        (
            {"config_yaml": "model: {class_path: Other}\n"},
            "unreadable: x/version_0/config.yaml (ValueError: not the configuration of a run)",
        ),
        (
            {"metrics_csv": b"\x00\x01\xfe\n\x00"},
            "unreadable: x/version_0/metrics.csv (metrics cannot be read (UnicodeDecodeError",
        ),
        ({"best_ckpt": b"\x80"}, "incomplete: x/version_0"),
    ],
    ids=["empty", "other files", "lightning", "lightning's command line", "configuration only", "binary", "checkpoint"],
)
def test_folders_of_other_programs_are_listed(write_run, reported, tmp_path, files, line):
    write_run("mine")
    foreign(tmp_path / "runs" / "x" / "version_0", **files)
    text = reported()
    assert "1  mine/version_0" in text
    assert [found for found in text.splitlines() if "x/version_0" in found and found.startswith(line)] != []
    assert text.count("x/version_0") == 1


def test_folders_in_place_of_files_are_not_fatal(write_run, reported):
    run = write_run("mine")
    for name in ("split.csv", "best.ckpt"):
        (run / name).unlink()
        (run / name).mkdir()
    (run / "evaluation" / "test" / "metrics.json").mkdir(parents=True)
    (run / "speed.json").mkdir()
    text = reported()
    found = re.findall(r"^unreadable: mine/version_0/(\S+)", text, re.M)
    assert found == ["speed.json", "best.ckpt", "split.csv", "evaluation/test/metrics.json"]


@contextlib.contextmanager
def without_permission(folder: Path) -> Iterator[None]:
    """Take a folder's permissions away, and root's right to read it all the same."""
    mode, root = folder.stat().st_mode, os.geteuid() == 0
    folder.chmod(0)
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)
        folder.chmod(mode)


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
@pytest.mark.parametrize("name", ["x", "x/version_0", "x/version_0/evaluation"])
def test_folders_without_permission_are_listed(capsys, monkeypatch, name):
    monkeypatch.setenv("COLUMNS", "200")
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to others
        Path(folder).chmod(0o755)
        for run in ("mine", "x"):
            add_speed(run_folders.write_run(Path(folder), run))
            write_test(Path(folder, run, "version_0"))
        with without_permission(Path(folder, name)):
            assert main(["report", folder]) == 0
    text = capsys.readouterr().out
    assert "1  mine/version_0" in text
    assert f"\nunreadable: {name} (Permission denied)\n" in text


def test_a_single_damaged_metrics_file_names_its_keys(write_run, reported):
    write_test(write_run("mine")).write_text(json.dumps({"acc": {"value": 1}}))
    assert "evaluation/test/metrics.json (KeyError: 'low')" in reported()
