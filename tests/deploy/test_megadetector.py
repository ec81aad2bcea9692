"""MegaDetector's format: boxes are classified and everything else is kept; whole images; malformed files."""

from __future__ import annotations

import copy
import io
import json
import random
import shutil
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from classify_calls import classify, refused
from PIL import Image

from animals_pl import Identifier
from animals_pl.deploy import image_worker, json_stream, output_formats
from animals_pl.deploy.box_worker import Box, square_crop
from animals_pl.deploy.json_stream import read_members, write_members
from animals_pl.deploy.megadetector import check, path_below
from animals_pl.errors import UsageError

ANIMAL_BOX = [0.25, 0.25, 0.5, 0.25]

INFO = {"detector": "md_v5a.0.0.pt", "format_version": "1.4", "detector_metadata": {"own": [1, 2.50, None]}}


def animal(bbox=ANIMAL_BOX, conf: float = 0.9, **more: object) -> dict:
    return {"category": "1", "conf": conf, "bbox": list(bbox), **more}


def document(*images: dict, **more: object) -> dict:
    return {"info": INFO, "detection_categories": {"1": "animal", "2": "person"}, "images": list(images), **more}


@pytest.fixture
def station(tmp_path, tiny_tree) -> Path:
    """A folder with three images without loss, of different shapes."""
    folder = tmp_path / "station"
    for number, name in enumerate(("a/1.png", "a/2.png", "ü b.png")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        source = sorted(tiny_tree.rglob("*.jpg"))[number * 9]
        Image.open(source).resize((120 - 30 * number, 90)).save(folder / name)
    return folder


def write(folder: Path, content: dict | str) -> Path:
    file = folder / "md.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")
    return file


def run(model: Path, file: Path, *args: object) -> dict:
    """Classify the boxes of a file and return what was written."""
    output = file.with_name("out.json")
    output.unlink(missing_ok=True)
    assert classify(model, "--detections", file, "--output", output, *args) == 0
    return json.loads(output.read_text(encoding="ascii"))


def require_valid(content: dict) -> None:
    """The rules of MegaDetector's validate_batch_results.py and of its description of the format."""
    assert float(content["info"]["format_version"]) >= 1.3
    for categories in (content["detection_categories"], content["classification_categories"]):
        assert all(key.isdecimal() and isinstance(name, str) and name for key, name in categories.items())
    for image in content["images"]:
        assert isinstance(image["file"], str)
        if isinstance(image.get("failure"), str):
            assert image.get("detections") is None
            continue
        for detection in image["detections"]:
            assert isinstance(detection["conf"], float)
            assert detection["category"] in content["detection_categories"]
            pairs = detection.get("classifications", [["0", 1.0]])
            assert pairs and {key for key, _ in pairs} <= {*content["classification_categories"]}
            confidences = [confidence for _, confidence in pairs]
            assert confidences == sorted(confidences, reverse=True)


# ---------------------------------------------------------------- boxes


def test_animal_boxes_are_classified_and_everything_else_is_kept(model, station):
    given = document(
        {"file": "a/1.png", "own": {"deep": [1, "ü"]}, "detections": [animal(own=True), animal(conf=0.19)]},
        {"file": "ü b.png", "detections": [{"category": "2", "conf": 0.99, "bbox": ANIMAL_BOX}]},
        {"file": "a/2.png", "detections": [], "failure": None},
        {"file": "lost.png", "detections": None, "failure": "Failure image access"},
        {"file": "nothing.png", "failure": "no detections"},
        {"file": "a/2.png", "detections": [animal([0, 0, 1, 1]), animal([0.5, 0.5, 0.5, 0.5], conf=0.2)]},
        other=1,
    )
    found = run(model, write(station, given))
    require_valid(found)
    identifier = Identifier(model)
    assert list(found) == ["info", "detection_categories", "classification_categories", "images", "other"]
    assert found["info"].items() >= INFO.items()
    assert found["info"]["classifier"] == f"model.onnx ({identifier.metadata.sha256[:12]})"
    assert [*found["classification_categories"].values()] == identifier.metadata.english_names

    stripped = copy.deepcopy(found)
    classified = [
        one.pop("classifications", None) for image in stripped["images"] for one in image.get("detections") or []
    ]
    assert stripped["images"][:4] + stripped["images"][5:] == given["images"][:4] + given["images"][5:]
    assert [pairs is not None for pairs in classified] == [True, False, False, True, True]
    assert all(len(pairs) == 3 for pairs in classified if pairs)


def test_a_box_gets_the_prediction_of_its_crop(model, station):
    found = run(model, write(station, document({"file": "a/1.png", "detections": [animal([0.25, 0.2, 0.5, 0.3])]})))
    # 120 × 90 pixels: a box of 60 × 27 pixels around (60, 31.5), a square of 1.15 · 60 = 69 pixels, moved down by 3
    crop = Image.open(station / "a/1.png").crop((26, 0, 26 + 69, 69))
    identifier = Identifier(model)
    (expected,) = identifier.predict(crop, top_k=3)
    names = {str(number): name for number, name in enumerate(identifier.class_names)}
    pairs = found["images"][0]["detections"][0]["classifications"]
    assert [names[key] for key, _ in pairs] == [name for name, _ in expected.top]
    assert [value for _, value in pairs] == pytest.approx([value for _, value in expected.top], abs=1e-6)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        (Box(0.4, 0.4, 0.2, 0.2), (slice(27, 73), slice(77, 123))),  # 40 × 20 pixels around (100, 50), side 46
        (Box(0, 0, 0.1, 0.1), (slice(0, 23), slice(0, 23))),
        (Box(0.9, 0.9, 0.1, 0.1), (slice(77, 100), slice(177, 200))),
        (Box(0, 0, 1, 1), (slice(0, 100), slice(0, 200))),
        (Box(0.5, 0.5, 1e-9, 1e-9), (slice(50, 51), slice(100, 101))),
    ],
)
def test_crops_are_squares_inside_of_the_image(box, expected):
    image = np.arange(100 * 200 * 3).reshape(100, 200, 3)
    np.testing.assert_array_equal(square_crop(image, box), image[expected])


def test_large_jpegs_are_decoded_at_a_reduced_size_that_is_large_enough(model, station, monkeypatch):
    Image.open(station / "a/1.png").resize((1600, 1200)).save(station / "large.jpg")
    sizes = []
    monkeypatch.setattr(
        "animals_pl.deploy.box_worker.square_crop",
        lambda image, box: sizes.append(image.shape[:2]) or square_crop(image, box),
    )
    for side in (1.0, 0.25, 0.05):
        run(model, write(station, document({"file": "large.jpg", "detections": [animal([0, 0, side, side])]})))
    # the net sees 32 pixels: a crop needs at least 64
    assert sizes == [(150, 200), (300, 400), (1200, 1600)]


def test_boxes_are_clipped_and_those_outside_are_counted(model, station, capsys):
    boxes = [[-0.2, -0.1, 0.7, 0.6], [0.9, 0.9, 5, 5], [1.0, 0, 0.5, 0.5], [0.2, 0.2, 0, 0.5], [0.5, 0.5, -0.1, 0.1]]
    given = document({"file": "a/1.png", "detections": list(map(animal, boxes))})
    found = run(model, write(station, given))
    detections = found["images"][0]["detections"]
    assert ["classifications" in one for one in detections] == [True, True, False, False, False]
    assert [one["bbox"] for one in detections] == boxes
    assert "2 boxes in 1 image (3 boxes without a result) in" in capsys.readouterr().out
    clipped = run(model, write(station, document({"file": "a/1.png", "detections": [animal([0, 0, 0.5, 0.5])]})))
    assert clipped["images"][0]["detections"][0]["classifications"] == detections[0]["classifications"]


def test_options_of_boxes(model, station):
    file = write(station, document({"file": "a/1.png", "detections": [animal(conf=0.3), animal(conf=0.05)]}))

    def numbers(*args: object) -> list[int]:
        return [len(one.get("classifications", [])) for one in run(model, file, *args)["images"][0]["detections"]]

    assert numbers("--min_confidence", 0.31) == [0, 0]
    assert numbers("--min_confidence", 0, "--top_k", 99) == [10, 10]
    assert numbers("--threshold", 1) == [0, 0]


def test_classifications_of_another_classifier_are_replaced(model, station):
    old = {"classifications": [["7", 0.9]]}
    given = document(
        {"file": "a/1.png", "detections": [animal(**old), animal(conf=0.1, **old)]},
        classification_categories={"7": "moose"},
        classification_category_descriptions={"7": "animalia;…"},
    )
    given["info"] = INFO | {"classifier": "other", "classifier_metadata": {"threshold": 0.8}}
    found = run(model, write(station, given))
    require_valid(found)
    assert "moose" not in found["classification_categories"].values()
    assert "classification_category_descriptions" not in found and "classifier_metadata" not in found["info"]
    first, second = found["images"][0]["detections"]
    assert len(first["classifications"]) == 3 and "classifications" not in second


def test_images_that_cannot_be_classified_keep_their_detections(model, station, capsys):
    (station / "broken.jpg").write_text("not an image")
    shutil.copy(station / "a/1.png", station.parent / "outside.png")
    names = ["broken.jpg", "missing.jpg", "../outside.png", str(station.parent / "outside.png"), "a/../../outside.png"]
    names += ["..\\outside.png", "nul\0.png", "a", "a\\1.png", str(station / "a/1.png"), "b/../a/1.png"]
    given = document(*({"file": name, "detections": [animal()]} for name in names))
    found = run(model, write(station, given))
    done = ["classifications" in image["detections"][0] for image in found["images"]]
    assert done == [False] * 8 + [True] * 3
    for image in found["images"]:
        image["detections"][0].pop("classifications", None)
    assert found["images"] == given["images"]
    printed = capsys.readouterr()
    assert "3 boxes in 11 images (8 boxes without a result, 8 images with a problem) in" in printed.out
    assert "warning: 4 images: path outside the image folder\n" in printed.err
    assert "warning: 1 image: not an image in a supported format\n" in printed.err


def test_the_folder_of_the_images_may_be_given(model, station, tmp_path):
    file = write(tmp_path, document({"file": "1.png", "detections": [animal()]}))
    assert "classifications" not in run(model, file)["images"][0]["detections"][0]
    assert "classifications" in run(model, file, station / "a")["images"][0]["detections"][0]


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("a.jpg", "/root/a.jpg"),
        ("b/../a.jpg", "/root/a.jpg"),
        ("/root/a.jpg", "/root/a.jpg"),
        ("b\\a.jpg", "/root/b/a.jpg"),
        ("../a.jpg", None),
        ("/roots/a.jpg", None),
        ("b\\..\\..\\a.jpg", None),
        (".", None),
        ("", None),
    ],
)
def test_paths_stay_below_the_folder(file, expected):
    assert path_below(Path("/root"), file) == (expected and Path(expected))


# ---------------------------------------------------------------- malformed files


def damaged(change) -> dict:
    content = document({"file": "a/1.png", "detections": [animal()]})
    change(content)
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "it is not a JSON object"),
        ("[]", "it is not a JSON object"),
        ("{}", "info.format_version is None"),
        ('{"info": ', "it ends too early"),
        ('{"info" 1}', "it is not JSON ('1' instead of ':')"),
        ('{"a": 1, "a": 2}', "the key 'a' twice"),
        ('{"images": [{"file": "a"}', "it ends too early"),
        ('{"images": [{"file": NaN}]}', "the number NaN"),
        ('{"images": [], "own": 1e999}', "the number 1e999"),
        ('{"images": [], "own": ' + "[" * 100_000 + "]" * 100_000 + "}", "nested too deeply"),
        (json.dumps(document()) + "x", "text after the JSON object"),
        (damaged(lambda d: d.pop("info")), "info.format_version is None"),
        (damaged(lambda d: d.update(info={"format_version": "2.0"})), "info.format_version is '2.0'"),
        (damaged(lambda d: d.update(info={"format_version": 1.3})), "info.format_version is 1.3"),
        (damaged(lambda d: d.pop("images")), "lacks images"),
        (damaged(lambda d: d.update(images={})), "lacks images"),
        (damaged(lambda d: d.pop("detection_categories")), "lacks detection_categories"),
        (damaged(lambda d: d.update(detection_categories=[])), "lacks detection_categories"),
        (damaged(lambda d: d.update(detection_categories={"1": "wildlife"})), "is named 'animal'"),
        (damaged(lambda d: d["images"].append(1)), "images[1] is not an object"),
        (damaged(lambda d: d["images"][0].pop("file")), "images[0] lacks file"),
        (damaged(lambda d: d["images"][0].update(file=["x"])), "images[0] (['x']) lacks file"),
        (damaged(lambda d: d["images"][0].update(detections={})), "has detections that are not a list"),
        (damaged(lambda d: d["images"][0]["detections"].append(0)), "detections[1] lacks category"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(category=1)), "detections[0] lacks category"),
        (damaged(lambda d: d["images"][0]["detections"][0].pop("conf")), "detections[0] lacks conf"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(conf="0.9")), "detections[0] lacks conf"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(conf=True)), "detections[0] lacks conf"),
        (damaged(lambda d: d["images"][0]["detections"][0].pop("bbox")), "detections[0] lacks bbox"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(bbox=[0, 0, 1])), "detections[0] lacks bbox"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(bbox=[0, 0, 1, "1"])), "detections[0] lacks bbox"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(bbox=[0, 0, 1, 10**400])), "lacks bbox"),
        (damaged(lambda d: d["images"][0]["detections"][0].update(bbox=[float("nan")] * 4)), "the number NaN"),
    ],
)
def test_a_malformed_file_is_one_line(model, station, capsys, content, message):
    line = refused(capsys, model, "--detections", write(station, content), "--output", station / "out.json")
    assert message in line and "detections=" in line
    assert sorted(path.name for path in station.iterdir()) == ["a", "md.json", "ü b.png"]


def test_a_file_that_is_not_utf8(model, station, capsys):
    file = station / "md.json"
    file.write_bytes(b'{"info": "\xe4"}')
    assert "it is not UTF-8" in refused(capsys, model, "--detections", file, "--output", station / "out.json")


def test_mutated_files_end_in_one_line_or_a_result(station):
    whole = json.dumps(document({"file": "a/1.png", "detections": [animal()]})).encode()
    rng = random.Random(0)
    fine = 0
    for _ in range(1000):
        content = bytearray(whole)
        for _ in range(rng.choice([1, 1, 3, 10])):
            place = rng.randrange(len(content))
            content[place : place + rng.randrange(3)] = rng.choice(
                [b"", b'"', b"{", b"]", b",", b"9", b"\xff", b"null"]
            )
        (station / "md.json").write_bytes(content)
        try:
            check(station / "md.json")
            fine += 1
        except UsageError as error:
            assert "\n" not in str(error)
    assert 0 < fine < 1000


def test_wrong_use_is_one_line(model, station, tmp_path, capsys):
    file = write(station, document({"file": "a/1.png", "detections": [animal()]}))
    out = ["--output", tmp_path / "out.json"]
    boxes = [model, "--detections", file]
    assert "is not a file" in refused(capsys, model, "--detections", station, *out)
    assert "is not a file" in refused(capsys, model, "--detections", "nowhere.json", *out)
    assert "does not end in .json" in refused(capsys, *boxes, "--output", tmp_path / "out.csv")
    assert "exists. Choose another output" in refused(capsys, *boxes, "--output", file)
    assert "resume does not apply" in refused(capsys, *boxes, *out, "--resume")
    assert "copy does not apply" in refused(capsys, *boxes, *out, "--copy", tmp_path / "copy")
    assert "at most one folder" in refused(capsys, *boxes, station / "a/1.png", *out)
    assert "at most one folder" in refused(capsys, *boxes, station, station, *out)
    assert "min_confidence=1.5 is out of range" in refused(capsys, *boxes, *out, "--min_confidence", 1.5)
    assert "only applies to detections" in refused(capsys, model, station, *out, "--min_confidence", 0.5)
    assert not (tmp_path / "out.json").exists()


# ---------------------------------------------------------------- large files


def test_files_are_read_as_json_reads_them(tmp_path, monkeypatch):
    rng = random.Random(0)

    def value(depth: int) -> object:
        if depth == 0 or rng.random() < 0.4:
            scalars = [rng.randrange(-(10**6), 10**6), rng.uniform(-1, 1) * 10.0 ** rng.randrange(-30, 30), None, True]
            return rng.choice([*scalars, "", 'ü\n"]},\\', "\ud800"])
        if rng.random() < 0.5:
            return [value(depth - 1) for _ in range(rng.randrange(4))]
        return {f"{key} ": value(depth - 1) for key in range(rng.randrange(4))}

    file = tmp_path / "a.json"
    for number in range(300):
        content = {"a": value(2), "images": [value(3) for _ in range(rng.randrange(5))], "z": value(1)}
        file.write_text(json.dumps(content, indent=rng.choice([None, 1])), encoding=rng.choice(["utf-8", "utf-8-sig"]))
        monkeypatch.setattr(json_stream, "BLOCK", 1 + number % 20)
        found = {key: list(one) if key == "images" else one for key, one in read_members(file, "images")}
        assert found == content
        assert [type(one) for one in found["images"]] == [type(one) for one in content["images"]]
        written = io.StringIO()
        write_members(written, found.items(), "images")
        assert list(json.loads(written.getvalue()).items()) == list(content.items())


def test_the_memory_does_not_grow_with_the_file(tmp_path):
    image = json.dumps({"file": "x" * 50 + ".jpg", "detections": [animal() for _ in range(5)]}, indent=1)
    file = tmp_path / "md.json"
    count = 40_000
    head = json.dumps({"info": INFO, "detection_categories": {"1": "animal"}})[:-1]
    with file.open("w") as stream:
        stream.write(head + ', "images": [' + image)
        stream.writelines(",\n" + image for _ in range(count - 1))
        stream.write("]}")
    assert file.stat().st_size > 15e6
    tracemalloc.start()
    try:
        assert check(file).images == count
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * json_stream.BLOCK


def test_a_value_without_an_end_is_not_read_to_the_end_of_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(json_stream, "MOST_CHARACTERS", 1000)
    monkeypatch.setattr(json_stream, "BLOCK", 100)
    file = tmp_path / "a.json"
    file.write_text('{"images": ["' + "x" * 10_000)
    with pytest.raises(ValueError, match="more than 1,000 characters"):
        list(read_members(file, "images"))


# ---------------------------------------------------------------- whole images


def test_whole_images_have_one_box_and_failures_have_none(model, station):
    (station / "broken.jpg").write_text("not an image")
    out = station.parent / "out.json"
    assert classify(model, station, "--format", "megadetector", "--output", out, "--top_k", 2) == 0
    found = json.loads(out.read_text(encoding="ascii"))
    require_valid(found)
    assert [image["file"] for image in found["images"]] == ["broken.jpg", "ü b.png", "a/1.png", "a/2.png"]
    broken, *good = found["images"]
    assert broken == {
        "file": "broken.jpg",
        "failure": "not an image in a supported format",
        "detections": None,
    }
    identifier = Identifier(model)
    for image in good:
        (box,) = image["detections"]
        (expected,) = identifier.predict(station / image["file"])
        assert (box["category"], box["conf"], box["bbox"]) == ("1", 1.0, [0.0, 0.0, 1.0, 1.0])
        category, confidence = box["classifications"][0]
        assert identifier.class_names[int(category)] == expected.label and len(box["classifications"]) == 2
        assert confidence == pytest.approx(expected.probability, abs=1e-5)
    assert [path.name for path in sorted(station.parent.iterdir())] == ["out.json", "station"]


def test_whole_images_below_the_threshold_have_a_box_without_a_class(model, station):
    out = station.parent / "out.json"
    assert classify(model, station, "--format", "megadetector", "--output", out, "--threshold", 1) == 0
    found = json.loads(out.read_text())
    require_valid(found)
    certain = [Identifier(model).predict(station / image["file"])[0].probability == 1 for image in found["images"]]
    assert not all(certain)
    assert ["classifications" in image["detections"][0] for image in found["images"]] == certain


def test_paths_are_as_given_unless_a_single_folder_is_given(model, station, monkeypatch):
    monkeypatch.chdir(station)
    assert classify(model, "a/1.png", "a", "--format", "megadetector", "--output", "out.json") == 0
    assert [image["file"] for image in json.loads(Path("out.json").read_text())["images"]] == ["a/1.png", "a/2.png"]


def test_an_interrupted_file_of_whole_images_is_continued(model, station, capsys, monkeypatch):
    out = station.parent / "out.json"
    command = [model, station, "--format", "megadetector", "--output", out]
    with monkeypatch.context() as patch:
        patch.setattr(output_formats, "write_whole_images", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt()))
        assert classify(*command) == 130
    assert not out.exists()
    capsys.readouterr()
    assert "left over from an interrupted command. Pass --resume" in refused(capsys, *command)
    monkeypatch.setattr(image_worker, "read_file", None)
    assert classify(*command, "--resume") == 0
    assert len(json.loads(out.read_text())["images"]) == 3
    assert [path.name for path in sorted(station.parent.iterdir())] == ["out.json", "station"]
    assert "exists. Choose another output" in refused(capsys, *command, "--resume")


def test_standard_output(model, station):
    file = write(station, document({"file": "a/1.png", "detections": [animal()]}))
    for args in (["--detections", file], [station, "--format", "megadetector"]):
        command = [sys.executable, "-m", "animals_pl", "classify", model, *args, "--output", "/dev/stdout"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        require_valid(json.loads(done.stdout))
        assert "out" in done.stderr
