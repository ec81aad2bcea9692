"""The command line as a person uses it: real files, real runs, exit codes, and how wrong use ends."""

from __future__ import annotations

import contextlib
import csv
import errno
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import rich
import timm
import torch
import yaml
from image_trees import write_tree
from PIL import Image
from run_folders import FILES, names_in
from safetensors.torch import save_file

from animals_pl.cli import VERBS, main, show_thread_error, show_warning
from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.decode import decode
from animals_pl.experiments.study import flatten
from animals_pl.training.callbacks.prediction_writer import PredictionWriter
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.trained import load_model

PROJECT = Path(__file__).parents[1]
EPOCHS = 8
SIZE = 16
METRICS = ("loss", "acc", "macro_recall", "macro_f1")
COLUMNS = {
    "epoch",
    "seconds",
    "image_size",
    "lr",
    *(f"{name}/{split}" for name in METRICS for split in ("train", "val")),
    "ece/val",
}


pytestmark = pytest.mark.usefixtures("wide_screen", "small_figures")


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def fit(tree: Path, folder: Path, *args: object) -> int:
    """Train a small net on a tree, into ``folder``."""
    data = ["--data.root", tree, "--data.size", SIZE, "--data.batch_size", 16, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    return cli("fit", "--model.net", "shallownet", *data, *trainer, *args)


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def without_seconds(file: Path) -> list[dict[str, str]]:
    return [{key: cell for key, cell in row.items() if key != "seconds"} for row in rows(file)]


def splits(run: Path) -> dict[str, str]:
    return {row["path"]: row["split"] for row in rows(run / "split.csv")}


def printed(text: str, split: str) -> dict[str, float]:
    """Return the metrics that validate or test has printed, with four digits."""
    found = re.findall(rf"^(\w+)/{split} +(\d\.\d{{4}})$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


@dataclass
class Run:
    tree: Path
    root: Path
    folder: Path
    output: str

    @property
    def best(self) -> Path:
        return self.folder / "best.ckpt"

    def best_row(self) -> dict[str, str]:
        return min(rows(self.folder / "metrics.csv"), key=lambda row: float(row["loss/val"]))


@pytest.fixture(scope="module")
def run(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One trained run, to be read only."""
    root = tmp_path_factory.mktemp("checkpoints")
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        options = ["--name", "first", "--data.test_fraction", 0.2, "--model.class_weights", "reference"]
        assert fit(tiny_tree, root, *options, "--trainer.max_epochs", EPOCHS, "--model.lr", 0.005) == 0
    return Run(tiny_tree, root, root / "first" / "version_0", output.getvalue())


@pytest.fixture(scope="module")
def predictions(run: Run, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, str]]:
    """What predict says about the whole tree, every class named."""
    file = tmp_path_factory.mktemp("predictions") / "deep" / "all.csv"
    assert cli("predict", run.tree, "--ckpt_path", run.best, "--output", file, "--top_k", 10) == 0
    return rows(file)


# ---------------------------------------------------------------- fit


def test_a_run_folder_holds_these_files_and_no_others(run):
    assert names_in(run.folder) == FILES
    assert Image.open(run.folder / "curves.png").format == "PNG"


def test_metrics_csv_has_one_complete_row_per_epoch(run):
    table = rows(run.folder / "metrics.csv")
    assert set(table[0]) == COLUMNS
    assert next(iter(table[0])) == "epoch"
    assert [row["epoch"] for row in table] == [str(epoch) for epoch in range(EPOCHS)]
    assert all(np.isfinite(float(cell)) for row in table for cell in row.values())


def test_summary_before_training(run):
    summary = run.output.partition("epoch   1")[0]
    assert re.search(rf"^data +{run.tree}: 57 images, 10 classes *$", summary, re.MULTILINE)
    membership = list(splits(run.folder).values())
    counts = {split: membership.count(split) for split in ("train", "val", "test")}
    assert min(counts.values()) > 0
    split = "  ".join(f"{split} {count}" for split, count in counts.items())
    assert re.search(rf"^split +{split}  \(seed 42\) *$", summary, re.MULTILINE)
    assert re.search(rf"^images +{SIZE} px \(stretch\), batches of 16, ", summary, re.MULTILINE)
    assert re.search(r"^net +shallownet, from random weights *$", summary, re.MULTILINE)
    parameters = (3 * 9 + 1) * 32 + (32 * SIZE * SIZE + 1) * 10
    assert re.search(rf"^parameters +{parameters:,} trainable of {parameters:,} *$", summary, re.MULTILINE)
    assert re.search(r"^device +cpu × 1, precision 32-true *$", summary, re.MULTILINE)
    assert re.search(rf"^run +{run.folder} *$", summary, re.MULTILINE)


def test_summary_counts_each_class_in_each_split(run):
    train = [path.partition("/")[0] for path, split in splits(run.folder).items() if split == "train"]
    largest = max(train.count(name) for name in ANIMALS10)
    for italian, english in ANIMALS10.items():
        counts = [
            sum(path.startswith(f"{italian}/") and of == split for path, of in splits(run.folder).items())
            for split in ("train", "val", "test")
        ]
        columns = " +".join(map(str, counts))
        factor = f"{largest / train.count(italian):.3f}"
        assert re.search(rf"^ *{italian} \({english}\) +{columns} +{factor} *$", run.output, re.MULTILINE), italian


def test_the_end_names_the_best_checkpoint_and_its_metrics(run):
    best = run.best_row()
    values = "  ".join(f"{name.replace('_', ' ')} {float(best[f'{name}/val']):.4f}" for name in METRICS)
    end = f"best epoch {int(best['epoch']) + 1} by loss/val: {values}\nbest checkpoint: {run.best}"
    assert run.output.rstrip().endswith(end)


def test_every_epoch_is_printed_once(run):
    assert re.findall(r"^epoch +(\d+)/", run.output, re.MULTILINE) == [str(n) for n in range(1, EPOCHS + 1)]


def test_checkpoints_are_of_the_best_and_of_the_last_epoch(run):
    best, last = (torch.load(run.folder / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last"))
    assert (best, last) == (int(run.best_row()["epoch"]), EPOCHS - 1)


def test_last_checkpoint_is_of_the_last_epoch_even_if_that_was_worse(tiny_tree, tmp_path):
    # Without learning every epoch has the first one's loss, which none after it improves on.
    assert fit(tiny_tree, tmp_path, "--model.lr", 0, "--trainer.max_epochs", 3) == 0
    run = tmp_path / "run" / "version_0"
    epochs = [torch.load(run / f"{name}.ckpt", weights_only=True)["epoch"] for name in ("best", "last")]
    assert epochs == [0, 2]


def test_validate_prints_what_the_best_row_says(run, capsys):
    assert cli("validate", "--ckpt_path", run.best) == 0
    best = run.best_row()
    found = printed(capsys.readouterr().out, "val")
    assert found == pytest.approx({name: float(best[f"{name}/val"]) for name in METRICS}, abs=1e-4)


def test_config_of_a_run_repeats_it_in_a_folder_of_its_own(run):
    assert cli("fit", "--config", run.folder / "config.yaml") == 0
    again = run.root / "first" / "version_1"
    assert without_seconds(again / "metrics.csv") == without_seconds(run.folder / "metrics.csv")
    assert splits(again) == splits(run.folder)
    assert (again / "config.yaml").read_bytes() == (run.folder / "config.yaml").read_bytes()


def test_another_seed_is_another_run(run, tmp_path):
    """What the test before this one compares does depend on the seeds."""
    config = ["--config", run.folder / "config.yaml", "--trainer.default_root_dir", tmp_path]
    assert cli("fit", *config, "--seed_everything", 1, "--trainer.max_epochs", 1, "--name", "weights") == 0
    assert cli("fit", *config, "--data.seed", 1, "--trainer.max_epochs", 1, "--name", "split") == 0
    weights, split = (tmp_path / name / "version_0" for name in ("weights", "split"))
    first = without_seconds(run.folder / "metrics.csv")[0]
    assert without_seconds(weights / "metrics.csv")[0] != first
    assert splits(weights) == splits(run.folder)
    assert splits(split) != splits(run.folder)


def test_a_split_is_used_again(run, tmp_path, capsys):
    split = run.folder / "split.csv"
    assert fit(run.tree, tmp_path, "--data.split", split, "--data.seed", 7, "--data.val_fraction", 0.5) == 0
    assert splits(tmp_path / "run" / "version_0") == splits(run.folder)
    assert f"(from {split})" in capsys.readouterr().out


def test_fast_dev_run_writes_nothing(tiny_tree, tmp_path):
    assert fit(tiny_tree, tmp_path / "checkpoints", "--trainer.fast_dev_run", 1) == 0
    assert list(tmp_path.iterdir()) == []


def test_a_narrow_screen_cuts_no_path(tiny_tree, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    rich.reconfigure()
    folder = tmp_path / "a_long_name_of_a_folder" / "and_another_one_below_it_to_fill_the_line"
    assert fit(tiny_tree, folder) == 0
    summary = "".join(capsys.readouterr().out.partition("class  ")[0].split())
    monkeypatch.undo()
    rich.reconfigure()
    assert f"run{folder}/run/version_0" in summary
    assert f"data{tiny_tree}:57images" in summary


# ---------------------------------------------------------------- broken and excluded images


def test_fit_validate_and_test_leave_broken_images_out_and_say_so(make_tree, tmp_path, capsys):
    tree = make_tree("tree", {"cane": 10, "gatto": 10})
    broken = tree / "cane" / "cane_3.jpg"
    broken.write_bytes(broken.read_bytes()[:300])
    line = f"{broken.relative_to(tree)}: truncated"
    assert fit(tree, tmp_path, "--data.test_fraction", 0.2) == 0
    told = capsys.readouterr().out
    assert "1 broken image:" in told and line in told
    run = tmp_path / "run" / "version_0"
    split_of = splits(run)
    assert split_of.pop("cane/cane_3.jpg") == "left out"
    assert set(split_of.values()) == {"train", "val", "test"}
    for verb, split in (("validate", "val"), ("test", "test")):
        assert cli(verb, "--ckpt_path", run / "best.ckpt") == 0
        told = capsys.readouterr().out
        assert line in told
        counts = re.findall(r"^ *(?:cane|gatto) .*?\) +(\d+)", told, re.M)
        assert sum(map(int, counts)) == list(split_of.values()).count(split)
    assert cli("test", "--ckpt_path", run / "best.ckpt", "--data.test_root", tree) == 0
    told = capsys.readouterr().out
    assert line in told
    assert sum(map(int, re.findall(r"^ *(?:cane|gatto) .*?\) +(\d+)", told, re.M))) == 19


def test_fit_takes_a_list_of_images_to_leave_out(make_tree, tmp_path, capsys):
    tree = make_tree("tree", {"cane": 10, "gatto": 10})
    exclude = tmp_path / "exclude.csv"
    exclude.write_text("reason,path\nodd,cane/cane_1.jpg\n,gatto/gatto_7.jpg\n")
    assert fit(tree, tmp_path, "--data.exclude", exclude) == 0
    assert f"2 images excluded by {exclude}" in capsys.readouterr().out
    run = tmp_path / "run" / "version_0"
    split = {row["path"]: row["split"] for row in rows(run / "split.csv")}
    assert [path for path, split in split.items() if split == "left out"] == ["cane/cane_1.jpg", "gatto/gatto_7.jpg"]
    exclude.unlink()  # the run's split tells what it left out
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*images.*")
        assert cli("validate", "--ckpt_path", run / "best.ckpt") == 0


def test_an_exclude_file_that_fits_another_folder_is_noticed(make_tree, tmp_path, refused):
    tree = make_tree("tree", {"cane": 10, "gatto": 10})
    exclude = tmp_path / "exclude.csv"
    exclude.write_text("path\nnowhere/1.jpg\ncane/cane_1.jpg\n")
    with pytest.warns(UserWarning, match=r"lists 1 image not in .*tree.* \(first: nowhere/1\.jpg\)"):
        assert fit(tree, tmp_path, "--data.exclude", exclude) == 0
    exclude.write_text("file\ncane/cane_1.jpg\n")
    options = ["--data.root", tree, "--data.exclude", exclude, "--trainer.default_root_dir", tmp_path]
    assert "has no column 'path'" in refused("fit", *options)
    assert "is not a file" in refused("fit", *options[:3], tmp_path / "absent.csv", *options[4:])


# ---------------------------------------------------------------- arguments


def config_of(folder: Path) -> dict[str, dict[str, object]]:
    return yaml.safe_load((folder / "run" / "version_0" / "config.yaml").read_text())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--data.group_duplicates", "false"], False),
        (["--data.group_duplicates=false"], False),
        (["--data.group_duplicates", "true"], True),
        (["--data.group_duplicates"], True),
        (["--data.group_duplicates", "--model.lr", 0.1], True),
    ],
    ids=["false", "equals", "true", "flag", "flag_before_option"],
)
def test_booleans_are_flags_or_have_a_value(tiny_tree, tmp_path, options, expected):
    assert fit(tiny_tree, tmp_path, "--trainer.limit_train_batches", 1, *options) == 0
    assert config_of(tmp_path)["data"]["group_duplicates"] is expected


@pytest.mark.parametrize("text", ["# a.csv", "#[0-9]+", "~", "&a", "1e3", "123", "true", "none", "'a'", "2020-01-01"])
def test_values_of_options_are_text(tmp_path, capsys, text):
    options = {"name": text, "data.root": text, "data.split": text, "data.group_by": text, "data.exclude": text}
    options |= {"data.test_root": text, "model.weights": text}
    config = tmp_path / "config.yaml"
    sections = {"data": {}, "model": {}}
    for key, value in options.items():
        section, _, name = key.rpartition(".")
        sections.get(section, sections)[name] = value
    config.write_text(yaml.safe_dump(sections))
    for args in ([f"--{key}={text}" for key in options], ["--config", config]):
        with pytest.raises(SystemExit, match="0"):
            cli("fit", *args, "--print_config")
        read = flatten(yaml.safe_load(capsys.readouterr().out))
        assert {key: read[key] for key in options} == options


def test_only_null_is_no_value(refused, tiny_tree, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli("fit", "--data.exclude", "null", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["data"]["exclude"] is None
    assert "split='# a.csv' is not a file" in refused("analyze", tiny_tree, "--split", "# a.csv")


@pytest.mark.parametrize("text", ["~", "# a", "Null"])
@pytest.mark.parametrize(
    ("args", "name"),
    [
        (["fit", "--data.val_fraction"], "data.val_fraction"),
        (["fit", "--trainer.max_epochs"], "trainer.max_epochs"),
        (["cross-validate", "STUDY", "--root", "DIR", "--only"], "only"),
    ],
    ids=["number", "trainer", "list"],
)
def test_a_number_or_list_without_a_value_is_written_as_null(refused, args, name, text):
    assert f"{name}={text!r} is invalid. Pass a value, or null for none." in refused(*args, text)


@pytest.mark.parametrize("option", ["data.exclude", "data.val_fraction"])
def test_a_value_given_before_null_is_forgotten(option, capsys):
    with pytest.raises(SystemExit, match="0"):
        cli("fit", f"--{option}", "0.25", f"--{option}", "null", "--print_config")
    assert flatten(yaml.safe_load(capsys.readouterr().out))[option] is None


def test_an_empty_number_is_named(refused):
    assert "data.size= is invalid; expected int" in refused("fit", "--data.size", "")


def test_several_nodes_without_a_launcher_are_refused(refused, tiny_tree, tmp_path, monkeypatch):
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    options = ["--data.root", tiny_tree, "--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu"]
    message = refused("fit", *options, "--model.net", "shallownet", "--data.size", 32, "--trainer.num_nodes", 2)
    assert "trainer.num_nodes=2 needs a launcher. On every node, start the command with 'torchrun --nnodes=2" in message


@pytest.mark.parametrize(("code", "shown"), [(errno.ENOSPC, False), (errno.EBADF, True)], ids=["disk_full", "bug"])
def test_a_full_disk_in_a_thread_has_no_traceback(monkeypatch, capsys, code, shown):
    def fail():
        raise OSError(code, "failed")

    monkeypatch.setattr(threading, "excepthook", show_thread_error)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    assert ("Traceback" in capsys.readouterr().err) is shown


def test_paths_may_stand_before_and_after_options_and_flags(run, tmp_path):
    file = tmp_path / "out.csv"
    first, *others = sorted((run.tree / "cane").iterdir())[:3]
    assert cli("predict", first, "--ckpt_path", run.best, "--output", file, "--data.group_duplicates", *others) == 0
    assert [row["path"] for row in rows(file)] == [str(first), *map(str, others)]


FILE_NAMES = [
    *("a\u202fb.jpg", "a\u00a0b.jpg", "a\u200bb.jpg", "a\nb.jpg", "a\rb.jpg", "a\tb.jpg", " a ", "a\\b.jpg"),
    *("-x.jpg", "--output", "-", "[a].jpg", "[a", "{x}.jpg", "{x: 1}", "a: b", "# a", "'a'", '"a"', "&a", "!a", "@a"),
    *("1e3", "null", "true", "a*.jpg", "?", "~", "~.jpg", "$HOME.jpg", "%d", "a,b.jpg", "a=b", "é", "e\u0301", "🐕"),
]


def test_any_file_name_is_predicted_and_named(run, tmp_path, monkeypatch):
    image = (run.tree / "cane" / "cane_0.jpg").read_bytes()
    monkeypatch.chdir(tmp_path)
    for name in FILE_NAMES:
        Path(name).write_bytes(image)
    assert cli("predict", "--ckpt_path", run.best, "--output", "out.csv", "--", *FILE_NAMES) == 0
    assert [row["path"] for row in rows(Path("out.csv"))] == FILE_NAMES
    plain = [name for name in FILE_NAMES if not name.startswith("-")]
    assert cli("predict", *plain, "--ckpt_path", run.best, "--output", "out.csv") == 0
    assert [row["path"] for row in rows(Path("out.csv"))] == plain


def test_bytes_of_a_name_that_are_not_utf8_are_escaped(run, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / os.fsdecode(b"\xfc.jpg")).write_bytes((run.tree / "cane" / "cane_0.jpg").read_bytes())
    (folder / os.fsdecode(b"broken\xfc.jpg")).touch()
    assert cli("predict", folder, "--ckpt_path", run.best, "--output", tmp_path / "out.csv") == 0
    assert {row["path"] for row in rows(tmp_path / "out.csv")} == {rf"{folder}/\xfc.jpg", rf"{folder}/broken\xfc.jpg"}


def test_a_folder_that_is_not_utf8_is_trained_on(make_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tree = make_tree("l\udce4", {"cane": 10, "gatto": 10})
    assert fit(tree, Path("runs")) == 0
    run = Path("runs/run/version_0")
    assert yaml.safe_load((run / "config.yaml").read_text())["data"]["root"] == str(tree)
    assert cli("fit", "--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 2) == 0
    assert len(rows(run / "metrics.csv")) == 2
    assert cli("export", run / "best.ckpt", "--output", "m\udce4.onnx") == 0
    assert onnxruntime.InferenceSession(Path("m\udce4.onnx").read_bytes()).get_inputs()[0].name == "images"
    with pytest.warns(UserWarning, match=r"TensorBoard cannot write to 'runs/n\\udce4/version_0', which is not UTF-8"):
        assert fit(tree, Path("runs"), "--name", "n\udce4") == 0
    assert sorted(path.name for path in Path("runs/n\udce4/version_0").iterdir()) == [
        *("best.ckpt", "config.yaml", "curves.png", "environment.json"),
        *("last.ckpt", "metrics.csv", "speed.json", "split.csv"),
    ]


NAMES_THAT_CONTROL = {"\x1b[31mred": r"\x1b[31mred", "new\nline": r"new\nline", "x\u202eabc": r"x\u202eabc"}


def test_characters_that_control_the_terminal_are_escaped(make_tree, tmp_path, capsys, refused):
    tree = make_tree("\x1b[1mtree", dict.fromkeys(NAMES_THAT_CONTROL, 10))
    (tree / "\x1b[31mred" / "\x1b]0;.jpg").touch()
    assert fit(tree, tmp_path / "\x9bruns", "--name", "\x1bname", "--data.test_fraction", 0.2) == 0
    best = next((tmp_path / "\x9bruns").rglob("best.ckpt"))
    for verb in ("validate", "test"):
        assert cli(verb, "--ckpt_path", best) == 0
    assert cli("analyze", tree, "--output", tmp_path / "\x1breport") == 0
    assert cli("prepare", tree, "--output", tmp_path / "\x1bprepared") == 0
    assert cli("predict", tree, "--ckpt_path", best, "--output", tmp_path / "\x1b.csv") == 0
    assert cli("export", best, "--output", tmp_path / "\x1b.onnx") == 0
    assert cli("report", tmp_path / "\x9bruns") == 0
    told = capsys.readouterr().out
    assert re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", told) == []
    assert [name for name in NAMES_THAT_CONTROL.values() if f"  {name}  " not in told] == []
    assert "\x1b" not in refused("fit", "--data.root", "\x1bnowhere")


def test_a_path_that_looks_like_an_option_is_explained(refused, run, tmp_path, monkeypatch):
    message = refused("predict", "-x.jpg")
    assert "unknown option '-x.jpg'; a path that starts with '-' is written as './-x.jpg' or after '--'" in message
    assert "unknown key 'x-1.jpg'. See --help" in refused("predict", "--x-1.jpg", "--ckpt_path", run.best)
    monkeypatch.chdir(tmp_path)
    Path("--x-1.jpg").touch()
    message = refused("predict", "--x-1.jpg", "--ckpt_path", run.best)
    assert "unknown key 'x-1.jpg'; a path that starts with '-' is written as './--x-1.jpg' or after '--'" in message


def test_a_positional_argument_and_its_option_contradict_each_other(refused, run):
    paths = ["--data.predict_paths", "['a.jpg']", "b.jpg"]
    assert "--data.predict_paths and 'b.jpg' are the same argument" in refused("predict", *paths)


def test_a_path_after_the_options_counts_more_than_a_configuration_file(run, tmp_path):
    image, file = run.tree / "cane" / "cane_0.jpg", tmp_path / "out.csv"
    config = tmp_path / "config.yaml"
    config.write_text("data: {predict_paths: null}")
    assert cli("predict", "--ckpt_path", run.best, "--config", config, "--output", file, image) == 0
    assert [row["path"] for row in rows(file)] == [str(image)]


def test_names_of_runs_and_classes_are_text(make_tree, tmp_path, capsys):
    names = ["lynx [male]", "[bold]", ":cat:", "1e3", "null", "🐕", "a: b"]
    tree = make_tree("[tree] ü", dict.fromkeys(names, 5))
    assert fit(tree, tmp_path / "[runs]", "--name", "lr[a]", "--data.test_fraction", 0.2) == 0
    told = capsys.readouterr().out
    best = Path(re.search(r"best checkpoint: (.*)", told).group(1))
    assert best == tmp_path / "[runs]" / "lr[a]" / "version_0" / "best.ckpt"
    assert best.is_file()
    assert f"{tree}: 35 images, 7 classes" in told
    for verb in ("validate", "test"):
        assert cli(verb, "--ckpt_path", best) == 0
        told += capsys.readouterr().out
        assert [name for name in names if f"  {name}  " not in told] == []
    assert cli("report", tmp_path / "[runs]") == 0
    assert "lr[a]" in capsys.readouterr().out


@pytest.mark.skipif(not str(PROJECT).isascii(), reason="in this locale, torch cannot be imported from such a folder")
def test_a_configuration_file_is_utf8_in_any_locale(tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("\ufeffname: übung  # →\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "animals_pl", "fit", "--config", config, "--print_config"],
        cwd=PROJECT,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert r"name: \xfcbung" in done.stdout


def test_a_source_may_stand_after_the_options(tiny_tree, tmp_path):
    assert cli("analyze", "--output", tmp_path / "report", tiny_tree) == 0
    assert list((tmp_path / "report").rglob("*.html")) != []


def test_two_values_for_one_positional_argument_are_refused(refused, tiny_tree):
    assert "unexpected argument 'second'" in refused("analyze", tiny_tree, "second")


def test_fit_has_no_positional_argument(refused):
    assert "unexpected argument 'images'" in refused("fit", "images")


# ---------------------------------------------------------------- test-time augmentation


def test_validate_averages_the_logits_of_flips_on_request(run, capsys):
    assert cli("validate", "--ckpt_path", run.best, "--model.tta", "hflip") == 0
    found = printed(capsys.readouterr().out, "val")["loss"]
    net = load_model(run.best).net
    losses = []
    for path, split in splits(run.folder).items():
        if split == "val":
            pixels = torch.from_numpy(squeezed(str(run.tree / path))).permute(2, 0, 1)[None]
            with torch.no_grad():
                logits = (net(pixels) + net(pixels.flip(3)))[0] / 2
            losses.append(-logits.log_softmax(0)[sorted(ANIMALS10).index(path.partition("/")[0])].item())
    assert found == pytest.approx(np.mean(losses), abs=2e-4)
    assert abs(found - float(run.best_row()["loss/val"])) > 2e-4


# ---------------------------------------------------------------- predict


def test_predict_names_every_image_in_order(run, predictions):
    assert [row["path"] for row in predictions] == sorted(str(file) for file in run.tree.rglob("*.jpg"))


def test_predict_columns(predictions):
    ranks = [column for k in range(1, 11) for column in (f"class_{k}", f"probability_{k}")]
    assert list(predictions[0]) == ["path", "class", "english", "probability", *ranks, "problem"]


def probabilities_of(row: dict[str, str]) -> dict[str, float]:
    """Return the probability of each class that a row names; a sum over batches differs in the last digits."""
    ranks = [key.removeprefix("class_") for key in row if key.startswith("class_")]
    return {row[f"class_{rank}"]: float(row[f"probability_{rank}"]) for rank in ranks}


def test_predict_rows_hold_together(predictions):
    for row in predictions:
        probabilities = [float(row[f"probability_{k}"]) for k in range(1, 11)]
        assert probabilities == sorted(probabilities, reverse=True)
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert {row[f"class_{k}"] for k in range(1, 11)} == set(ANIMALS10)
        best = (row["class_1"], row["probability_1"], ANIMALS10[row["class_1"]])
        assert (row["class"], row["probability"], row["english"]) == best
    assert len({row["class"] for row in predictions}) > 3  # a model that has learnt something


def squeezed(path: str) -> np.ndarray:
    """Return an image as a person would resize it with Pillow: (SIZE, SIZE, 3) uint8."""
    picture = Image.fromarray(decode(path, SIZE))
    return np.array(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR))


def test_predict_is_the_calibrated_softmax_of_the_nets_own_forward(run, predictions):
    temperature = torch.load(run.best, weights_only=True)["calibration"]["temperature"]
    model = AnimalClassifier.load_from_checkpoint(run.best, map_location="cpu", weights_only=True).eval()
    for row in predictions[::9]:
        pixels = squeezed(row["path"])
        with torch.no_grad():
            expected = model.net(torch.from_numpy(pixels).permute(2, 0, 1)[None])[0].div(temperature).softmax(0)
        found = {row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in range(1, 11)}
        assert [found[name] for name in ANIMALS10] == pytest.approx(expected.tolist(), abs=2e-6)


@pytest.mark.parametrize(("top_k", "named"), [(1, 1), (4, 4), (99, 10)])
def test_predict_names_top_k_classes(run, tmp_path, top_k, named):
    file = tmp_path / "out.csv"
    image = run.tree / "gatto" / "gatto_0.jpg"
    assert cli("predict", image, "--ckpt_path", run.best, "--output", file, "--top_k", top_k) == 0
    (row,) = rows(file)
    assert len(row) == 5 + 2 * named


def test_predict_takes_relative_files_and_folders(run, predictions, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(run.tree.parent)
    given = [Path(run.tree.name) / "pecora", Path(run.tree.name) / "cane" / "cane_1.jpg"]
    file = tmp_path / "out.csv"
    assert cli("predict", *given, "--ckpt_path", run.best, "--output", file, "--top_k", 10) == 0
    found = {str((run.tree.parent / row["path"]).resolve()): row for row in rows(file)}
    whole = {row["path"]: row for row in predictions}
    assert list(found) == [*sorted(map(str, (run.tree / "pecora").iterdir())), str(run.tree / "cane" / "cane_1.jpg")]
    for path, row in found.items():
        assert probabilities_of(row) == pytest.approx(probabilities_of(whole[path]), abs=1e-4)
    assert f"{len(found)} predictions written to {file}" in " ".join(capsys.readouterr().out.split())


def test_predict_counts_what_has_no_prediction(run, tmp_path, capsys):
    whole = (run.tree / "cane" / "cane_1.jpg").read_bytes()
    for index in range(12):
        (tmp_path / f"text_{index}.jpg").write_text("no image")
    (tmp_path / "whole.jpg").write_bytes(whole)
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    file = tmp_path / "out.csv"
    assert cli("predict", tmp_path, "--ckpt_path", run.best, "--output", file) == 0
    told = capsys.readouterr().out
    assert "13 broken images, 12 not predicted, 1 decoded in part:" in told
    assert f"  and 3 more; the column 'problem' of {file} lists all" in told
    assert f"2 predictions and 12 rows without a prediction written to {file}" in told
    assert [bool(row["class"]) for row in rows(file)].count(True) == 2
    assert len(rows(file)) == 14


@pytest.mark.parametrize("verb", ["predict", "export", "report", "prepare", "analyze", "cross-validate", "search"])
def test_an_output_below_a_file_is_refused_before_the_work_starts(refused, run, tmp_path, verb):
    (tmp_path / "file").touch()
    study = "searches/small_head.yaml" if verb == "search" else "studies/ablation.yaml"
    args = {
        "predict": [run.tree, "--ckpt_path", run.best],
        "export": [run.best],
        "report": [run.root],
        "prepare": [run.tree],
        "analyze": [run.tree],
    }.get(verb, [PROJECT / "configs" / study, "--root", run.tree])
    output = tmp_path / "file" / ("x.onnx" if verb == "export" else "x")
    message = refused(verb, *args, "--output", output)
    assert f"output='{output}' cannot be created: '{tmp_path / 'file'}' is a file. Choose another output." in message


def test_predictions_are_written_through_a_pipe_and_a_link(run, tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "target.csv")
    assert cli("predict", run.tree, "--ckpt_path", run.best, "--output", tmp_path / "link.csv") == 0
    assert len(rows(tmp_path / "target.csv")) == 57
    assert (tmp_path / "link.csv").is_symlink()
    command = [sys.executable, "-m", "animals_pl", "predict", run.tree, "--ckpt_path", run.best]
    done = subprocess.run(
        [*command, "--output", "/dev/stdout"], cwd=PROJECT, capture_output=True, text=True, check=True
    )
    assert len(list(csv.DictReader(io.StringIO(done.stdout)))) == 57
    assert done.stderr.endswith("57 predictions written to /dev/stdout\n")


def test_a_full_disk_is_named(run, capsys):
    assert cli("predict", run.tree, "--ckpt_path", run.best, "--output", "/dev/full") == 1
    assert capsys.readouterr().err.endswith("error: No space left on device: '/dev/full'\n")


def test_predict_needs_no_training_images(tiny_tree, tmp_path):
    tree = shutil.copytree(tiny_tree, tmp_path / "copy")
    assert fit(tree, tmp_path / "runs") == 0
    image = shutil.copy(tree / "cane" / "cane_0.jpg", tmp_path / "dog.jpg")
    shutil.rmtree(tree)
    (tmp_path / "runs" / "run" / "version_0" / "split.csv").unlink()
    file = tmp_path / "out.csv"
    assert cli("predict", image, "--ckpt_path", tmp_path / "runs/run/version_0/last.ckpt", "--output", file) == 0
    assert [row["path"] for row in rows(file)] == [str(image)]


def test_predict_that_wrong_use_ends_leaves_the_old_file(run, make_tree, tmp_path, capsys):
    tree = make_tree("images", {"cane": 2})
    for file in tree.rglob("*.jpg"):
        file.write_bytes(b"")
    file = tmp_path / "out.csv"
    file.write_text("old")
    assert cli("predict", tree, "--ckpt_path", run.best, "--output", file) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert "0 of 2 images can be decoded" in message
    assert "cane_0.jpg" in message and "empty file" in message
    assert file.read_text() == "old"


@pytest.mark.parametrize("workers", [0, 2])
def test_predict_lists_broken_images_and_names_the_others(run, make_tree, tmp_path, capsys, workers):
    tree = make_tree("images", {"cane": 4, "ragno": 4})
    whole = {path: path.read_bytes() for path in sorted(tree.rglob("*.jpg"))}
    empty, text, cut = tree / "cane" / "cane_0.jpg", tree / "cane" / "cane_2.jpg", tree / "ragno" / "ragno_3.jpg"
    options = ["--ckpt_path", run.best, "--data.batch_size", 3, "--data.num_workers", workers]
    assert cli("predict", tree, *options, "--output", tmp_path / "whole.csv") == 0
    empty.write_bytes(b"")
    text.write_text("no image")
    cut.write_bytes(whole[cut][: len(whole[cut]) * 8 // 10])
    capsys.readouterr()
    assert cli("predict", tree, *options, "--output", tmp_path / "out.csv") == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "3 broken images, 2 not predicted, 1 decoded in part:" in told
    before = {row["path"]: row for row in rows(tmp_path / "whole.csv")}
    after = {row["path"]: row for row in rows(tmp_path / "out.csv")}
    assert after.keys() == before.keys() == set(map(str, whole))
    for path in (empty, text):
        row = after[str(path)]
        assert {value for key, value in row.items() if key not in ("path", "problem")} == {""}
        assert f"{path}: {row['problem']}" in told
    assert after[str(empty)]["problem"] == "empty file (0 bytes)"
    assert "not an image" in after[str(text)]["problem"]
    assert after[str(cut)]["problem"].startswith("truncated")
    assert after[str(cut)]["class"] in ANIMALS10
    readable = set(map(str, whole)) - {str(empty), str(text), str(cut)}
    for path in readable:
        assert after[path]["problem"] == ""
        # Other batches, other last digits; near-ties among the three best may swap.
        assert float(after[path]["probability"]) == pytest.approx(float(before[path]["probability"]), abs=1e-4)


def test_interrupted_predict_leaves_no_file(run, tmp_path, monkeypatch):
    write = PredictionWriter.write_on_batch_end

    def interrupt_second(self, trainer, module, prediction, indices, batch, batch_idx, loader):
        if batch_idx == 1:
            raise KeyboardInterrupt
        write(self, trainer, module, prediction, indices, batch, batch_idx, loader)

    monkeypatch.setattr(PredictionWriter, "write_on_batch_end", interrupt_second)
    file = tmp_path / "out.csv"
    assert cli("predict", run.tree, "--ckpt_path", run.best, "--output", file, "--data.batch_size", 8) == 130
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_ends_without_a_traceback(tiny_tree, monkeypatch, capsys):
    def interrupt(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("animals_pl.reports.analyze.catalog_of", interrupt)
    assert cli("analyze", tiny_tree) == 130
    assert capsys.readouterr().err == "animals_pl analyze: interrupted\n"


@pytest.mark.parametrize("args", [["--help"], ["report", "--help"], ["report", "nowhere"]])
def test_a_closed_pipe_ends_without_a_traceback(args):
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "animals_pl", *args]
    done = subprocess.run(command, cwd=PROJECT, stdout=writing, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writing)
    assert (done.returncode, "Traceback" in done.stderr) == (2 if "nowhere" in args else 0, False)
    assert "BrokenPipe" not in done.stderr


# ---------------------------------------------------------------- test


def test_test_judges_the_test_split_of_the_run(run, predictions, capsys):
    assert cli("test", "--ckpt_path", run.best) == 0
    of_test = {str(run.tree / path) for path, split in splits(run.folder).items() if split == "test"}
    right = [Path(row["path"]).parent.name == row["class"] for row in predictions if row["path"] in of_test]
    assert len(right) == len(of_test) > 0
    assert printed(capsys.readouterr().out, "test")["acc"] == pytest.approx(np.mean(right), abs=1e-4)


def test_test_on_another_folder_with_some_classes_in_english(run, predictions, tmp_path, capsys):
    right = {name: [] for name in ANIMALS10}
    for row in predictions:
        truth = Path(row["path"]).parent.name
        right[truth].append(row["class"] == truth)
    ranked = sorted(right, key=lambda name: np.mean(right[name]))
    chosen = [ranked[0], ranked[5], ranked[-1]]
    for name in chosen:
        shutil.copytree(run.tree / name, tmp_path / "other" / ANIMALS10[name].title())
    assert cli("test", "--ckpt_path", run.best, "--data.test_root", tmp_path / "other") == 0
    found = printed(capsys.readouterr().out, "test")
    accuracy = np.mean([answer for name in chosen for answer in right[name]])
    assert 0 < accuracy < 1
    assert found["acc"] == pytest.approx(accuracy, abs=1e-4)
    assert found["macro_recall"] == pytest.approx(np.mean([np.mean(right[name]) for name in chosen]), abs=1e-4)


# ---------------------------------------------------------------- export


def test_exported_file_predicts_what_predict_says(run, predictions, tmp_path, capsys):
    file = tmp_path / "deep" / "model.onnx"
    assert cli("export", "--ckpt_path", run.best, "--output", file) == 0
    assert f"{file} written" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(file)
    names = json.loads(session.get_modelmeta().custom_metadata_map["class_names"])
    row = predictions[20]
    pixels = squeezed(row["path"])
    (probabilities,) = session.run(["probabilities"], {"images": pixels.transpose(2, 0, 1)[None]})
    found = {row[f"class_{k}"]: float(row[f"probability_{k}"]) for k in range(1, 11)}
    assert probabilities[0].tolist() == pytest.approx([found[name] for name in names], abs=1e-5)


def test_a_checkpoint_lives_without_the_weights_that_it_began_with(tiny_tree, tmp_path, capsys):
    torch.manual_seed(3)
    weights = tmp_path / "weights.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), weights)
    options = ["--model.net", "test_resnet", "--model.freeze", "true", "--data.size", 32]
    assert fit(tiny_tree, tmp_path, *options, "--model.weights", weights) == 0
    run = tmp_path / "run" / "version_0"
    assert f"frozen backbone, from {weights}" in capsys.readouterr().out
    weights.unlink()
    checkpoint = ["--ckpt_path", run / "best.ckpt"]
    assert cli("validate", *checkpoint) == 0
    (row,) = rows(run / "metrics.csv")
    assert printed(capsys.readouterr().out, "val")["loss"] == pytest.approx(float(row["loss/val"]), abs=2e-4)
    assert cli("predict", tiny_tree / "mucca", *checkpoint, "--output", tmp_path / "out.csv") == 0
    assert cli("export", *checkpoint, "--output", tmp_path / "model.onnx") == 0
    assert len(rows(tmp_path / "out.csv")) == 5
    assert (tmp_path / "model.onnx").stat().st_size > 1000


def test_weights_are_where_the_net_begins(tiny_tree, tmp_path):
    torch.manual_seed(3)
    backbone = timm.create_model("test_resnet", num_classes=0).state_dict()
    weights = tmp_path / "weights.safetensors"
    save_file(backbone, weights)
    options = ["--model.net", "test_resnet", "--model.freeze", "true", "--model.weights", weights]
    assert fit(tiny_tree, tmp_path, *options, "--data.size", 32) == 0
    state = torch.load(tmp_path / "run/version_0/last.ckpt", weights_only=True)["state_dict"]
    assert [name for name, tensor in backbone.items() if not torch.equal(tensor, state[f"net.backbone.{name}"])] == []


# ---------------------------------------------------------------- prepare


def test_prepare_draws_a_set_to_train_on(tmp_path, capsys):
    assert cli("prepare", "--output", tmp_path / "practice", "--count", 60) == 0
    assert "60 images generated" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "practice").iterdir()) == sorted([*ANIMALS10, "manifest.csv"])
    assert fit(tmp_path / "practice", tmp_path / "runs") == 0


# ---------------------------------------------------------------- help


def test_help_names_every_verb_on_a_line(capsys):
    assert cli("--help") == 0
    lines = capsys.readouterr().out.splitlines()
    for name, verb in VERBS.items():
        assert [line.split(maxsplit=1) for line in lines if line.startswith(f"  {name} ")] == [[name, verb.help]]


def test_no_verb_is_wrong_use_and_shows_the_help(capsys):
    assert cli() == 2
    assert "usage: python -m animals_pl COMMAND" in capsys.readouterr().out


TRAINING = [
    "--data.root",
    "--data.size",
    "--model.net",
    "--model.lr",
    "--trainer.max_epochs",
    "--ckpt_path",
    "--config",
]


@pytest.mark.parametrize(
    ("verb", "options"),
    [
        ("fit", [*TRAINING, "--name", "--monitor", "--cache_features", "--seed_everything"]),
        ("validate", TRAINING),
        ("test", [*TRAINING, "--data.test_root"]),
        ("predict", [*TRAINING, "--output", "--top_k", "--data.predict_paths"]),
        ("prepare", ["--source", "--output", "--count", "--seed"]),
        ("report", ["--folder", "--output", "--rank_by"]),
        ("export", ["--ckpt_path", "--output", "--image_folder"]),
    ],
)
def test_help_of_a_verb_lists_its_options(capsys, verb, options):
    with pytest.raises(SystemExit) as stopped:
        cli(verb, "--help")
    assert stopped.value.code == 0
    listed = {
        key for line in re.findall(r"^  -.*", capsys.readouterr().out, re.M) for key in re.findall(r"--[\w.]+", line)
    }
    assert set(options) - listed == set()


def test_help_explains_the_settings(capsys):
    with pytest.raises(SystemExit):
        cli("fit", "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert "Side of validation, test and export images in pixels" in text
    assert "Epochs in which the learning rate rises" in text
    assert "Metric that selects the best epoch." in text


def test_help_imports_nothing_heavy():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "animals_pl", "--help"],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "animals_pl" in imported
    assert imported & {"torch", "lightning", "timm", "cv2", "albumentations", "numpy", "onnx", "matplotlib"} == set()
    assert "first steps:" in done.stdout


def test_wrong_use_of_the_program_itself_exits_with_2():
    done = subprocess.run(
        [sys.executable, "-m", "animals_pl", "fti"], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("animals_pl fti: error: unknown command 'fti'. Did you mean 'fit'?")


def test_warnings_are_their_text_once(capsys):
    for line in (1, 2):
        show_warning(UserWarning("a\x1b class"), UserWarning, "file.py", line)
    assert capsys.readouterr().err == "warning: a\\x1b class\n"


def test_the_program_itself_prints_warnings_without_their_origin(tmp_path):
    tree = write_tree(tmp_path / "tree", {"cane": 2, "gatto": 2})
    (tree / "lost").symlink_to("nowhere")
    args = [sys.executable, "-m", "animals_pl", "prepare", tree, "--output", tmp_path / "prepared"]
    done = subprocess.run(args, cwd=PROJECT, capture_output=True, text=True, check=True)
    lost = [str(tree / "lost"), str(tmp_path / "prepared" / "raw-img" / "lost")]  # the source, and the link to it
    assert done.stderr.splitlines() == [f"warning: {path!r} is a link to a missing file or folder" for path in lost]


# ---------------------------------------------------------------- wrong use


@pytest.fixture
def refused(capsys, tmp_path):
    """Return a function that runs a command line, proves that it was refused, and returns the message."""

    def check(verb: str, *args: object) -> str:
        before = set(tmp_path.rglob("version_*"))
        assert cli(verb, *args) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        last = error.splitlines()[-1]
        assert last.startswith(f"animals_pl {verb}: error: ")
        assert set(tmp_path.rglob("version_*")) == before
        return last

    return check


FIT_MISTAKES = {
    "missing root": (["--data.root", "nowhere"], ["data.root='nowhere'", "prepare", "--data.root DIR"]),
    "root is a file": (["--data.root", PROJECT / "setup.cfg"], ["data.root=", "setup.cfg", "--data.root DIR"]),
    "unknown net": (["--model.net", "mobilenetv3_smal_100"], ["'mobilenetv3_smal_100'", "'mobilenetv3_small_100'"]),
    "misspelt own net": (["--model.net", "minivgnet"], ["model.net='minivgnet'", "Did you mean 'minivggnet'?"]),
    "unknown tag": (["--model.net", "resnet18.nope"], ["model.net='resnet18.nope'", "resnet18.a1_in1k"]),
    "unknown augmentation": (["--data.augment", "lihgt"], ["data.augment='lihgt'", "'light'"]),
    "unknown optimizer": (["--model.optimizer", "adamm"], ["model.optimizer='adamm'", "Did you mean 'adam"]),
    "unknown schedule": (["--model.schedule", "cosin"], ["model.schedule=cosin", "'cosine'"]),
    "unknown head": (["--model.head", "deep"], ["model.head=deep", "'linear', 'dense'"]),
    "unknown resize": (["--data.resize", "squash"], ["data.resize=squash", "'stretch', 'crop'"]),
    "unknown sampling": (["--data.sampling", "even"], ["data.sampling=even", "'shuffle', 'weighted'"]),
    "text for a number": (["--data.size", "big"], ["data.size=big", "int"]),
    "half a batch": (["--data.batch_size", "2.5"], ["data.batch_size=2.5", "int"]),
    "size below the least": (["--data.size", 4], ["data.size=4", "8"]),
    "size too small for the net": (
        ["--model.net", "test_vit", "--data.size", 30],
        ["data.size=30", "'test_vit'"],
    ),
    "no images per batch": (["--data.batch_size", 0], ["data.batch_size=0"]),
    "negative workers": (["--data.num_workers", -1], ["data.num_workers=-1"]),
    "fractions above 1": (
        ["--data.val_fraction", 0.7, "--data.test_fraction", 0.4],
        ["data.val_fraction=0.7", "data.test_fraction=0.4"],
    ),
    "crop without crop": (["--data.crop_pct", 0.9], ["data.crop_pct=0.9", "data.resize=crop"]),
    "misspelt key": (["--data.siez", 32], ["unknown key 'data.siez'", "Did you mean 'data.size'?"]),
    "misspelt name": (["--nmae", "x"], ["unknown key 'nmae'", "Did you mean 'name'?"]),
    "missing configuration": (["--config", "nowhere.yaml"], ["nowhere.yaml"]),
    "missing split": (["--data.split", "nowhere.csv"], ["data.split='nowhere.csv'"]),
    "missing weights": (
        ["--model.net", "test_resnet", "--data.size", 32, "--model.weights", "nowhere.safetensors"],
        ["model.weights='nowhere.safetensors'", ".safetensors or .pth file"],
    ),
    "weights that are none": (
        ["--model.net", "test_resnet", "--data.size", 32, "--model.weights", PROJECT / "setup.cfg"],
        ["model.weights=", "setup.cfg", "'test_resnet'"],
    ),
    "weights for a net from scratch": (
        ["--model.weights", "imagenet"],
        ["model.weights='imagenet'", "model.net='shallownet'", "null"],
    ),
    "frozen net from scratch": (["--model.freeze", "true"], ["model.freeze=True", "model.net='shallownet'"]),
    "resizing a net of one size": (
        [
            "--model.net",
            "lenet",
            "--trainer.callbacks",
            "ProgressiveResizing",
            "--trainer.callbacks.sizes",
            "[8, 16]",
        ],
        ["ProgressiveResizing", "model.net='lenet'"],
    ),
    "missing checkpoint": (["--ckpt_path", "nowhere.ckpt"], ["ckpt_path='nowhere.ckpt'", "best.ckpt"]),
    "focal_gamma without focal loss": (["--model.focal_gamma", 2], ["model.focal_gamma=2", "model.loss=focal"]),
    "logit_tau without adjusted logits": (["--model.logit_tau", 1], ["model.logit_tau=1", "model.loss=logit_adjusted"]),
    "effective_beta without effective weights": (
        ["--model.effective_beta", 0.999],
        ["model.effective_beta=0.999", "model.class_weights=effective"],
    ),
    "unknown monitor": (["--monitor", "acuracy/val"], ["monitor", "acuracy/val", "acc/val"]),
    "dropout above 1": (
        ["--model.net", "test_resnet", "--data.size", 32, "--model.dropout", 1.5],
        ["model.dropout=1.5"],
    ),
    "negative learning rate": (["--model.lr", -1], ["model.lr=-1"]),
    "negative weight decay": (["--model.weight_decay", -1], ["model.weight_decay=-1"]),
    "negative seed": (["--data.seed", -1], ["data.seed=-1"]),
    "unknown accelerator": (["--trainer.accelerator", "gpuu"], ["gpuu"]),
    "text for a rate": (["--model.lr", "abc"], ["model.lr=abc is invalid; expected float"]),
    "null for a number": (["--data.size", "null"], ["data.size=null is invalid; expected int"]),
    "text for devices": (["--trainer.accelerator", "cpu", "--trainer.devices", "q"], ["`devices`", "int > 0"]),
    "unknown callback": (["--trainer.callbacks+=Unknown"], ["trainer.callbacks=Unknown is unknown", "import path"]),
    "callback without its argument": (
        ["--trainer.callbacks", "EarlyStopping"],
        ["EarlyStopping needs monitor; pass --trainer.callbacks.monitor VALUE"],
    ),
    "misspelt argument of a callback": (
        ["--trainer.callbacks", "EarlyStopping", "--trainer.callbacks.monitr", "x"],
        ["EarlyStopping has no argument 'monitr'", "--trainer.callbacks.help EarlyStopping"],
    ),
    "text for a list of a callback": (
        ["--trainer.callbacks", "ProgressiveResizing", "--trainer.callbacks.sizes", "8"],
        ["trainer.callbacks.sizes=8 is invalid; expected list", "'[8]'"],
    ),
    "number in a list of classes": (["--trainer.callbacks", "[1]"], ["expected list[Callback], Callback, null"]),
    "no time": (["--trainer.max_time", "00:00:00:00"], ["trainer.max_time=00:00:00:00 is out of range"]),
    "negative time": (["--trainer.max_time", "{hours: -1}"], ["trainer.max_time", "is out of range"]),
    "device without its package": (["--trainer.accelerator", "tpu"], ["torch_xla"]),
    "precision without its package": (["--trainer.precision", "transformer-engine"], ["transformer_engine"]),
    "epsilon below 0": (["--model.optimizer_eps", -1], ["model.optimizer_eps=-1.0 is out of range"]),
    "size of gigabytes": (["--data.size", 100_000], ["data.size=100000 is out of range", "to 4096"]),
    "classes of the data": (["--model.class_names", "[a,b]"], ["model.class_names=['a', 'b'] is set by the data"]),
    "size of the data": (["--model.input_size", 64], ["model.input_size=64 is set by the data", "Remove"]),
    "seed out of range": (["--seed_everything=-1"], ["seed_everything=-1 is out of range"]),
    "no configuration of a section": (["--data", "nowhere.yaml"], ["data='nowhere.yaml' is not a configuration file"]),
}


@pytest.mark.parametrize("mistake", FIT_MISTAKES)
def test_fit_refuses(refused, tiny_tree, tmp_path, monkeypatch, mistake):
    args, named = FIT_MISTAKES[mistake]
    monkeypatch.chdir(tmp_path)
    common = {"--data.root": tiny_tree, "--data.size": SIZE, "--data.num_workers": 0, "--model.net": "shallownet"}
    common |= {"--trainer.default_root_dir": tmp_path / "runs", "--trainer.max_epochs": 1}
    common = {key: value for key, value in common.items() if key not in args}
    message = refused("fit", *(part for pair in common.items() for part in pair), *args)
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("data:\n  siez: 32\n", ["'data.siez'", "Did you mean 'data.size'?"]),
        ("model:\n  learning_rate: 0.1\n", ["learning_rate"]),
        ("trainer:\n  max_epoch: 3\n", ["max_epoch", "Did you mean 'trainer.max_epochs'?"]),
        ("modle:\n  lr: 0.1\n", ["modle", "Did you mean 'model"]),
        ("model:\n  head: deep\n", ["model.head=deep", "'linear', 'dense'"]),
        ("data: [1, 2\n", ["config.yaml' cannot be read", "line 1, column 7"]),
        ("hello", ["config.yaml' has no keys"]),
        ("", ["config.yaml' has no keys"]),
        ("name: \udcfc", ["config.yaml' cannot be read", "Save it as YAML in UTF-8."]),
    ],
)
def test_fit_refuses_a_wrong_configuration_file(refused, tiny_tree, tmp_path, content, named):
    file = tmp_path / "config.yaml"
    file.write_text(content, errors="surrogateescape")
    options = ["--data.root", tiny_tree, "--trainer.default_root_dir", tmp_path / "runs", "--trainer.max_epochs", 1]
    message = refused("fit", "--config", file, *options)
    assert [part for part in named if part not in message] == [], message


@pytest.mark.parametrize(
    ("counts", "named"),
    [({}, ["data.root="]), ({"cane": 5, "gatto": 0}, ["'gatto'"])],
)
def test_fit_refuses_a_tree_without_images(refused, make_tree, tmp_path, counts, named):
    tree = make_tree("tree", counts)
    tree.mkdir(exist_ok=True)
    message = refused("fit", "--data.root", tree, "--trainer.default_root_dir", tmp_path, "--trainer.max_epochs", 1)
    assert [part for part in [str(tree), *named] if part not in message] == [], message


def test_fit_refuses_a_class_that_is_all_broken(refused, make_tree, tmp_path):
    tree = make_tree("tree", {"cane": 5, "gatto": 5})
    for file in (tree / "gatto").iterdir():
        file.write_bytes(b"")
    options = ["--data.root", tree, "--data.size", SIZE, "--model.net", "shallownet"]
    message = refused("fit", *options, "--trainer.default_root_dir", tmp_path / "runs", "--trainer.max_epochs", 1)
    assert "'gatto'" in message and "broken or excluded" in message


def test_unknown_verb(refused):
    assert "Did you mean 'predict'? Choose one of fit, validate" in refused("pedict")


def test_a_checkpoint_of_version_0_1_is_refused(refused, run, tmp_path):
    checkpoint = torch.load(run.best, weights_only=True)
    del checkpoint["animals_pl_version"]
    torch.save(checkpoint, tmp_path / "old.ckpt")
    assert "was written by animals_pl 0.1" in refused("validate", "--ckpt_path", tmp_path / "old.ckpt")


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_a_checkpoint_is_required(refused, tiny_tree, verb):
    paths = [tiny_tree] if verb == "predict" else []
    assert f"{verb} needs --ckpt_path FILE" in refused(verb, *paths)


def test_export_requires_a_checkpoint(refused, tmp_path):
    assert "--ckpt_path is missing" in refused("export", "--output", tmp_path / "model.onnx")


@pytest.mark.parametrize(
    ("verb", "kind"),
    [
        *((verb, "text") for verb in ("fit", "validate", "test", "predict", "export")),
        *(("validate", kind) for kind in ("truncated", "foreign", "folder")),
    ],
)
def test_a_file_that_is_not_a_checkpoint_is_refused(refused, run, tmp_path, verb, kind):
    file = tmp_path / "some.ckpt"
    if kind == "text":
        file.write_text("# Read me\n")
    elif kind == "truncated":
        file.write_bytes(run.best.read_bytes()[:-5000])
    elif kind == "foreign":
        torch.save({"state_dict": {}}, file)
    else:
        file.mkdir()
    paths = [run.tree] if verb == "predict" else []
    message = refused(verb, *paths, "--ckpt_path", file)
    assert f"ckpt_path='{file}' is not" in message
    assert "best.ckpt or last.ckpt of a run" in message


@pytest.mark.parametrize(
    ("verb", "key", "value", "kept"),
    [
        ("validate", "data.size", 24, "16"),
        ("test", "data.resize", "crop", "'stretch'"),
        ("predict", "data.interpolation", "nearest", "'bilinear'"),
        ("predict", "model.net", "lenet", "'shallownet'"),
        ("fit", "model.lr", 1, "0.005"),
        ("fit", "model.tta", "hflip", "'none'"),
    ],
)
def test_what_contradicts_the_checkpoint_is_refused(refused, run, verb, key, value, kept):
    paths = [run.tree] if verb == "predict" else []
    message = refused(verb, *paths, "--ckpt_path", run.best, f"--{key}", value)
    assert f"{key}={value if isinstance(value, int) else repr(value)}" in message.replace("=1.0 ", "=1 ")
    assert f"trained with {kept}" in message


def test_test_without_test_images_is_refused(refused, tiny_tree, tmp_path):
    assert fit(tiny_tree, tmp_path) == 0
    message = refused("test", "--ckpt_path", tmp_path / "run" / "version_0" / "best.ckpt")
    assert "data.test_root" in message
    assert "data.test_fraction" in message


def test_test_on_a_folder_with_an_unknown_class_is_refused(refused, run, make_tree):
    tree = make_tree("other", {"dog": 2, "unicorn": 2})
    message = refused("test", "--ckpt_path", run.best, "--data.test_root", tree)
    assert "data.test_root contains 'unicorn'" in message
    assert "scoiattolo (squirrel)" in message


@pytest.mark.parametrize(
    ("args", "named"),
    [
        ([], "no images to predict"),
        (["nowhere.jpg"], "'nowhere.jpg' does not exist"),
        ([PROJECT / "configs"], "no images to predict in"),
        ([PROJECT / "setup.cfg"], "setup.cfg"),
    ],
)
def test_predict_refuses(refused, run, tmp_path, args, named):
    file = tmp_path / "out.csv"
    assert named in refused("predict", *args, "--ckpt_path", run.best, "--output", file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("verb", "options", "named"),
    [
        (
            "cross-validate",
            ["--only", "zz"],
            "only=zz is invalid; expected list[str], null; a list is written as '[zz]'",
        ),
        ("cross-validate", ["--seed", -1], "seed=-1 is out of range"),
        ("search", ["--trials", 0], "trials=0 is too small"),
        ("search", ["--seed", 2**32], "seed=4294967296 is out of range"),
    ],
)
def test_studies_refuse(refused, tiny_tree, tmp_path, verb, options, named):
    study = "searches/small_head.yaml" if verb == "search" else "studies/ablation.yaml"
    message = refused(verb, PROJECT / "configs" / study, "--root", tiny_tree, "--output", tmp_path, *options)
    assert named in message


@pytest.mark.parametrize(
    ("verb", "key", "value", "named"),
    [
        ("predict", "limit_predict_batches", 1, "trainer.limit_predict_batches=1 leaves images out"),
        ("predict", "limit_predict_batches", 0.5, "trainer.limit_predict_batches=0.5 leaves images out"),
        ("predict", "fast_dev_run", "true", "trainer.fast_dev_run=True leaves images out"),
        ("validate", "limit_val_batches", 0, "trainer.limit_val_batches=0 is out of range"),
        ("test", "limit_test_batches", 0.0, "trainer.limit_test_batches=0"),
    ],
)
def test_evaluation_is_of_all_images(refused, run, tmp_path, monkeypatch, verb, key, value, named):
    monkeypatch.chdir(tmp_path)
    paths = [run.tree] if verb == "predict" else []
    assert named in refused(verb, *paths, "--ckpt_path", run.best, f"--trainer.{key}", value)
    assert list(tmp_path.iterdir()) == []


def test_a_number_of_batches_is_no_fraction(tiny_tree):
    """In a process of its own: what is imported before Lightning may turn its ``int | float`` into ``float | int``."""
    args = ["fit", "--data.root", str(tiny_tree), "--trainer.limit_train_batches", "1", "--print_config"]
    printed = subprocess.run([sys.executable, "-m", "animals_pl", *args], capture_output=True, text=True, check=True)
    assert "limit_train_batches: 1\n" in printed.stdout


@pytest.mark.parametrize("top_k", [0, -1])
def test_predict_refuses_to_name_no_class(refused, run, tmp_path, top_k):
    args = ["--ckpt_path", run.best, "--output", tmp_path / "out.csv", "--top_k", top_k]
    assert f"top_k={top_k}" in refused("predict", run.tree, *args)


@pytest.mark.parametrize(
    ("args", "named"),
    [
        (["--source", "kagle"], ["source='kagle'", "Did you mean 'kaggle'?"]),
        (["--count", "many"], ["count=many"]),
        (["--outptu", "x"], ["unknown key 'outptu'", "Did you mean 'output'?"]),
        (["--seed", -1], ["seed=-1 is too small"]),
    ],
)
def test_prepare_refuses(refused, tmp_path, monkeypatch, args, named):
    monkeypatch.chdir(tmp_path)
    message = refused("prepare", *args)
    assert [part for part in named if part not in message] == [], message
    assert list(tmp_path.iterdir()) == []


def test_resolved_configuration_is_complete(run):
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert {"name", "monitor", "seed_everything", "data", "model", "trainer"} <= set(config)
    assert (config["name"], config["seed_everything"]) == ("first", 42)
    assert config["data"]["root"] == str(run.tree)
    assert config["model"]["class_weights"] == "reference"
    assert config["trainer"]["default_root_dir"] == str(run.root)
