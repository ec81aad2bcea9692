"""The command report: real runs, and runs written by hand for ranks and damaged files."""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from run_folders import METRICS, epoch

from animals_pl.cli import main
from animals_pl.training.metrics_csv import best_epoch, monitor_mode, read_metrics
from animals_pl.training.speed_json import model_size

PROJECT = Path(__file__).parents[2]


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def printed_tables(text: str) -> list[str]:
    """Return the printed tables: results, then test metrics and cost."""
    return re.split(r"\n\s*\n(?=[ \n]*test )", text.partition("Ranked by")[0])


def order(text: str) -> list[str]:
    """Return the runs of a printed table, best first."""
    return re.findall(r"^ *\d+  ?(\S+/version_\d+)", printed_tables(text)[0], re.M)


def cells(text: str, beginning: str, table: int = 0) -> list[str]:
    """Return the numbers of the line of a table that begins so."""
    text = printed_tables(text)[table]
    (line,) = [line for line in text.splitlines() if re.match(rf"^ *(\d+ +)?{re.escape(beginning)} ", line)]
    return line.partition(beginning)[2].split()


def markdown_rows(file: Path, table: int = 0) -> list[list[str]]:
    lines = file.read_text(encoding="utf-8").split("\n\n")[table].splitlines()
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines if line.startswith("|")]


# ---------------------------------------------------------------- runs of fit


@pytest.fixture(scope="module")
def real_runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A net from scratch under an experiment's name and a frozen backbone, each trained for a few epochs."""
    folder = tmp_path_factory.mktemp("real")
    rng = np.random.default_rng(0)
    for name, level in (("cane", 60), ("gatto", 180)):
        (folder / "tree" / name).mkdir(parents=True)
        for index in range(6):
            pixels = rng.normal(level, 40, (24, 24, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "tree" / name / f"{index}.jpg")
    common: list[object] = ["--data.root", folder / "tree", "--data.batch_size", 4, "--data.num_workers", 0]
    common += ["--trainer.default_root_dir", folder / "runs", "--trainer.accelerator", "cpu"]
    shallow = ["--model.net", "shallownet", "--data.size", 16, "--trainer.max_epochs", 4, "--model.lr", 0.01]
    frozen = ["--model.net", "test_resnet", "--data.size", 32, "--trainer.max_epochs", 1, "--model.freeze", "true"]
    with contextlib.redirect_stdout(io.StringIO()), pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIMALS_PL_CACHE", str(folder / "cache"))
        assert cli("fit", *common, "--name", "shallownet", *shallow) == 0
        assert cli("fit", *common, "--name", "frozen", *frozen, "--monitor", "acc/val") == 0
    return folder / "runs"


def test_real_runs_are_reported_at_the_epoch_of_their_best_checkpoint(real_runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert cli("report", real_runs) == 0
    text = capsys.readouterr().out
    assert sorted(order(text)) == ["frozen/version_0", "shallownet/version_0"]
    for name, epochs in (("shallownet", 4), ("frozen", 1)):
        run = real_runs / name / "version_0"
        checkpoint = torch.load(run / "best.ckpt", weights_only=True)
        best = read_metrics(run / "metrics.csv")[checkpoint["epoch"]]
        keys = ("loss/train", "acc/train", "loss/val", "acc/val", "macro_recall/val", "macro_f1/val")
        trained, *numbers = cells(text, f"{name}/version_0")
        assert numbers == [str(epochs), str(checkpoint["epoch"] + 1), *(f"{best[key]:.4f}" for key in keys)]
        assert int(trained.replace(",", "")) == model_size(checkpoint["state_dict"], frozen=name == "frozen").trainable
    assert "shallownet, from scratch, no augmentation" in text
    assert "test_resnet, linear head, pooled features, frozen at random weights, no augmentation" in text
    assert cells(text, "reference: ShallowNet") == [
        "16,057,226",
        "15",
        "2,",
        "5",
        "2.3473",
        "0.5862",
        "1.6931",
        "0.4786",
    ]
    assert "incomplete" not in text
    assert "unreadable" not in text
    assert "†" not in text  # one dataset, one seed


def test_a_report_without_checkpoints_loads_no_torch(write_run, tmp_path):
    (write_run("mine") / "best.ckpt").unlink()
    code = (
        "import sys\nfrom animals_pl.experiments.run_table import report\n"
        f"report({str(tmp_path / 'runs')!r})\nassert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_a_report_does_not_touch_the_runs(real_runs, capsys):
    before = {file: file.stat().st_mtime_ns for file in real_runs.rglob("*")}
    assert cli("report", real_runs) == 0
    assert {file: file.stat().st_mtime_ns for file in real_runs.rglob("*")} == before


# ---------------------------------------------------------------- best epoch and ranks


@pytest.mark.parametrize(
    ("monitor", "values", "best"),
    [
        ("loss/val", [0.5, 0.2, 0.2, 0.9], 1),
        ("acc/val", [0.5, 0.2, 0.9, 0.9], 2),
        ("loss/val", [float("nan"), 0.7], 1),
        ("acc/val", [float("nan"), 0.7], 1),
    ],
    ids=["smallest loss, first of two", "largest accuracy, first of two", "loss no number", "accuracy no number"],
)
def test_best_epoch(monitor, values, best):
    assert best_epoch([{"epoch": i, monitor: value} for i, value in enumerate(values)], monitor)["epoch"] == best


def test_best_epoch_skips_epochs_without_validation():
    assert best_epoch([{"epoch": 0}, {"epoch": 1, "acc/val": 0.1}], "acc/val")["epoch"] == 1
    assert best_epoch([{"epoch": 0}], "acc/val") == {}


def test_only_losses_are_better_when_smaller():
    modes = {name: monitor_mode(f"{name}/val") for name in METRICS}
    assert modes == {"loss": "min", "acc": "max", "macro_recall": "max", "macro_f1": "max"}


def test_the_monitor_of_a_run_chooses_its_epoch(write_run, reported):
    rows = [epoch(0, loss=0.1, acc=0.3), epoch(1, loss=0.4, acc=0.8), epoch(2, loss=0.3, acc=0.4)]
    write_run("by_loss", rows)
    write_run("by_accuracy", rows, monitor="acc/val")
    text = reported()
    assert cells(text, "by_loss/version_0")[1:3] == ["3", "1"]
    assert cells(text, "by_accuracy/version_0")[1:3] == ["3", "2"]


@pytest.mark.parametrize(
    ("rank_by", "expected"),
    [
        (None, ["recall", "f1", "loss", "acc"]),
        ("macro_recall", ["recall", "f1", "loss", "acc"]),
        ("acc", ["acc", "loss", "f1", "recall"]),
        ("loss", ["loss", "acc", "recall", "f1"]),
        ("macro_f1", ["f1", "recall", "acc", "loss"]),
    ],
    ids=["default", "macro_recall", "acc", "loss", "macro_f1"],
)
def test_ranks(write_run, reported, rank_by, expected):
    write_run("acc", [epoch(0, acc=0.9, loss=0.2, macro_recall=0.1, macro_f1=0.5)])
    write_run("loss", [epoch(0, acc=0.8, loss=0.1, macro_recall=0.2, macro_f1=0.4)])
    write_run("f1", [epoch(0, acc=0.7, loss=0.4, macro_recall=0.3, macro_f1=0.9)])
    write_run("recall", [epoch(0, acc=0.6, loss=0.3, macro_recall=0.9, macro_f1=0.8)])
    text = reported(*(["--rank_by", rank_by] if rank_by else []))
    assert order(text) == [f"{name}/version_0" for name in expected]
    name = {None: "macro recall", "acc": "accuracy", "macro_f1": "macro-F1", "macro_recall": "macro recall"}
    assert f"Ranked by {name.get(rank_by, 'loss')} on the validation images" in text
    assert "ties by fewer trainable parameters" in text


def test_equal_runs_are_ranked_by_trainable_parameters(write_run, reported):
    unknown = write_run("a_unknown", [epoch(0, macro_recall=0.9)])
    (unknown / "best.ckpt").unlink()
    write_run("b_large", [epoch(0, macro_recall=0.90004)], parameters=5000)  # no difference that the table shows
    write_run("c_small", [epoch(0, macro_recall=0.90001)], parameters=1234)
    write_run("d_better", [epoch(0, macro_recall=0.9002)], parameters=9000)
    text = reported()
    assert order(text) == [f"{name}/version_0" for name in ("d_better", "c_small", "b_large", "a_unknown")]
    assert cells(text, "c_small/version_0")[0] == "1,234"
    assert cells(text, "a_unknown/version_0")[0] == "1"  # the epochs: no parameters before them


def test_diverged_runs_are_ranked_last(write_run, reported):
    write_run("a_diverged", [epoch(0, float("nan"))])
    write_run("b_poor", [epoch(0, 0.01)])
    assert order(reported()) == ["b_poor/version_0", "a_diverged/version_0"]


def test_versions_are_in_numerical_order(write_run, reported):
    for version in (10, 9, 2):
        write_run("same", version=version)
    assert order(reported()) == ["same/version_2", "same/version_9", "same/version_10"]


# ---------------------------------------------------------------- the rows


def test_published_results_follow_each_run_of_their_experiment(write_run, reported, tmp_path):
    write_run("lenet", [epoch(0, 0.9)])
    write_run("mine", [epoch(0, 0.8)])
    write_run("lenet", [epoch(0, 0.7)], version=1)
    file = tmp_path / "report.md"
    text = reported("--output", file)
    published = ["78,432,080", "15", "3, 5", "2.3249", "0.5561", "1.7009", "0.4758", "", ""]
    rows = markdown_rows(file)[2:]
    assert [row[2] for row in rows] == [
        "lenet/version_0",
        "reference",
        "mine/version_0",
        "lenet/version_1",
        "reference",
    ]
    assert [row[0] for row in rows] == ["1", "", "2", "3", ""]
    assert [row[3:] for row in rows if row[2] == "reference"] == [published, published]
    assert len(re.findall("reference: LeNet +78,432,080 +15 +3, 5 +2.3249 +0.5561 +1.7009 +0.4758 *$", text, re.M)) == 2
    assert "reference: as published" in text


def test_other_runs_have_no_published_results(write_run, reported):
    write_run("mine")
    assert "reference" not in reported()


def test_runs_on_other_validation_images_are_marked(write_run, reported):
    write_run("first", [epoch(0, 0.9)], images="abc")
    write_run("reordered", [epoch(0, 0.8)], images="cab")
    write_run("other", [epoch(0, 0.7)], images="abd")
    moved = write_run("moved", [epoch(0, 0.6)], images="abc")
    (moved / "split.csv").write_text((moved / "split.csv").read_text().replace("cane/", "dog/"))
    lost = write_run("lost", [epoch(0, 0.5)], images="abc")
    (lost / "split.csv").unlink()
    text = reported()
    marked = [name.partition("/")[0] for name in re.findall(r"(\S+) †", text)]
    assert marked == ["other", "lost"]
    assert "\n† evaluated on validation images that are unknown or differ from rank 1's.\n" in text
    assert "comparable only if they were evaluated on the same validation images" in text
    assert "\nunreadable: lost/version_0/split.csv (FileNotFoundError: No such file or directory)\n" in text


def test_images_without_hashes_are_compared_by_path(write_run, reported):
    for name, letters in (("first", "ab"), ("same", "ab"), ("zother", "ac")):
        folder = write_run(name, images=letters)
        (folder / "split.csv").write_text(re.sub("hash of [^,]*", "", (folder / "split.csv").read_text()))
    assert re.findall(r"(\S+) †", reported()) == ["zother/version_0"]


def test_a_run_is_named_by_its_folders(write_run, reported, tmp_path, capsys):
    write_run("study/lenet")
    run = write_run("lenet", version=3)
    assert set(order(reported())) == {"study/lenet/version_0", "lenet/version_3"}
    for folder in (run.parent, run):
        assert cli("report", folder) == 0
        assert order(capsys.readouterr().out) == ["lenet/version_3"]


def test_names_are_escaped(write_run, reported, tmp_path):
    write_run("a|b [red]*x*[/red]")
    file = tmp_path / "report.md"
    assert "a|b [red]*x*[/red]/version_0" in reported("--output", file)
    assert len({len(row) for row in markdown_rows(file)}) == 1
    assert r"a\|b \[red\]\*x\*\[/red\]/version_0" in file.read_text()


@pytest.mark.parametrize("width", [100, 120, 140])
def test_the_table_fits_the_screen(write_run, reported, width):
    write_run("minivggnet", [epoch(number, 0.9) for number in range(100)], parameters=2_000_000)
    write_run("mobilenetv3_large_frozen_aug", augment="reference_no_flip", images="x")
    table = reported(width=width).partition("Ranked by")[0]
    assert max(map(len, table.splitlines())) <= width
    assert "…" not in table
    assert "102,833,066" in table
    assert table.count("0.5000") == 6  # no number is folded


def test_a_pipe_is_wide_enough(write_run, reported, capsys, tmp_path, monkeypatch):
    write_run("mobilenetv3_large_frozen_aug")
    monkeypatch.delenv("COLUMNS", raising=False)
    assert cli("report", tmp_path / "runs") == 0
    assert order(capsys.readouterr().out) == ["mobilenetv3_large_frozen_aug/version_0"]


# ---------------------------------------------------------------- incomplete and damaged runs


def test_runs_without_a_complete_epoch_are_named_below_the_table(write_run, reported):
    write_run("whole")
    (write_run("begun") / "metrics.csv").unlink()
    write_run("empty", [])
    write_run("unevaluated", [{"epoch": 0, "loss/train": 0.3}])
    text = reported()
    assert order(text) == ["whole/version_0"]
    assert re.findall("^incomplete: (.*)", text, re.M) == [f"{n}/version_0" for n in ("begun", "empty")]
    assert re.findall("^no validation: (.*)", text, re.M) == ["unevaluated/version_0"]
    assert "unreadable" not in text


def test_a_run_without_checkpoints_is_ranked_and_named(write_run, reported):
    (write_run("bare") / "best.ckpt").unlink()
    text = reported()
    assert cells(text, "bare/version_0")[:3] == ["1", "1", "0.5000"]
    assert "\nno checkpoint: bare/version_0\n" in text
    assert "unreadable" not in text


def test_without_a_complete_run_there_is_no_table(write_run, reported, tmp_path):
    write_run("empty", [])
    file = tmp_path / "report.md"
    assert reported("--output", file).splitlines() == ["incomplete: empty/version_0", f"{file} written"]
    assert file.read_text() == "- incomplete: empty/version_0\n"


@pytest.mark.parametrize(
    ("damaged", "content", "reason"),
    [
        ("metrics.csv", b"epoch,loss/val\n0,zero\n", "could not convert string to float: 'zero'"),
        ("metrics.csv", b"loss/val\n0.5\n", "a row has no epoch"),
        ("metrics.csv", b"epoch,loss/val\nnan,0.5\n", "a row has no epoch"),
        ("metrics.csv", b"epoch,loss/val\n0,0.5,7\n", "TypeError"),
        ("metrics.csv", b"\xff\xfe\x00", "UnicodeDecodeError"),
        ("config.yaml", b"model: [1, 2\n", "ParserError"),
        ("config.yaml", b"", "not the configuration of a run"),
        ("config.yaml", b"model: lenet\ndata: {}\n", "not the configuration of a run"),
        ("config.yaml", b"model: {net: lenet}\ndata: {}\nmonitor: [1]\n", "not the configuration of a run"),
        ("config.yaml", b"\xff\xfe\x00", "UnicodeDecodeError"),
        ("config.yaml", None, "No such file or directory"),
    ],
    ids=[
        *("text", "no epoch", "epoch no number", "long row", "csv bytes"),
        *("unclosed", "empty", "no model", "monitor", "yaml bytes", "absent"),
    ],
)
def test_a_run_with_a_damaged_file_is_left_out_with_the_reason(write_run, reported, damaged, content, reason):
    write_run("whole")
    file = write_run("broken") / damaged
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    text = reported()
    assert order(text) == ["whole/version_0"]
    (line,) = re.findall("^unreadable: .*", text, re.M)
    assert line.startswith(f"unreadable: broken/version_0/{damaged} (")
    assert reason in line
    assert len(line) < 250


def truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-200])


def replace(content: Any) -> Callable[[Path], None]:
    return lambda file: torch.save(content, file)


CHECKPOINT_DAMAGE = {
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("# Read me"),
    "truncated": truncate,
    "foreign": replace({"state_dict": {}}),
    "a list": replace([1]),
    "code": replace({"state_dict": {}, "hyper_parameters": {"net": Path("x"), "class_names": ["cane"]}}),
    "old format": lambda file: torch.save({"state_dict": {}}, file, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("damage", CHECKPOINT_DAMAGE)
def test_a_damaged_checkpoint_leaves_the_parameters_empty(write_run, reported, damage):
    file = write_run("broken") / "best.ckpt"
    CHECKPOINT_DAMAGE[damage](file)
    text = reported()
    assert cells(text, "broken/version_0")[:3] == ["1", "1", "0.5000"]
    assert len(re.findall(r"^unreadable: broken/version_0/best\.ckpt \(", text, re.M)) == 1


def test_the_last_checkpoint_gives_the_parameters_if_the_best_is_damaged(write_run, reported):
    folder = write_run("moved", parameters=77)
    (folder / "best.ckpt").rename(folder / "last.ckpt")
    assert cells(reported(), "moved/version_0")[0] == "77"
    (folder / "best.ckpt").touch()
    text = reported()
    assert cells(text, "moved/version_0")[0] == "77"
    assert "unreadable: moved/version_0/best.ckpt" in text


@pytest.mark.parametrize(
    "content", [b"", b"path,split\na.jpg,train\n", b"zebra\n"], ids=["empty", "no validation", "no columns"]
)
def test_a_damaged_split_is_named(write_run, reported, content):
    (write_run("broken") / "split.csv").write_bytes(content)
    text = reported()
    assert order(text) == ["broken/version_0"]
    assert "unreadable: broken/version_0/split.csv (ValueError: no validation images)" in text


def test_reports_of_analyze_are_not_runs(write_run, reported, tmp_path):
    write_run("whole")
    analysis = tmp_path / "runs" / "analysis" / "version_0"
    analysis.mkdir(parents=True)
    (analysis / "report.html").touch()
    assert "analysis" not in reported()


# ---------------------------------------------------------------- Markdown


def test_markdown_equals_the_printed_table(write_run, reported, tmp_path):
    write_run("lenet", [epoch(0, 0.25), epoch(1, 0.75)])
    write_run("empty", [])
    file = tmp_path / "deep" / "report.md"
    text = reported("--output", file)
    heading, rule, run, _ = markdown_rows(file)
    assert heading[:6] == ["rank", "model architecture", "run", "trainable parameters", "epochs", "best epoch"]
    assert heading[6:] == ["train loss", "train acc", "val loss", "val acc", "macro recall", "macro F1"]
    assert [set(cell) - {":"} for cell in rule] == [{"-"}] * 12
    assert run[2:] == ["lenet/version_0", *cells(text, "lenet/version_0")]
    heading, _, run = markdown_rows(file, 1)
    assert heading == ["rank", "run", "test acc", "test macro recall", "MB", "ms/image", "training time"]
    assert run == ["1", "lenet/version_0", "", "", "0.0", "", ""]
    assert cells(text, "lenet/version_0", table=1) == ["0.0"]
    notes = [line[2:] for line in file.read_text().splitlines() if line.startswith("- ")]
    assert notes == text[text.index("Ranked by") :].splitlines()[:-1]
    assert text.splitlines()[-1] == f"{file} written"
    assert [path.name for path in file.parent.iterdir()] == ["report.md"]


def test_markdown_replaces_an_older_file(write_run, reported, tmp_path):
    write_run("mine")
    file = tmp_path / "report.md"
    file.write_text("old " * 10_000)
    reported("--output", file)
    assert "old" not in file.read_text()


# ---------------------------------------------------------------- refusals


def refusal(capsys: pytest.CaptureFixture[str], *args: object) -> str:
    assert cli("report", *args) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1
    return error


def test_no_folder_and_no_runs_are_refused(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "error: folder='checkpoints' is not a folder. " in refusal(capsys)
    (tmp_path / "checkpoints" / "lenet" / "version_0").mkdir(parents=True)
    for error in (refusal(capsys), refusal(capsys, "--folder", "checkpoints")):
        assert "error: folder='checkpoints' has no runs. " in error
        assert "python -m animals_pl fit --config quickstart" in error


def test_an_output_that_cannot_be_written_is_refused(write_run, capsys, tmp_path):
    write_run("mine")
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    for output in (tmp_path / "folder", tmp_path / "file" / "report.md", Path()):
        error = refusal(capsys, tmp_path / "runs", "--output", output)
        assert f"output='{output}' " in error
        assert "Choose another output." in error
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder", "runs"]


def test_an_unknown_rank_is_refused(write_run, capsys, tmp_path):
    write_run("mine")
    assert "rank_by=speed" in refusal(capsys, tmp_path / "runs", "--rank_by", "speed")
