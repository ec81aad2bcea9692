"""The engines of exported files: equal results, also in several threads; refusals; the benchmark of export."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest

from animals_pl import AnimalClassifier, AnimalsDataModule, Identifier, fit
from animals_pl.cli import main
from animals_pl.data.decode import decode
from animals_pl.data.walk import find_images
from animals_pl.deploy import engines, inference_time
from animals_pl.deploy.export import export
from animals_pl.deploy.int8_comparison import Int8Comparison
from animals_pl.deploy.metadata import read_texts
from animals_pl.deploy.onnx_file import seal
from animals_pl.errors import UsageError
from animals_pl.models.openvino_package import openvino_version
from animals_pl.training.cpu import cpu_name

needs_openvino = pytest.mark.skipif(not openvino_version(), reason="OpenVINO is not installed")

KINDS = {"batch": {}, "image": {"input": "image"}, "int8": {"weights": "int8"}}
"""Name of a file → arguments of export."""


@pytest.fixture(scope="module")
def checkpoint(tiny_tree, tmp_path_factory) -> Path:
    """The best checkpoint of a run with a center crop."""
    data = AnimalsDataModule(str(tiny_tree), size=32, resize="crop", crop_pct=0.8, num_workers=0)
    root = str(tmp_path_factory.mktemp("engines"))
    return fit(AnimalClassifier("shallownet", lr=0.002), data, max_epochs=6, default_root_dir=root).best_path


@pytest.fixture(scope="module")
def files(checkpoint) -> dict[str, Path]:
    """An exported file of each kind. Read only."""
    folder = checkpoint.parents[2]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Int8Comparison, "require_recall", lambda comparison: None)
        return {kind: export(checkpoint, folder / f"{kind}.onnx", **given).path for kind, given in KINDS.items()}


@pytest.fixture(scope="module")
def images(tiny_tree) -> list[np.ndarray]:
    return [decode(path) for path in find_images(tiny_tree)[::4]]


# ---------------------------------------------------------------- results


@needs_openvino
@pytest.mark.parametrize("kind", ["batch", "int8"])
@pytest.mark.parametrize("threads", [None, 1])
def test_both_engines_give_the_same(files, images, kind, threads):
    expected = Identifier(files[kind]).outputs(images)
    found = Identifier(files[kind], engine="openvino", threads=threads).outputs(images)
    np.testing.assert_allclose(found[0], expected[0], atol=1e-4)
    np.testing.assert_allclose(found[1], expected[1], atol=1e-3)
    assert len(set(expected[0].argmax(1))) > 1


@needs_openvino
@pytest.mark.parametrize("kind", ["batch", "int8"])
def test_several_threads_may_call_openvino(files, images, kind, monkeypatch):
    """Without float weights, int8 files give wrong results with several streams (OpenVINO 2026.4)."""
    monkeypatch.setattr(engines, "available_cores", lambda: 4)
    identifier = Identifier(files[kind], engine="openvino", threads=1)
    alone = [identifier.probabilities(image) for image in images]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(identifier.probabilities, images * 5))
    np.testing.assert_allclose(together, alone * 5, atol=1e-5)


@needs_openvino
def test_classify_takes_the_engine(files, tiny_tree, tmp_path):
    tables = []
    for engine in ("onnxruntime", "openvino"):
        output = tmp_path / f"{engine}.csv"
        assert main(["classify", str(files["batch"]), str(tiny_tree), "--output", str(output), "--engine", engine]) == 0
        with output.open(newline="") as stream:
            tables.append([(row["path"], row["class"]) for row in csv.DictReader(stream)])
    assert tables[0] == tables[1] and len(tables[0]) == len(find_images(tiny_tree))


BLOCK = """
import sys
for name in ("torch", "lightning", "timm", "pandas", "scipy", "onnx"):
    sys.modules[name] = None
from animals_pl.cli import main
code = main(sys.argv[1:])
assert "openvino" not in sys.modules or sys.modules["openvino_telemetry"] is None
sys.exit(code)
"""
"""Runs a command without torch, and checks that the telemetry of OpenVINO was not imported."""


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
def test_no_telemetry_is_written_and_torch_is_not_needed(files, tiny_tree, tmp_path, engine):
    home = tmp_path / "home"
    home.mkdir()
    arguments = ["classify", files["int8"], tiny_tree / "gatto", "--output", tmp_path / "out.csv", "--engine", engine]
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(home)}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", BLOCK, *map(str, arguments)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out.csv"]
    assert list(home.iterdir()) == []


# ---------------------------------------------------------------- refused


def changed(file: Path, change) -> Path:
    """A copy of a file with a changed graph and a right digest."""
    proto = onnx.load_from_string(file.read_bytes())
    change(proto)
    texts = {key: text for key, text in read_texts(file.read_bytes()).items() if key != "sha256"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnx.checker, "check_model", lambda proto: None)
        content = seal(proto, texts)
    copy = file.with_name("changed.onnx")
    copy.write_bytes(content)
    return copy


def with_other_weights(proto: onnx.ModelProto) -> None:
    weights = max(proto.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weights.raw_data = (-np.frombuffer(weights.raw_data, np.float32)).tobytes()


def with_unknown_operator(proto: onnx.ModelProto) -> None:
    next(node for node in proto.graph.node if node.op_type == "Conv").op_type = "Unheard"


REFUSED = {
    "altered weights": (with_other_weights, "it gives other probabilities for golden image 1"),
    "unknown operator": (with_unknown_operator, "cannot load it"),
}


@pytest.mark.parametrize("engine", ["onnxruntime", pytest.param("openvino", marks=needs_openvino)])
@pytest.mark.parametrize("name", REFUSED)
def test_what_an_engine_computes_wrongly_or_not_at_all_is_refused(files, engine, name):
    change, message = REFUSED[name]
    with pytest.raises(UsageError) as caught:
        Identifier(changed(files["batch"], change), engine=engine)
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert ("Choose engine=onnxruntime" in str(caught.value)) == (engine == "openvino")


@needs_openvino
def test_openvino_does_not_resize(files):
    """It ignores ``antialias``, which golden images of 320 pixels do not show."""
    with pytest.raises(UsageError, match=r"OpenVINO resizes without antialiasing\. Choose engine=onnxruntime"):
        Identifier(files["image"], engine="openvino")


def test_an_engine_that_is_not_installed_is_named(files, tiny_tree, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(engines, "load_openvino", lambda: None)
    output = tmp_path / "out.csv"
    assert main(["classify", str(files["batch"]), str(tiny_tree), "--output", str(output), "--engine=openvino"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("engine=openvino is not installed. Run: pip install 'animals_pl[openvino]'")
    assert not output.exists()


@needs_openvino
def test_providers_are_those_of_onnxruntime(files):
    with pytest.raises(UsageError, match="only apply to engine=onnxruntime"):
        Identifier(files["batch"], engine="openvino", providers=["CUDAExecutionProvider"])


def test_other_engines_are_refused(files, tiny_tree, capsys):
    with pytest.raises(UsageError, match="engine='tensorrt'"):
        Identifier(files["batch"], engine="tensorrt")  # type: ignore[arg-type]
    assert main(["classify", str(files["batch"]), str(tiny_tree), "--engine", "tensorrt"]) == 2
    assert "engine=tensorrt" in capsys.readouterr().err


# ---------------------------------------------------------------- benchmark


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(inference_time, "ROUNDS", 1)


@pytest.mark.parametrize("installed", [pytest.param(True, marks=needs_openvino), False])
def test_the_benchmark_names_the_quickest_engine(checkpoint, tmp_path, quick, monkeypatch, capsys, installed):
    if not installed:
        monkeypatch.setattr(inference_time, "openvino_version", str)
    output = tmp_path / "model.onnx"
    assert main(["export", str(checkpoint), "--output", str(output), "--benchmark"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"ms per image +1 thread +2 threads", printed)
    names = ["onnxruntime", "openvino"] if installed else ["onnxruntime"]
    times = {name: re.search(rf"{name} +([\d.]+) +[\d.]+", printed) for name in names}
    assert all(times.values())
    assert ("openvino was not measured: it is not installed" in printed) != installed
    found = re.search(r"quickest on this CPU, (.+) \((.+)\): engine=(\w+)", printed)
    assert found and found[1] == cpu_name() and found[3] in names


def test_the_quickest_engine_is_that_with_the_least_time():
    times = inference_time.EngineTimes({"onnxruntime": [2.0, 1.0], "openvino": [1.5, 1.4]}, {})
    assert times.quickest == "openvino"


@needs_openvino
def test_an_engine_that_cannot_run_the_file_is_named_with_its_fault(files, quick):
    def refuse(*args: object) -> None:
        raise RuntimeError("unsupported operator")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engines, "_compute_float_weights", refuse)
        times = inference_time.measure_engines(files["batch"])
    assert list(times.ms) == ["onnxruntime"] and "unsupported operator" in times.faults["openvino"]


def test_the_benchmark_needs_a_file(checkpoint):
    with pytest.raises(UsageError, match="benchmark=true reads the file again"):
        export(checkpoint, "/dev/null", benchmark=True)
