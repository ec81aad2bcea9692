"""The page for devices: its files, and in a browser the same answers as the runtime, also without a server."""

from __future__ import annotations

import functools
import json
import os
import threading
from collections.abc import Callable, Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from selenium.webdriver import Chrome
from test_serve_page import choose, has_class, open_page, text, wait

from animals_pl import Identifier
from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10
from animals_pl.deploy.export import export
from animals_pl.deploy.server.device_page import ORT_FILES


@pytest.fixture(scope="module")
def image_model(model, tmp_path_factory) -> Path:
    """The model with the resizing in its graph."""
    (checkpoint,) = model.parent.rglob("best.ckpt")
    return export(checkpoint, tmp_path_factory.mktemp("static") / "image.onnx", input="image").path


@pytest.fixture
def ort_web(tmp_path) -> Path:
    """Files with the names of onnxruntime-web's."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in ORT_FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def write(model: Path, output: Path, ort_web: Path) -> int:
    return main(["serve", str(model), "--static", str(output), "--ort_web", str(ort_web)])


def test_the_folder_has_all_files_of_the_service_worker(image_model, ort_web, tmp_path):
    assert write(image_model, tmp_path / "site", ort_web) == 0
    worker = (tmp_path / "site" / "service-worker.js").read_text()
    listed = json.loads(worker.splitlines()[1].removeprefix("const FILES = ").removesuffix(";"))
    names = {file.name for file in (tmp_path / "site").iterdir()}
    assert set(listed) == names - {"index.html", "service-worker.js"} | {"./"}
    assert (tmp_path / "site" / "model.onnx").read_bytes() == image_model.read_bytes()
    assert len(json.loads((tmp_path / "site" / "model.json").read_text())["golden_images"]) == 8


def test_the_version_changes_with_any_file(image_model, ort_web, tmp_path):
    def version(name: str) -> str:
        assert write(image_model, tmp_path / name, ort_web) == 0
        return (tmp_path / name / "service-worker.js").read_text().splitlines()[0]

    first = version("a")
    assert version("b") == first
    (ort_web / ORT_FILES[0]).write_text("changed")
    assert version("c") != first


def test_what_cannot_be_written_is_refused(model, image_model, ort_web, tmp_path, capsys):
    assert write(model, tmp_path / "site", ort_web) == 2
    assert "has input=batch. Export it with --input image" in capsys.readouterr().err
    assert write(image_model, tmp_path, ort_web) == 2
    assert "exists. Choose another folder" in capsys.readouterr().err
    (ort_web / ORT_FILES[2]).unlink()
    assert write(image_model, tmp_path / "site", ort_web) == 2
    assert f"has no {ORT_FILES[2]}" in capsys.readouterr().err
    assert main(["serve", str(image_model), "--static", str(tmp_path / "site")]) == 2
    assert "static needs --ort_web" in capsys.readouterr().err
    assert main(["serve", str(image_model), "--ort_web", str(ort_web)]) == 2
    assert "ort_web only applies to static" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------- with onnxruntime-web


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(image_model, tmp_path, loopback) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """Folder and address of the page below a path of a plain web server, and a function that stops the server."""
    folder = os.environ.get("ANIMALS_PL_ORT_WEB")
    if not folder:
        pytest.skip("set ANIMALS_PL_ORT_WEB to the folder dist of npm's onnxruntime-web to run this test")
    assert write(image_model, tmp_path / "www" / "some path" / "animals", Path(folder)) == 0
    handler = functools.partial(_Handler, directory=tmp_path / "www")
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()

        def stop() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        url = f"http://127.0.0.1:{server.server_port}/some%20path/animals/"
        yield tmp_path / "www" / "some path" / "animals", url, stop
        stop()


def test_images_are_classified_as_by_the_runtime(browser: Chrome, site, image_model, tiny_tree):
    open_page(browser, site[1])
    for photo in sorted(tiny_tree.rglob("*.jpg"))[::6]:
        expected = Identifier(image_model).predict(photo, unknown=True)[0]
        choose(browser, photo)
        name = ANIMALS10.get(expected.label, "Unknown")
        wait(browser, lambda name=name: text(browser, "label") == name)
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert messages == []


def test_the_page_works_after_the_server_has_stopped(browser: Chrome, site, tiny_tree):
    _, url, stop = site
    open_page(browser, url)
    wait(browser, lambda: browser.execute_script("return Boolean(navigator.serviceWorker.controller)"))
    stop()
    open_page(browser, url)
    choose(browser, next(tiny_tree.rglob("*.jpg")))
    assert has_class(browser, "prediction")
    assert text(browser, "privacy") == "The photo is classified on this device and not sent anywhere."


def test_a_device_that_does_not_reproduce_the_golden_images_is_refused(browser: Chrome, site, tiny_tree):
    folder, url, _ = site
    facts = json.loads((folder / "model.json").read_text())
    facts["golden_images"][3]["probabilities"][0] += 0.5
    (folder / "model.json").write_text(json.dumps(facts))
    browser.get(url)
    wait(browser, lambda: has_class(browser, "problem"))
    assert text(browser, "note").startswith(("The model gives wrong", "Il modello dà risultati errati"))
    choose(browser, next(tiny_tree.rglob("*.jpg")))
    assert not has_class(browser, "prediction")


def test_a_bad_file(browser: Chrome, site, tmp_path):
    open_page(browser, site[1])
    (tmp_path / "bad.jpg").write_text("not an image")
    choose(browser, tmp_path / "bad.jpg")
    assert text(browser, "note") == "This is not an image in a supported format."
