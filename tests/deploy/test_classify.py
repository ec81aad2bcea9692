"""classify: every kind of input, damaged files, exact names, resuming, copies, wrong use; all without torch."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from classify_calls import classify, refused
from PIL import Image

from animals_pl import Identifier
from animals_pl.data.walk import iter_images
from animals_pl.deploy import image_worker
from animals_pl.deploy.metadata import read_texts
from animals_pl.deploy.onnx_file import seal

FIRST = ["path", "class", "english", "probability", "class_1", "probability_1"]
LAST = ["unknown_score", "problem", "date", "camera", "bytes", "modified", "sha256", "model"]


def with_threshold(model: Path, name: str, threshold: float | None) -> Path:
    """Write the model with another threshold for unknown images."""
    texts = {key: text for key, text in read_texts(model.read_bytes()).items() if key != "sha256"}
    file = model.with_name(name)
    proto = onnx.load_from_string(model.read_bytes())
    file.write_bytes(seal(proto, texts | {"unknown_threshold": json.dumps(threshold)}))
    return file


@pytest.fixture(scope="module")
def unknown_model(model, tiny_tree) -> tuple[Path, float]:
    """The same with the median score of the training images as the threshold, and this threshold."""
    threshold = float(np.median([one.unknown_score for one in Identifier(model).predict(tiny_tree)]))
    return with_threshold(model, "unknown.onnx", threshold), threshold


@pytest.fixture
def card(tiny_tree, tmp_path) -> Path:
    """A memory card: 20 images in two folders."""
    for number, file in enumerate(sorted(tiny_tree.rglob("*.jpg"))[:40:2]):
        target = tmp_path / "card" / f"DCIM{number % 2}" / f"IMG_{number:03}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, target)
    return tmp_path / "card"


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
        return list(csv.DictReader(stream))


def paths(file: Path) -> list[str]:
    return [row["path"] for row in rows(file)]


def images(folder: Path) -> list[str]:
    return sorted(str(path) for path in folder.rglob("*.jpg"))


def stdin(monkeypatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))


# ---------------------------------------------------------------- what is written


def test_rows_are_the_predictions_of_each_file(model, card, tmp_path, capsys):
    assert classify(model, card, "--output", tmp_path / "out.csv", "--top_k", 2) == 0
    found = rows(tmp_path / "out.csv")
    assert [*found[0]] == [*FIRST, "class_2", "probability_2", *LAST]
    assert [row["path"] for row in found] == images(card)
    identifier = Identifier(model)
    for row in found:
        (one,) = identifier.predict(row["path"], top_k=2)
        assert [row["class"], row["class_1"], row["class_2"]] == [one.label, one.label, one.top[1][0]]
        assert float(row["probability"]) == pytest.approx(one.probability, abs=1e-5)
        assert float(row["probability_2"]) == pytest.approx(one.top[1][1], abs=1e-5)
        assert int(row["bytes"]) == Path(row["path"]).stat().st_size
        assert row["model"] == identifier.metadata.sha256[:12]
    assert len({row["class"] for row in found}) > 1
    assert "out.csv: 20 images in" in capsys.readouterr().out


def test_json_lines_have_the_same_values(model, card, tmp_path):
    assert classify(model, card, "--output", tmp_path / "out.csv") == 0
    assert classify(model, card, "--output", tmp_path / "out.jsonl") == 0
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text(encoding="ascii").splitlines()]
    as_text = [{key: "" if value is None else str(value) for key, value in line.items()} for line in lines]
    assert as_text == rows(tmp_path / "out.csv")
    assert {type(line["probability"]) for line in lines} == {float}


def test_standard_output(model, card):
    command = [sys.executable, "-m", "animals_pl", "classify", model, card, "--output", "/dev/stdout"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [row["path"] for row in csv.DictReader(io.StringIO(done.stdout))] == images(card)
    assert "20 images" in done.stderr


def test_more_classes_than_there_are(model, card, tmp_path):
    assert classify(model, card, "--output", tmp_path / "out.csv", "--top_k", 99) == 0
    (name, *_) = rows(tmp_path / "out.csv")
    assert "class_10" in name and "class_11" not in name


def test_images_below_the_threshold_are_for_review(model, card, tmp_path):
    threshold = float(np.median([one.probability for one in Identifier(model).predict(card)]))
    assert classify(model, card, "--output", tmp_path / "out.csv", "--threshold", threshold) == 0
    found = rows(tmp_path / "out.csv")
    accepted = [float(row["probability_1"]) >= threshold for row in found]
    assert set(accepted) == {True, False}
    assert [row["class"] for row in found] == [
        row["class_1"] if accept else "review" for row, accept in zip(found, accepted, strict=True)
    ]


def test_images_of_no_known_class(unknown_model, card, tmp_path):
    file, threshold = unknown_model
    assert classify(file, card, "--output", tmp_path / "out.csv", "--unknown") == 0
    found = rows(tmp_path / "out.csv")
    assert [row["class"] == "unknown" for row in found] == [float(row["unknown_score"]) > threshold for row in found]
    assert {row["class"] == "unknown" for row in found} == {True, False}
    expected = Identifier(file).predict(images(card), unknown=True)
    assert [row["class"] for row in found] == [one.label for one in expected]


def test_date_and_camera_of_exif(model, card, tmp_path):
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "RECONYX\0", "HyperFire  2"
    exif.get_ifd(0x8769).update({0x9003: "2024:05:31 06:12:59", 0x9011: "+02:00"})
    plain = Image.Exif()
    plain[0x010F], plain[0x0110], plain[0x0132] = "Canon", "Canon EOS R5", "2023:01:02 03:04:05"
    broken = Image.Exif()
    broken[0x0132] = "0000:00:00"
    folder = tmp_path / "exif"
    folder.mkdir()
    for name, data in {"a.jpg": exif, "b.png": plain, "c.jpg": broken}.items():
        Image.new("RGB", (40, 30)).save(folder / name, exif=data)
    assert classify(model, folder, "--output", tmp_path / "out.csv") == 0
    found = [(row["date"], row["camera"], row["problem"]) for row in rows(tmp_path / "out.csv")]
    assert found == [
        ("2024-05-31T06:12:59+02:00", "RECONYX HyperFire 2", ""),
        ("2023-01-02T03:04:05", "Canon EOS R5", ""),
        ("", "", ""),
    ]


def test_bad_files_have_a_reason_and_no_prediction_of_another(model, card, tmp_path):
    whole, third = Path(images(card)[0]).read_bytes(), images(card)[2]
    (card / "DCIM0" / "IMG_000a.jpg").write_bytes(b"")
    (card / "DCIM0" / "IMG_001b.jpg").write_text("not an image")
    (card / "DCIM0" / "IMG_002c.jpg").write_bytes(whole[: len(whole) // 2])
    (card / "DCIM0" / "IMG_003d.jpg").symlink_to("nowhere.jpg")
    (card / "DCIM1" / "folder.jpg").mkdir()
    shutil.copy(third, card / "DCIM1" / "folder.jpg" / "inside.jpg")
    (card / "notes.txt").write_text("no image, and in a folder: no row")
    os.mkfifo(card / "DCIM1" / "pipe.jpg")
    named = tmp_path / "named.txt"
    named.write_text("named: has a row")
    assert classify(model, card, named, "--output", tmp_path / "out.csv") == 0
    found = {Path(row["path"]).name: row for row in rows(tmp_path / "out.csv")}
    assert len(rows(tmp_path / "out.csv")) == len(found) == 20 + 4 + 1 + 1 + 1
    bad = {
        "IMG_000a.jpg": "empty file (0 bytes)",
        "IMG_001b.jpg": "not an image in a supported format",
        "IMG_003d.jpg": "cannot be read: No such file or directory",
        "pipe.jpg": "cannot be read: it is not a regular file",
        "named.txt": "not an image in a supported format",
    }
    for name, problem in bad.items():
        assert found[name]["problem"] == problem
        assert {found[name][column] for column in FIRST[1:]} == {""}
    assert "truncated" in found["IMG_002c.jpg"]["problem"] and found["IMG_002c.jpg"]["class"]
    identifier = Identifier(model)
    good = [row for name, row in found.items() if name not in bad]
    for row, one in zip(good, identifier.predict([row["path"] for row in good]), strict=True):
        assert (row["class"], float(row["probability"])) == (one.label, pytest.approx(one.probability, abs=1e-5))


NAMES = [b"new\nline.jpg", b"carriage\rreturn.jpg", b"both\r\n.jpg", b"latin-\xe4.jpg", "ünï 🐕.jpg".encode()]
NAMES += [b"[brackets].jpg", b"-dash.jpg", b'quote".jpg', b'comma,"\r\n".jpg', b"=cmd.jpg", b" blank .jpg", b"'.jpg"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_names_are_exactly_as_on_disk(model, card, tmp_path, suffix):
    folder = tmp_path / "names"
    folder.mkdir()
    given = [os.fsdecode(name) for name in NAMES]
    for name, file in zip(given, itertools.cycle(images(card)), strict=False):
        shutil.copy(file, folder / name)
    out = tmp_path / f"out{suffix}"
    assert classify(model, folder, "--output", out) == 0
    content = out.read_bytes()
    read = rows(out) if suffix == ".csv" else [json.loads(line) for line in content.splitlines()]
    assert sorted(row["path"] for row in read) == sorted(str(folder / name) for name in given)
    assert classify(model, folder, "--output", out, "--resume") == 0
    assert out.read_bytes() == content


# ---------------------------------------------------------------- what is read


def test_files_folders_patterns_and_repetitions(model, card, tmp_path, monkeypatch):
    monkeypatch.chdir(card)
    shutil.copy(images(card)[0], "[a].jpg")
    shutil.copy(images(card)[0], "-x.jpg")
    given = ["[a].jpg", "DCIM1/*5.jpg", "DCIM1", "**/IMG_00?.jpg", "./-x.jpg"]
    assert classify(model, *given, "--output", tmp_path / "out.csv", "--", "-x.jpg") == 0
    expected = ["[a].jpg", *sorted(map(str, Path("DCIM1").glob("*5.jpg")))]
    expected += [path for path in sorted(map(str, Path("DCIM1").iterdir())) if path not in expected]
    expected += [f"DCIM0/IMG_00{number}.jpg" for number in range(0, 10, 2)] + ["./-x.jpg", "-x.jpg"]
    assert paths(tmp_path / "out.csv") == expected


@pytest.mark.parametrize("separator", [b"\n", b"\0"])
def test_a_list_on_standard_input(model, card, tmp_path, monkeypatch, separator):
    named = images(card / "DCIM0")
    if separator == b"\0":
        Path(named[0]).rename(card / "DCIM0" / "new\nline.jpg")
        named[0] = str(card / "DCIM0" / "new\nline.jpg")
    given = [*named, str(card / "missing.jpg"), str(card / "DCIM1")]
    stdin(monkeypatch, separator.join(map(os.fsencode, [*given, ""])))
    assert classify(model, "-", "--output", tmp_path / "out.csv") == 0
    assert paths(tmp_path / "out.csv") == [*given[:-1], *images(card / "DCIM1")]
    assert [row["problem"] for row in rows(tmp_path / "out.csv") if row["problem"]] == [
        "cannot be read: No such file or directory"
    ]


def test_folders_are_read_in_the_order_of_names(tmp_path):
    for name in ("b/2.jpg", "b/1.jpg", "a/z/1.jpg", "a/b.jpg", "c.jpg", ".hidden/1.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = [path.relative_to(tmp_path).as_posix() for path in iter_images(tmp_path)]
    assert found == ["c.jpg", "a/b.jpg", "a/z/1.jpg", "b/1.jpg", "b/2.jpg"]


def test_a_folder_that_cannot_be_read_is_named_at_the_end(model, card, tmp_path, monkeypatch, capsys):
    scandir = os.scandir

    def refuse(folder: Path) -> object:
        if Path(folder).name == "DCIM0":
            raise PermissionError(13, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", refuse)
    assert classify(model, card, "--output", tmp_path / "out.csv") == 0
    assert paths(tmp_path / "out.csv") == images(card / "DCIM1")
    assert f"'{card}/DCIM0' cannot be read (Permission denied)" in capsys.readouterr().err


def test_a_folder_may_grow(model, card, tmp_path, monkeypatch):
    read_file = image_worker.read_file

    def read_and_add(path: str):
        name = Path(path).name.replace("IMG", "NEW")
        if "NEW" not in path:
            shutil.copy(path, card / "DCIM1" / name)
        return read_file(path)

    monkeypatch.setattr(image_worker, "read_file", read_and_add)
    assert classify(model, card, "--output", tmp_path / "out.csv") == 0
    found = paths(tmp_path / "out.csv")
    assert len(found) == len(set(found)) and {path for path in found if "IMG" in path} == {
        path for path in images(card) if "IMG" in path
    }
    assert classify(model, card, "--output", tmp_path / "out.csv", "--resume") == 0
    assert sorted(paths(tmp_path / "out.csv")) == images(card) and len(images(card)) == 40


# ---------------------------------------------------------------- resuming


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """Content lengths of the images that are decoded, as they are."""
    seen: list[int] = []
    load_checked = image_worker.load_checked

    def count(content: bytes, *args: object):
        seen.append(len(content))
        return load_checked(content, *args)

    monkeypatch.setattr(image_worker, "load_checked", count)
    return seen


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_an_interrupted_table_is_continued_at_any_byte(model, card, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    Path(images(card)[7]).rename(card / "DCIM0" / 'new\r\n"line".jpg')
    assert classify(model, card, "--output", out) == 0
    whole = out.read_bytes()
    for end in [0, 5, *random.Random(0).sample(range(len(whole)), 12), len(whole) - 1, len(whole)]:
        out.write_bytes(whole[:end])
        assert classify(model, card, "--output", out, "--resume") == 0
        assert out.read_bytes() == whole, end


def test_unchanged_files_are_not_read(model, card, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.csv"
    assert classify(model, card, "--output", out, "--resume") == 0  # no file yet
    content = out.read_bytes()
    monkeypatch.setattr(image_worker, "read_file", None)
    assert classify(model, card, "--output", out, "--resume") == 0
    assert out.read_bytes() == content
    assert "20 images (20 unchanged) in" in capsys.readouterr().out


def test_a_renamed_card_costs_only_reading(model, card, tmp_path, computed, capsys):
    out = tmp_path / "out.csv"
    assert classify(model, card, "--output", out) == 0
    before = rows(out)
    renamed = card.rename(tmp_path / "renamed")
    computed.clear()
    assert classify(model, renamed, "--output", out, "--resume") == 0
    assert computed == []
    assert "20 images (20 with known content)" in capsys.readouterr().out
    after = rows(out)
    moved = [row | {"path": row["path"].replace(str(card), str(renamed))} for row in before]
    assert after == before + moved


def test_a_changed_file_has_one_row_with_its_new_content(model, card, tmp_path, computed):
    out = tmp_path / "out.csv"
    assert classify(model, card, "--output", out) == 0
    before = {row["path"]: row for row in rows(out)}
    changed, touched, gone, *_ = images(card)
    Image.new("RGB", (50, 40), "orange").save(changed)
    os.utime(touched, (1, 1))
    computed.clear()
    Path(gone).unlink()
    assert classify(model, card, gone.replace(".jpg", ".*"), card, "--output", out, "--resume") == 2  # matches no file
    assert classify(model, card, "--output", out, "--resume") == 0
    assert computed == [Path(changed).stat().st_size]
    found = {row["path"]: row for row in rows(out)}
    assert len(rows(out)) == len(found) == 20
    assert found.pop(changed)["sha256"] != before.pop(changed)["sha256"]
    assert found == before
    assert classify(model, card, "--output", out, "--resume") == 0
    assert len(computed) == 1


def test_two_rows_left_by_a_kill_become_one(model, card, tmp_path):
    out = tmp_path / "out.csv"
    assert classify(model, card, "--output", out) == 0
    header, first, *rest = out.read_bytes().splitlines(keepends=True)
    out.write_bytes(b"".join([header, first, *rest, first]))
    assert classify(model, card, "--output", out, "--resume") == 0
    assert out.read_bytes() == b"".join([header, *rest, first])


def test_an_unreadable_file_is_tried_again_and_a_result_is_kept(model, card, tmp_path, monkeypatch):
    out, late, lost = tmp_path / "out.csv", card / "late.jpg", images(card)[0]
    names = "\n".join([str(late), lost]).encode()
    stdin(monkeypatch, names)
    assert classify(model, "-", "--output", out) == 0
    result = rows(out)[1]
    shutil.move(lost, late)
    stdin(monkeypatch, names)
    assert classify(model, "-", "--output", out, "--resume") == 0
    found = {row["path"]: row for row in rows(out)}
    assert len(rows(out)) == 2 and found[lost] == result
    assert (found[str(late)]["class"], found[str(late)]["problem"]) == (result["class"], "")


def test_settings_of_a_resumed_table_must_be_the_same(model, unknown_model, card, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert classify(model, card, "--output", out) == 0
    content = out.read_bytes()
    assert "exists. Pass --resume" in refused(capsys, model, card, "--output", out)
    assert "another top_k" in refused(capsys, model, card, "--output", out, "--resume", "--top_k", 2)
    assert "another threshold" in refused(capsys, model, card, "--output", out, "--resume", "--threshold", 1)
    assert "another model" in refused(capsys, unknown_model[0], card, "--output", out, "--resume")
    assert out.read_bytes() == content


@pytest.mark.parametrize(
    ("suffix", "damage", "message"),
    [
        (".csv", b"a,b\r\n", "a row that cannot be read"),
        (".csv", b'"' + b"x" * 2**21, "damaged from byte"),
        (".jsonl", b"[1]\n", "its columns differ"),
        (".jsonl", b"{\n", "a row that cannot be read"),
    ],
)
def test_a_damaged_table_is_left_as_it_is(model, card, tmp_path, capsys, suffix, damage, message):
    out = tmp_path / f"out{suffix}"
    assert classify(model, card, "--output", out) == 0
    out.write_bytes(content := out.read_bytes() + damage)
    assert message in refused(capsys, model, card, "--output", out, "--resume")
    assert out.read_bytes() == content


# ---------------------------------------------------------------- copies


def test_copies_never_overwrite(model, card, tmp_path):
    copies, out = tmp_path / "copies", tmp_path / "out.csv"
    shutil.copytree(card / "DCIM0", card / "again")  # the same names and contents: one copy
    shutil.copy(images(card / "DCIM0")[1], card / "again" / "IMG_000.jpg")  # another content under the same name
    (card / "broken.jpg").touch()
    assert classify(model, card, "--output", out, "--copy", copies) == 0
    first = next(row for row in rows(out) if row["path"].endswith("IMG_000.jpg"))
    assert (copies / first["class"] / "IMG_000.jpg").read_bytes() == Path(first["path"]).read_bytes()
    contents = {(row["class"], row["sha256"]) for row in rows(out) if row["class"]}
    found = sorted(path for path in copies.rglob("*") if path.is_file())
    names = {(row["class"], Path(row["path"]).name, row["sha256"]) for row in rows(out) if row["class"]}
    assert len(found) == len(names) and len(contents) == 20
    assert "IMG_000_2.jpg" in {path.name for path in found}
    (own := copies / first["class"] / "IMG_000.jpg").write_text("of the user")
    assert classify(model, card, "--output", out, "--copy", copies, "--resume") == 0
    assert own.read_text() == "of the user"
    before = {path: path.read_bytes() for path in copies.rglob("*") if path.is_file()}
    assert len(before) == len(found) + 1
    assert classify(model, card, "--output", out, "--copy", copies, "--resume") == 0
    assert {path: path.read_bytes() for path in copies.rglob("*") if path.is_file()} == before


# ---------------------------------------------------------------- wrong use


def test_wrong_use_is_one_line(model, card, tmp_path, capsys, monkeypatch):
    out = ["--output", tmp_path / "out.csv"]
    (tmp_path / "empty").mkdir()
    assert "paths is empty" in refused(capsys, model)
    assert "--model is missing" in refused(capsys)
    assert "'nowhere' does not exist" in refused(capsys, model, "nowhere", *out)
    assert "'*.nothing' matches no file" in refused(capsys, model, "*.nothing", *out)
    assert "there are no images in" in refused(capsys, model, tmp_path / "empty", *out)
    stdin(monkeypatch, b"\n")
    assert "there are no images in -" in refused(capsys, model, "-", *out)
    assert "cannot be used" in refused(capsys, images(card)[0], card, *out)
    assert "neither .csv nor .jsonl" in refused(capsys, model, card, "--output", tmp_path / "out.xlsx")
    assert "is a folder" in refused(capsys, model, card, "--output", card)
    assert "threshold=2.0 is out of range" in refused(capsys, model, card, *out, "--threshold", 2)
    assert "top_k=0 is out of range" in refused(capsys, model, card, *out, "--top_k", 0)
    without = with_threshold(model, "without.onnx", None)
    assert "no threshold for unknown images" in refused(capsys, without, card, *out, "--unknown")
    assert "is inside" in refused(capsys, model, card, *out, "--copy", card / "copies")
    assert "is a stream" in refused(capsys, model, card, "--output", "/dev/null", "--resume")
    assert "unknown key 'treshold'. Did you mean 'threshold'?" in refused(capsys, model, card, "--treshold", 1)
    assert "--model and" in refused(capsys, "--model", model, card)
    assert not (tmp_path / "out.csv").exists()


# ---------------------------------------------------------------- processes

WITHOUT_TORCH = """
import sys
for name in ("torch", "lightning", "timm", "pandas", "sklearn", "scipy", "matplotlib", "onnx", "cv2", "jinja2"):
    sys.modules[name] = None
from animals_pl.cli import main
sys.exit(main(sys.argv[1:]))
"""


def test_runs_where_only_the_runtime_is_installed(model, card, tmp_path):
    command = [sys.executable, "-c", WITHOUT_TORCH, "classify", model, card, "--output", tmp_path / "out.csv"]
    subprocess.run(command, check=True, capture_output=True)
    assert paths(tmp_path / "out.csv") == images(card)


@pytest.mark.slow
def test_killed_thirty_times_there_is_one_row_per_file(model, card, tmp_path):
    for number in range(600):
        shutil.copy(images(card)[number % 20], card / f"COPY_{number:03}.jpg")
    out = tmp_path / "out.csv"
    command = [sys.executable, "-m", "animals_pl", "classify", model, card, "--output", out, "--resume"]
    rng = random.Random(0)
    expected = None
    for kill in range(30):
        if kill % 5 == 0:
            out.unlink(missing_ok=True)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        size = out.stat().st_size if out.exists() else 0
        aim = size + rng.randrange(30_000)
        while process.poll() is None and (out.stat().st_size if out.exists() else 0) < aim:
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
        if kill % 5 == 4:
            subprocess.run(command, check=True, capture_output=True)
            assert sorted(paths(out)) == images(card)
            labels = {row["path"]: row["class"] for row in rows(out)}
            expected = expected or labels
            assert labels == expected
