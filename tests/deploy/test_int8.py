"""Weight-only int8: the quantiser, the comparison with float32, and the exported file."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torchmetrics.functional.classification import multiclass_calibration_error

import animals_pl
from animals_pl import Identifier, TrainedModel
from animals_pl.cli import main
from animals_pl.data.catalog import scan_folder
from animals_pl.data.decode import decode
from animals_pl.data.walk import find_images
from animals_pl.deploy import engines, onnx_file
from animals_pl.deploy import export as export_file
from animals_pl.deploy.int8 import quantise, quantise_weights
from animals_pl.deploy.int8_comparison import Int8Comparison, LoadedFile, Measured, compare
from animals_pl.deploy.metadata import GoldenImage, read_texts
from animals_pl.errors import UsageError


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


# ---------------------------------------------------------------- the quantiser


@pytest.mark.parametrize(("shape", "axis"), [((40, 7, 3, 3), 0), ((30, 50), 0), ((30, 50), 1), ((2, 30, 50), -1)])
@pytest.mark.parametrize("seed", range(5))
def test_no_weight_changes_by_more_than_half_a_scale(shape, axis, seed):
    random = np.random.default_rng(seed)
    magnitudes = 10 ** random.uniform(-30, 30, shape[axis])
    weights = np.moveaxis(random.standard_t(2, shape), axis, -1) * magnitudes
    weights = np.moveaxis(weights, -1, axis).astype(np.float32)
    weights[random.random(shape) < 0.1] = 0
    values, scales = quantise(weights, axis)
    assert (values.shape, values.dtype, scales.shape, scales.dtype) == (shape, np.int8, (shape[axis],), np.float32)
    by_channel = np.moveaxis(values.astype(float), axis, -1) * scales
    error = np.abs(by_channel - np.moveaxis(weights.astype(float), axis, -1))
    assert (error <= (0.5 + 1e-9) * scales).all()
    assert not values[weights == 0].any()
    others = tuple(index for index in range(len(shape)) if index != axis % len(shape))
    assert (np.abs(values.astype(int)).max(others) == 127).all()


def test_values_are_those_of_torch():
    weights = np.random.default_rng(0).normal(size=(64, 32, 3, 3)).astype(np.float32)
    values, scales = quantise(weights, 0)
    zeros = torch.zeros(64, dtype=torch.long)
    expected = torch.quantize_per_channel(torch.from_numpy(weights), torch.from_numpy(scales), zeros, 0, torch.qint8)
    np.testing.assert_array_equal(values, expected.int_repr().numpy())


def test_channels_of_zeros_and_of_tiny_weights():
    weights = np.array([[0.0, 0.0], [1e-44, -1e-40], [-3e38, 1e38]], np.float32)
    values, scales = quantise(weights, 0)
    assert values.tolist() == [[0, 0], [0, 0], [-127, 42]]
    assert np.isfinite(scales).all() and (scales > 0).all()


RANDOM = np.random.default_rng(0)
WEIGHTS = {
    "conv": (24, 3, 5, 5),
    "gemm": (24, 50),
    "gemm_transposed": (60, 50),
    "matmul": (60, 70),
    "added": (70, 70),
    "small": (70, 4),
}


@pytest.fixture
def model() -> onnx.ModelProto:
    """A graph with every kind of weight: convolution (shared by two nodes), Gemm, MatMul, small, and used by Add."""
    weights = {name: RANDOM.normal(size=shape).astype(np.float32) for name, shape in WEIGHTS.items()}
    nodes = [
        helper.make_node("Conv", ["image", "conv", "bias"], ["maps"]),
        helper.make_node("Conv", ["mirrored", "conv", "bias"], ["other_maps"]),
        helper.make_node("Add", ["maps", "other_maps"], ["sum"]),
        helper.make_node("GlobalAveragePool", ["sum"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["features"]),
        helper.make_node("Gemm", ["features", "gemm"], ["a"]),
        helper.make_node("Gemm", ["a", "gemm_transposed"], ["b"], transB=1),
        helper.make_node("MatMul", ["b", "matmul"], ["c"]),
        helper.make_node("MatMul", ["c", "added"], ["d"]),
        helper.make_node("Add", ["d", "added"], ["e"]),
        helper.make_node("MatMul", ["e", "small"], ["f"]),
    ]
    image = (TensorProto.FLOAT, [1, 3, 9, 9])
    inputs = [helper.make_tensor_value_info(name, *image) for name in ("image", "mirrored")]
    outputs = [helper.make_tensor_value_info("f", TensorProto.FLOAT, [70, 4])]
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    tensors.append(numpy_helper.from_array(RANDOM.normal(size=24).astype(np.float32), "bias"))
    graph = helper.make_graph(nodes, "net", inputs, outputs, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def dequantised(quantised: onnx.ModelProto) -> dict[str, np.ndarray]:
    """The float32 weights that a graph's DequantizeLinear nodes stand for, by ONNX's reference implementation."""
    nodes = [node for node in quantised.graph.node if node.op_type == "DequantizeLinear"]
    outputs = [helper.make_tensor_value_info(node.output[0], TensorProto.FLOAT, None) for node in nodes]
    graph = helper.make_graph(nodes, "weights", [], outputs, quantised.graph.initializer)
    found = ReferenceEvaluator(helper.make_model(graph, opset_imports=quantised.opset_import)).run(None, {})
    return dict(zip((output.name for output in outputs), found, strict=True))


def outputs_of(model: onnx.ModelProto) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry(*engines.FLOAT_ARITHMETIC)
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=[engines.CPU])
    image = np.random.default_rng(1).normal(size=(1, 3, 9, 9)).astype(np.float32)
    return session.run(None, {"image": image, "mirrored": image[..., ::-1]})[0]


def test_large_weights_of_convolutions_and_linear_layers_become_int8(model):
    before = model.SerializeToString()
    quantised = quantise_weights(model)
    assert model.SerializeToString() == before
    onnx.checker.check_model(quantised, full_check=True)
    types = {tensor.name: tensor.data_type for tensor in quantised.graph.initializer}
    expected = {"conv", "gemm", "gemm_transposed", "matmul"}
    assert {name.removesuffix("_int8") for name, kind in types.items() if kind == TensorProto.INT8} == expected
    assert {"added", "small", "bias"} <= types.keys() and not expected & types.keys()
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    channels = {"conv": 0, "gemm": 1, "gemm_transposed": 0, "matmul": 1}
    for name, found in dequantised(quantised).items():
        others = tuple(axis for axis in range(found.ndim) if axis != channels[name])
        largest = np.abs(weights[name]).max(others, keepdims=True)
        assert (np.abs(found - weights[name]) <= 1.00001 * largest / 254).all(), name


def test_outputs_are_those_of_the_dequantised_weights(model):
    quantised = quantise_weights(model)
    float32 = onnx.ModelProto()
    float32.CopyFrom(model)
    for tensor in float32.graph.initializer:
        if (found := dequantised(quantised).get(tensor.name)) is not None:
            tensor.CopyFrom(numpy_helper.from_array(found, tensor.name))
    np.testing.assert_array_equal(outputs_of(quantised), outputs_of(float32))
    assert not np.array_equal(outputs_of(quantised), outputs_of(model))


# ---------------------------------------------------------------- the comparison


class Answers:
    """Stands for an Identifier: returns given probabilities (N, C), image by image."""

    metadata = type("Metadata", (), {"input_size": 32})

    def __init__(self, probabilities: np.ndarray) -> None:
        self.probabilities_left = list(probabilities)

    def probabilities(self, images: list[np.ndarray] | np.ndarray) -> np.ndarray:
        if not isinstance(images, list):  # a call to measure the speed
            return np.zeros((1, 10))
        return np.array([self.probabilities_left.pop(0) for _ in images])


def test_figures(tiny_tree):
    catalog = scan_folder(tiny_tree)
    random = np.random.default_rng(0)
    expected = random.dirichlet(np.full(10, 0.3), len(catalog.paths))
    found = expected.copy()
    found[::7] = random.dirichlet(np.full(10, 0.3), len(found[::7]))
    files = [LoadedFile([Answers(answers), Answers(answers)], 3.0) for answers in (expected, found)]  # type: ignore[list-item]
    comparison = compare(*files, catalog)
    assert comparison.images == 57
    for measured, probabilities in ((comparison.float32, expected), (comparison.int8, found)):
        predicted = probabilities.argmax(1)
        assert measured.acc == pytest.approx(accuracy_score(catalog.labels, predicted))
        assert measured.macro_recall == pytest.approx(balanced_accuracy_score(catalog.labels, predicted))
        ece = multiclass_calibration_error(torch.tensor(probabilities), torch.tensor(catalog.labels), 10)
        assert measured.ece == pytest.approx(float(ece), abs=1e-6)
        assert len(measured.ms) == 2 and min(measured.ms) > 0
    assert comparison.agreement == np.mean(expected.argmax(1) == found.argmax(1)) < 1
    assert comparison.largest_difference == np.abs(expected - found).max()


def a_comparison(float32: float, int8: float) -> Int8Comparison:
    """A comparison with these macro recalls."""
    figures = [Measured(1.0, 0.9, macro_recall, 0.01, [1.0, 1.0]) for macro_recall in (float32, int8)]
    return Int8Comparison(200, *figures, 0.99, 0.1)


@pytest.mark.parametrize(("int8", "accepted"), [(0.95, True), (0.9, True), (0.895, True), (0.8949, False)])
def test_half_a_point_of_macro_recall_may_be_lost(int8, accepted):
    if accepted:
        a_comparison(0.9, int8).require_recall()
    else:
        with pytest.raises(UsageError, match=r"weights=int8 lowers macro recall by 0.5 points on 200 validation"):
            a_comparison(0.9, int8).require_recall()


# ---------------------------------------------------------------- the exported file


@pytest.fixture(scope="module")
def run(tiny_tree, tmp_path_factory) -> Path:
    """A run of a MobileNetV3 with test-time augmentation. Read only."""
    folder = tmp_path_factory.mktemp("int8")
    images = Path(shutil.copytree(tiny_tree, folder / "images"))
    data = ["--data.root", images, "--data.size", 32, "--data.batch_size", 16, "--data.num_workers", 0]
    net = ["--model.net", "mobilenetv3_small_050", "--model.freeze", "true", "--model.lr", 0.3, "--model.tta", "hflip"]
    trainer = ["--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    assert cli("fit", *data, *net, *trainer) == 0
    return folder / "run" / "version_0"


@pytest.fixture
def moved(run, tmp_path, monkeypatch) -> Path:
    """A copy of the run and its images, which may be changed."""
    copied = Path(shutil.copytree(run, tmp_path / "run" / "version_0"))
    images = shutil.copytree(run.parents[1] / "images", tmp_path / "images")
    load = export_file.load_model

    def load_moved(ckpt_path: str | Path, prior: str | None) -> TrainedModel:
        model = load(ckpt_path, prior=prior)
        model.data_hparams["root"] = str(images)
        return model

    monkeypatch.setattr(export_file, "load_model", load_moved)
    return copied


@pytest.fixture(scope="module", params=["batch", "image"])
def files(request, run) -> tuple[Path, Path]:
    """A float32 file and its int8 variant."""
    files = [run.parent / f"{request.param}_{weights}.onnx" for weights in ("float32", "int8")]
    for file in files:
        weights = [] if "float32" in file.name else ["--weights", "int8"]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Int8Comparison, "require_recall", lambda comparison: None)  # the net is hardly trained
            assert cli("export", run / "best.ckpt", "--output", file, "--input", request.param, *weights) == 0
    return files[0], files[1]


def test_size(files):
    """Of the graph: the golden images of this small net are a fifth of its file."""
    float32, int8 = (len(graph_of(file).SerializeToString()) for file in files)
    assert int8 / float32 <= 0.4


def graph_of(file: Path) -> onnx.GraphProto:
    return onnx.load(file, load_external_data=False).graph


def test_inputs_and_outputs_are_the_same(files):
    graphs = [graph_of(file) for file in files]
    assert graphs[0].input == graphs[1].input and graphs[0].output == graphs[1].output
    onnx.checker.check_model(onnx.load(files[1]), full_check=True)


def test_probabilities_are_close(files, run):
    images = [decode(path) for path in find_images(run.parents[1] / "images")[::6]]
    float32, int8 = (Identifier(file).probabilities(images) for file in files)
    assert 0 < np.abs(float32 - int8).max() < 0.05


def test_metadata(files, run):
    float32, int8 = (read_texts(file.read_bytes()) for file in files)
    assert (float32["weights"], int8["weights"]) == ("float32", "int8")
    assert Identifier(files[1]).metadata.weights == "int8"
    assert "int8_comparison" not in float32
    measured = json.loads(int8["int8_comparison"])
    assert measured["images"] == (run / "split.csv").read_text().count(",val,")
    assert measured["int8"]["mb"] < measured["float32"]["mb"]
    same = int8.keys() - {"weights", "int8_comparison", "golden_images", "sha256"}
    assert {key: float32[key] for key in same} == {key: int8[key] for key in same}


def test_golden_images_have_the_probabilities_of_the_file_itself(files):
    identifier, (float32, int8) = Identifier(files[1]), [read_texts(file.read_bytes()) for file in files]
    size = identifier.metadata.input_size
    pairs = [json.loads(texts["golden_images"]) for texts in (float32, int8)]
    for plain, own in zip(*pairs, strict=True):
        assert plain["jpeg"] == own["jpeg"] and plain["probabilities"] != own["probabilities"]
        golden = GoldenImage.from_json(own)
        found = identifier.probabilities(decode(golden.jpeg, size))[0]
        np.testing.assert_allclose(found, golden.probabilities, atol=1e-5)


@pytest.mark.parametrize("option", [True, False])
def test_no_dequantisation_is_left_when_a_file_is_loaded(files, tmp_path, monkeypatch, option):
    class Saving(onnxruntime.SessionOptions):
        def __init__(self) -> None:
            super().__init__()
            self.optimized_model_filepath = str(tmp_path / "optimised.onnx")

        def add_session_config_entry(self, key: str, value: str) -> None:
            if option:
                super().add_session_config_entry(key, value)

    assert any(node.op_type == "DequantizeLinear" for node in graph_of(files[1]).node)
    monkeypatch.setattr(engines.onnxruntime, "SessionOptions", Saving)
    Identifier(files[1])
    operators = {node.op_type for node in graph_of(tmp_path / "optimised.onnx").node}
    assert ("DequantizeLinear" in operators) != option


def test_no_path_of_this_machine_is_in_the_file(files):
    package = str(Path(animals_pl.__file__).parent).encode()
    for file in files:
        assert package not in file.read_bytes()


def test_the_comparison_is_printed_and_returned(moved, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(Int8Comparison, "require_recall", lambda comparison: None)
    exported = export_file.export(moved / "best.ckpt", tmp_path / "m.onnx", weights="int8")
    printed = capsys.readouterr().out
    comparison = exported.comparison
    assert comparison is not None
    figures = f"{comparison.float32.macro_recall:.4f} {comparison.int8.macro_recall:.4f}"
    assert figures in " ".join(printed.split())
    assert "with float32 weights, verified on 16 images" in printed
    assert comparison.int8.mb == pytest.approx(exported.path.stat().st_size / 1e6, rel=0.01)
    assert export_file.export(moved / "best.ckpt", tmp_path / "m.onnx").comparison is None


# ---------------------------------------------------------------- refused


@pytest.fixture
def refused(moved, tmp_path, capsys):
    """Return a function that exports, checks that this was refused and the old file kept, and returns the output."""

    def check() -> tuple[str, str]:
        file = tmp_path / "output" / "model.onnx"
        file.parent.mkdir()
        file.write_text("old")
        assert cli("export", moved / "best.ckpt", "--output", file, "--weights", "int8") == 2
        printed, error = capsys.readouterr()
        assert "Traceback" not in error and len(error.strip().splitlines()) == 1
        assert [path.name for path in file.parent.iterdir()] == ["model.onnx"] and file.read_text() == "old"
        return printed, error

    return check


def test_a_worse_file_is_refused_with_the_table(refused, monkeypatch):
    monkeypatch.setattr(onnx_file, "compare", lambda *args: a_comparison(0.91, 0.9))
    printed, error = refused()
    assert "macro recall 0.9100 0.9000" in " ".join(printed.split())
    assert "weights=int8 lowers macro recall by 1.0 points on 200 validation images (allowed: 0.5)" in error
    assert "nothing was written. Export with weights=float32." in error


@pytest.mark.parametrize("gone", ["images", "run/version_0/split.csv", "an image"])
def test_without_the_validation_images_it_is_refused(refused, moved, tmp_path, gone):
    path = tmp_path / gone
    if gone == "images":
        shutil.rmtree(path)
    else:
        rows = [row.split(",") for row in (moved / "split.csv").read_text().splitlines()]
        path = tmp_path / "images" / next(row[0] for row in rows if row[2] == "val") if gone == "an image" else path
        path.unlink()
    _, error = refused()
    assert f"weights=int8 is measured on the run's validation images, but '{path}' does not exist." in error
    assert "export with weights=float32" in error


def test_a_broken_validation_image_is_refused(refused, moved, tmp_path):
    rows = [row.split(",") for row in (moved / "split.csv").read_text().splitlines()]
    broken = next(row[0] for row in rows if row[2] == "val")
    (tmp_path / "images" / broken).write_bytes(b"not an image")
    _, error = refused()
    assert f"validation image '{broken}' cannot be used: " in error


def test_other_weights_are_refused(run, tmp_path):
    with pytest.raises(UsageError, match="weights='int4'"):
        export_file.export(run / "best.ckpt", tmp_path / "m.onnx", weights="int4")  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []
