"""Identify with an exported file: agreement with predict, kinds of images, golden images, hostile files."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from animals_pl import AnimalClassifier, AnimalsDataModule, Identifier, Prediction, fit, load_model
from animals_pl.data.decode import decode
from animals_pl.deploy import engines
from animals_pl.deploy.export import export
from animals_pl.deploy.metadata import digest, read_texts
from animals_pl.deploy.onnx_file import TOLERANCES, seal
from animals_pl.errors import UsageError

SIZE = 32


@pytest.fixture(scope="module")
def checkpoint(tiny_tree, tmp_path_factory) -> Path:
    """The best checkpoint of a run with a center crop."""
    data = AnimalsDataModule(str(tiny_tree), size=SIZE, resize="crop", crop_pct=0.8, num_workers=0)
    root = str(tmp_path_factory.mktemp("runs"))
    run = fit(AnimalClassifier("shallownet", lr=0.002), data, max_epochs=6, default_root_dir=root, accelerator="cpu")
    return run.best_path


@pytest.fixture(scope="module")
def files(checkpoint) -> dict[str, Path]:
    """Kind of input → exported file. Read only."""
    folder = checkpoint.parents[2] / "exported"
    return {kind: export(checkpoint, folder / f"{kind}.onnx", input=kind).path for kind in ("batch", "image")}


@pytest.fixture(scope="module")
def images(tiny_tree, tmp_path_factory) -> list[Path]:
    """Images of every kind: plain, rotated, grey of 16 bits, transparent, large, truncated, broken, empty."""
    folder = tmp_path_factory.mktemp("images")
    pixels = decode(sorted(tiny_tree.rglob("*.jpg"))[0])
    picture = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture.save(folder / "rotated.jpg", exif=exif, quality=95)
    Image.fromarray(pixels[..., 0].astype(np.uint16) * 257).save(folder / "grey.png")
    Image.fromarray(np.dstack([pixels, pixels[..., 1]])).save(folder / "transparent.png")
    picture.resize((900, 600)).save(folder / "large.jpg")
    whole = (folder / "large.jpg").read_bytes()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "broken.jpg").write_text("not an image")
    (folder / "empty.jpg").touch()
    return [*sorted(tiny_tree.rglob("*.jpg"))[::8], *sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def predicted(checkpoint, images) -> list[Prediction]:
    return load_model(checkpoint).predict(images, num_workers=0, top_k=10)


# ---------------------------------------------------------------- agreement


@pytest.mark.parametrize("kind", ["batch", "image"])
def test_predictions_equal_those_of_the_checkpoint(files, images, predicted, kind):
    found = Identifier(files[kind]).predict(images, top_k=10)
    assert [(one.path, one.label, one.problem) for one in found] == [
        (one.path, one.label, one.problem) for one in predicted
    ]
    for one, expected in zip(found, predicted, strict=True):
        assert dict(one.top) == pytest.approx(dict(expected.top), abs=1e-4 if kind == "batch" else 5e-3)
    assert len({one.label for one in found}) > 2  # None, and more than one class


def test_truncated_and_broken_images_have_a_problem(files, images):
    found = {Path(one.path).name: one for one in Identifier(files["batch"]).predict(images)}
    assert found["truncated.jpg"].label is not None and "truncated" in found["truncated.jpg"].problem
    assert (found["broken.jpg"].label, found["empty.jpg"].problem) == (None, "empty file (0 bytes)")


def test_paths_contents_arrays_and_pictures_give_the_same(files, tiny_tree):
    file = sorted(tiny_tree.rglob("*.jpg"))[3]  # smaller than twice the size: not decoded at a reduced size
    with Image.open(file) as picture:
        given = [file, str(file), file.read_bytes(), decode(file), picture]
        found = Identifier(files["batch"]).predict(given, top_k=10)
    assert [one.path for one in found] == [str(file), str(file), "", "", ""]
    assert len({tuple(one.top) for one in found}) == 1


def test_a_pillow_image_is_turned_as_its_exif_says(files, images):
    file = next(path for path in images if path.name == "rotated.jpg")
    identifier = Identifier(files["batch"])
    with Image.open(file) as picture:
        assert identifier.predict(picture)[0].top == identifier.predict(file)[0].top


def test_folders_are_searched_and_several_batches_are_in_order(files, tiny_tree):
    identifier = Identifier(files["batch"])
    folder = tiny_tree / "gatto"
    paths = sorted(folder.iterdir())
    assert [one.path for one in identifier.predict(folder, batch_size=2)] == list(map(str, paths))
    assert identifier.predict([]) == []


def test_probabilities_of_arrays(files, tiny_tree):
    identifier = Identifier(files["batch"])
    stack = np.stack([np.full((40, 50, 3), level, np.uint8) for level in (0, 128, 255)])
    found = identifier.probabilities(stack)
    assert (found.shape, found.dtype) == ((3, 10), np.float32)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    np.testing.assert_allclose(found[1], identifier.probabilities(stack[1])[0], atol=1e-6)


def test_a_very_long_image_is_cropped_without_resizing_all_of_it(files):
    image = np.zeros((2, 200_000, 3), np.uint8)
    image[:, 100_000 - 10 : 100_000 + 10] = 255
    found = [Identifier(files[kind]).probabilities(image) for kind in ("batch", "image")]
    np.testing.assert_allclose(found[0], found[1], atol=TOLERANCES["image"])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3), np.float32), "float32 array of shape (4, 4, 3)"),
        (np.zeros((4, 4), np.uint8), "uint8 array of shape (4, 4)"),
        (np.zeros((4, 0, 3), np.uint8), "shape (4, 0, 3)"),
        (np.zeros((2, 4, 4, 4), np.uint8), "shape (4, 4, 4)"),
        (7, "images contains a int"),
        ([None], "images contains a NoneType"),
    ],
)
def test_other_types_of_images_are_refused(files, image, message):
    with pytest.raises(UsageError) as caught:
        Identifier(files["batch"], self_check=False).predict(image)
    assert message in str(caught.value)


def test_unknown_scores_and_labels_equal_those_of_the_checkpoint(checkpoint, files, images):
    expected = load_model(checkpoint).predict(images, num_workers=0, unknown=True)
    found = Identifier(files["batch"]).predict(images, unknown=True)
    assert [one.label for one in found] == [one.label for one in expected]
    scores = [[one.unknown_score for one in each if one.label is not None] for each in (found, expected)]
    np.testing.assert_allclose(*scores, rtol=1e-4, atol=1e-4)


def test_images_with_a_score_above_the_threshold_are_unknown(files, images, tmp_path):
    scores = [one.unknown_score for one in Identifier(files["batch"]).predict(images) if one.label is not None]
    threshold = float(np.mean(sorted(scores)[3:5]))
    (tmp_path / "strict.onnx").write_bytes(resealed(proto_of(files["batch"]), unknown_threshold=threshold))
    identifier = Identifier(tmp_path / "strict.onnx")
    found = [one for one in identifier.predict(images, unknown=True) if one.label is not None]
    assert [one.label == "unknown" for one in found] == [score > threshold for score in scores]
    assert {one.probability for one in found if one.label == "unknown"} == {0.0}
    assert "unknown" not in {one.label for one in identifier.predict(images)}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unknown_threshold": None}, "no threshold for unknown images"),
        ({"class_names": ["Unknown", *"abcdefghi"]}, "has a class 'Unknown'"),
    ],
)
def test_unknown_needs_a_threshold_and_no_class_of_this_name(files, tmp_path, changes, message):
    (tmp_path / "changed.onnx").write_bytes(resealed(proto_of(files["batch"]), **changes))
    identifier = Identifier(tmp_path / "changed.onnx")
    with pytest.raises(UsageError, match=message):
        identifier.predict([], unknown=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"providers": ["CUDAExecutionProvider"]}, "onnxruntime has .*CPUExecutionProvider"),
        ({"providers": "CPUExecutionProvider"}, r"Pass providers=\['CPUExecutionProvider'\]"),
        ({"threads": 0}, "threads=0 is out of range"),
    ],
)
def test_providers_and_threads_are_checked(files, monkeypatch, arguments, message):
    monkeypatch.setattr(engines.onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(UsageError, match=message):
        Identifier(files["batch"], **arguments)


def test_threads_are_used(files):
    identifier = Identifier(files["batch"], threads=2)
    assert identifier._engine.session.get_session_options().intra_op_num_threads == 2


HEAVY = ("torch", "lightning", "timm", "pandas", "scipy", "sklearn", "matplotlib", "albumentations", "cv2", "onnx")


def test_predicts_where_only_numpy_pillow_and_onnxruntime_can_be_imported(files, tiny_tree):
    code = f"""
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {HEAVY}:
            raise ImportError(name)
sys.meta_path.insert(0, Refuse())
from animals_pl import Identifier, Prediction
print(*[p.label for p in Identifier({str(files["image"])!r}).predict({str(tiny_tree / "gatto")!r})])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 5


# ---------------------------------------------------------------- files that are refused


def proto_of(file: Path) -> onnx.ModelProto:
    return onnx.load_from_string(file.read_bytes())


def resealed(proto: onnx.ModelProto, **changes: object) -> bytes:
    """The file with changed metadata (None: without the key) and a right digest."""
    texts = {entry.key: entry.value for entry in proto.metadata_props if entry.key != "sha256"}
    texts |= {key: value if isinstance(value, str) else json.dumps(value) for key, value in changes.items()}
    del proto.metadata_props[:]
    for key, value in texts.items():
        if changes.get(key, "") is not None:
            proto.metadata_props.add(key=key, value=value)
    proto.metadata_props.add(key="sha256", value=digest(proto.SerializeToString()))
    return proto.SerializeToString()


def with_other_weights(proto: onnx.ModelProto) -> onnx.ModelProto:
    weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    values = np.frombuffer(weights.raw_data, np.float32)
    weights.raw_data = (-values).tobytes()
    return proto


def golden(proto: onnx.ModelProto, **changes: object) -> bytes:
    """The file with a changed first golden image."""
    texts = read_texts(proto.SerializeToString())
    images = json.loads(texts["golden_images"])
    images[0] |= changes
    return resealed(proto, golden_images=images)


def without_opset(proto: onnx.ModelProto) -> bytes:
    del proto.opset_import[:]
    return resealed(proto)


def with_external_data(proto: onnx.ModelProto) -> bytes:
    onnx.external_data_helper.convert_model_to_external_data(proto, location="w.data", size_threshold=0)
    for tensor in proto.graph.initializer:
        if tensor.HasField("data_location"):
            tensor.ClearField("raw_data")
    return resealed(proto)


def without_metadata(proto: onnx.ModelProto) -> bytes:
    del proto.metadata_props[:]
    return proto.SerializeToString()


def renamed_input(proto: onnx.ModelProto) -> bytes:
    proto.graph.input[0].name = "pixels"
    for node in proto.graph.node:
        node.input[:] = ["pixels" if name == "images" else name for name in node.input]
    return resealed(proto)


def jpeg() -> str:
    stream = io.BytesIO()
    Image.new("RGB", (400, 300), "red").save(stream, "JPEG")
    return base64.b64encode(stream.getvalue()).decode()


HOSTILE: dict[str, tuple[Callable[[onnx.ModelProto], bytes], str]] = {
    "no metadata": (without_metadata, "it has no metadata of animals_pl"),
    "a key is missing": (lambda proto: resealed(proto, golden_tolerance=None), "lacks golden_tolerance"),
    "external data": (with_external_data, "external data"),
    "no opset": (without_opset, "onnxruntime cannot load it"),
    "truncated": (lambda proto: proto.SerializeToString()[:-100], "incomplete"),
    "empty": (lambda proto: b"", "no metadata"),
    "text": (lambda proto: b"text", "not an ONNX file"),
    "altered weights": (lambda proto: with_other_weights(proto).SerializeToString(), "altered after the export"),
    "altered names": (
        lambda proto: proto.SerializeToString().replace(b'"cane", "cavallo"', b'"cavallo", "cane"'),
        "altered after the export",
    ),
    "altered and sealed": (lambda proto: resealed(with_other_weights(proto)), "other probabilities for golden image"),
    "not JSON": (lambda proto: resealed(proto, class_names="[cat"), "class_names in its metadata is not JSON"),
    "deep JSON": (lambda proto: resealed(proto, class_names="[" * 10**6), "class_names in its metadata is not JSON"),
    "names are numbers": (lambda proto: resealed(proto, class_names=[1, 2]), "class_names=[1, 2] is invalid"),
    "a name is missing": (lambda proto: resealed(proto, english_names=["cat"]), "differ in length"),
    "no names": (lambda proto: resealed(proto, class_names=[], english_names=[]), "number of classes=0"),
    "wrong number of names": (lambda proto: resealed(proto, class_names=["a"], english_names=["a"]), "is damaged"),
    "size is text": (lambda proto: resealed(proto, input_size='"32"'), "input_size='32' is invalid"),
    "size is huge": (lambda proto: resealed(proto, input_size=10**9), "input_size=1000000000 is out of range"),
    "size is another": (lambda proto: resealed(proto, input_size=SIZE + 1), "its graph fails"),
    "crop is zero": (lambda proto: resealed(proto, crop_pct=0), "crop_pct=0"),
    "unknown rule": (lambda proto: resealed(proto, resize="squash"), "resize='squash' is invalid"),
    "unknown input": (lambda proto: resealed(proto, input="video"), "input='video' is invalid"),
    "other input": (lambda proto: resealed(proto, input="image"), "it has the inputs images"),
    "renamed input": (renamed_input, "it has the inputs pixels"),
    "oversized": (lambda proto: resealed(proto, metrics=" " * 2**25), "33,554,446 bytes (allowed: 16,777,216)"),
    "no golden images": (lambda proto: resealed(proto, golden_images=[]), "number of golden images=0"),
    "many golden images": (lambda proto: resealed(proto, golden_images=[{}] * 65), "number of golden images=65"),
    "golden is text": (lambda proto: resealed(proto, golden_images=["a"]), "golden_images"),
    "golden is empty": (lambda proto: resealed(proto, golden_images=[{}]), "golden image 1 is damaged"),
    "golden is not base64": (lambda proto: golden(proto, jpeg="ä"), "golden image 1 is damaged"),
    "golden is not an image": (lambda proto: golden(proto, jpeg="AAAA"), "golden image 1 is damaged"),
    "golden is a number": (lambda proto: golden(proto, jpeg=5), "golden image 1 is damaged"),
    "golden is another image": (lambda proto: golden(proto, jpeg=jpeg()), "other probabilities for golden image 1"),
    "golden has no numbers": (lambda proto: golden(proto, probabilities="x"), "golden image 1 is damaged"),
    "golden has too few": (lambda proto: golden(proto, probabilities=[1.0]), "golden image 1 is damaged"),
    "golden has NaN": (lambda proto: golden(proto, probabilities=[float("nan")] * 10), "other probabilities"),
    "tolerance is large": (lambda proto: resealed(proto, golden_tolerance=0.5), "golden_tolerance=0.5 is out of range"),
    "tolerance is NaN": (lambda proto: resealed(proto, golden_tolerance=float("nan")), "golden_tolerance=nan"),
    "tolerance is text": (lambda proto: resealed(proto, golden_tolerance='"x"'), "golden_tolerance='x' is invalid"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_in_one_line(files, tmp_path, name):
    change, message = HOSTILE[name]
    file = tmp_path / "hostile.onnx"
    file.write_bytes(change(proto_of(files["batch"])))
    with pytest.raises(UsageError) as caught:
        Identifier(file)
    assert message in str(caught.value)
    assert str(file) in str(caught.value) and "animals_pl export" in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 800


@pytest.mark.parametrize("kind", ["missing", "folder"])
def test_a_file_that_cannot_be_read_is_refused(tmp_path, kind):
    file = tmp_path if kind == "folder" else tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="it cannot be read"):
        Identifier(file)


def test_every_changed_byte_is_noticed(files, tmp_path):
    content = files["batch"].read_bytes()
    rng = np.random.default_rng(0)
    for position in rng.integers(0, len(content), 200):
        changed = bytearray(content)
        changed[position] ^= 1 << rng.integers(8)
        (tmp_path / "changed.onnx").write_bytes(changed)
        with pytest.raises(UsageError):
            Identifier(tmp_path / "changed.onnx", self_check=False)


def test_the_same_file_sealed_again_is_accepted(files, tmp_path):
    (tmp_path / "again.onnx").write_bytes(resealed(proto_of(files["image"])))
    assert Identifier(tmp_path / "again.onnx").class_names == Identifier(files["image"]).class_names


def test_seal_gives_the_digest_of_the_rest(files):
    proto = proto_of(files["batch"])
    texts = {entry.key: entry.value for entry in proto.metadata_props if entry.key != "sha256"}
    assert seal(proto, texts) == files["batch"].read_bytes()
    assert read_texts(files["batch"].read_bytes())["sha256"] == digest(files["batch"].read_bytes())


def test_texts_equal_what_onnxruntime_reads(files):
    identifier = Identifier(files["batch"], self_check=False)
    expected = identifier._engine.session.get_modelmeta().custom_metadata_map
    assert read_texts(files["batch"].read_bytes()) == expected
