"""The page for devices: its files, and in a browser the same answers as the runtime, also without a server."""

from __future__ import annotations

import base64
import functools
import hashlib
import io
import json
import os
import tarfile
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
from animals_pl.deploy.server import ort_web
from animals_pl.deploy.server.ort_web import ORT_FILES
from animals_pl.errors import UsageError


@pytest.fixture(scope="module")
def image_model(model, tmp_path_factory) -> Path:
    """The model with resizing in its graph."""
    (checkpoint,) = model.parent.rglob("best.ckpt")
    return export(checkpoint, tmp_path_factory.mktemp("static") / "image.onnx", input="image").path


@pytest.fixture
def dist(tmp_path) -> Path:
    """Files named like those of onnxruntime-web."""
    folder = tmp_path / "dist"
    folder.mkdir()
    for name in ORT_FILES:
        (folder / name).write_bytes(name.encode())
    return folder


def write(model: Path, output: Path, dist: Path) -> int:
    return main(["serve", str(model), "--static", str(output), "--ort_web", str(dist)])


def test_the_folder_has_all_files_of_the_service_worker(image_model, dist, tmp_path):
    assert write(image_model, tmp_path / "site", dist) == 0
    worker = (tmp_path / "site" / "service-worker.js").read_text()
    listed = json.loads(worker.splitlines()[1].removeprefix("const FILES = ").removesuffix(";"))
    names = {file.name for file in (tmp_path / "site").iterdir()}
    assert set(listed) == names - {"index.html", "service-worker.js"} | {"./"}
    assert (tmp_path / "site" / "model.onnx").read_bytes() == image_model.read_bytes()
    assert len(json.loads((tmp_path / "site" / "model.json").read_text())["golden_images"]) == 8


def test_the_version_changes_with_any_file(image_model, dist, tmp_path):
    def version(name: str) -> str:
        assert write(image_model, tmp_path / name, dist) == 0
        return (tmp_path / name / "service-worker.js").read_text().splitlines()[0]

    first = version("a")
    assert version("b") == first
    (dist / ORT_FILES[0]).write_text("changed")
    assert version("c") != first


def test_what_cannot_be_written_is_refused(model, image_model, dist, tmp_path, capsys):
    assert write(model, tmp_path / "site", dist) == 2
    assert "has input=batch. Export it with --input image" in capsys.readouterr().err
    assert write(image_model, tmp_path, dist) == 2
    assert "exists. Choose another folder" in capsys.readouterr().err
    (dist / ORT_FILES[2]).unlink()
    assert write(image_model, tmp_path / "site", dist) == 2
    assert f"has no {ORT_FILES[2]}" in capsys.readouterr().err
    assert main(["serve", str(image_model), "--ort_web", str(dist)]) == 2
    assert "ort_web only applies to static" in capsys.readouterr().err
    assert not (tmp_path / "site").exists()


# ---------------------------------------------------------------- npm


def package() -> bytes:
    """A package as npm packs it, with the files' names as contents."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name in ORT_FILES:
            member = tarfile.TarInfo(f"package/dist/{name}")
            member.size = len(name)
            archive.addfile(member, io.BytesIO(name.encode()))
    return stream.getvalue()


@pytest.fixture
def npm(tmp_path, monkeypatch) -> Callable[[str], None]:
    """Replace npm by a shell script; ``$PACKAGE`` is a package whose hash is accepted."""
    (tmp_path / "package").write_bytes(package())
    monkeypatch.setattr(ort_web, "SHA512", base64.b64encode(hashlib.sha512(package()).digest()).decode())
    monkeypatch.setenv("PACKAGE", str(tmp_path / "package"))
    (tmp_path / "bin").mkdir()

    def install(script: str) -> None:
        file = tmp_path / "bin" / "npm"
        file.write_text(f"#!/bin/sh\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")

    return install


def test_npm_downloads_the_version_that_was_tested(image_model, npm, tmp_path):
    npm(f'test "$1 $2" = "pack onnxruntime-web@{ort_web.VERSION}" && cp "$PACKAGE" onnxruntime-web.tgz')
    assert main(["serve", str(image_model), "--static", str(tmp_path / "site")]) == 0
    for name in ORT_FILES:
        assert (tmp_path / "site" / name).read_bytes() == name.encode()


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo 'npm error code ENOTFOUND' >&2; exit 1", "(npm error code ENOTFOUND). Pass --ort_web"),
        ("exit 0", "cannot download"),
        ("echo other > onnxruntime-web.tgz", "that npm downloaded is not the tested one"),
    ],
)
def test_a_download_that_fails_is_named(image_model, npm, tmp_path, capsys, script, message):
    npm(script)
    assert main(["serve", str(image_model), "--static", str(tmp_path / "site")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert message in line
    assert not (tmp_path / "site").exists()


def test_without_npm(image_model, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["serve", str(image_model), "--static", str(tmp_path / "site")]) == 2
    assert "but npm is not installed. Pass --ort_web" in capsys.readouterr().err


# ---------------------------------------------------------------- with onnxruntime-web


@pytest.fixture(scope="module")
def real_ort_web(tmp_path_factory) -> Path:
    """The folder that ANIMALS_PL_ORT_WEB names, or the files that npm downloads."""
    if folder := os.environ.get("ANIMALS_PL_ORT_WEB"):
        return Path(folder)
    try:
        files = ort_web.ort_files(None)
    except UsageError as error:
        pytest.skip(f"{error} (here: ANIMALS_PL_ORT_WEB)")
    folder = tmp_path_factory.mktemp("ort_web")
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript", ".wasm": "application/wasm"}

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def site(image_model, real_ort_web, tmp_path, loopback) -> Iterator[tuple[Path, str, Callable[[], None]]]:
    """Folder and address of the page below a path of a plain web server, and a function that stops the server."""
    assert write(image_model, tmp_path / "www" / "some path" / "animals", real_ort_web) == 0
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


@pytest.mark.slow
def test_images_are_classified_as_by_the_runtime(browser: Chrome, site, image_model, tiny_tree):
    open_page(browser, site[1])
    for photo in sorted(tiny_tree.rglob("*.jpg"))[::6]:
        expected = Identifier(image_model).predict(photo, unknown=True)[0]
        choose(browser, photo)
        name = ANIMALS10.get(expected.label, "Unknown")
        wait(browser, lambda name=name: text(browser, "label") == name)
    messages = [entry["message"] for entry in browser.get_log("browser")]
    assert messages == []


@pytest.mark.slow
def test_the_page_works_after_the_server_has_stopped(browser: Chrome, site, tiny_tree):
    _, url, stop = site
    open_page(browser, url)
    wait(browser, lambda: browser.execute_script("return Boolean(navigator.serviceWorker.controller)"))
    stop()
    open_page(browser, url)
    choose(browser, next(tiny_tree.rglob("*.jpg")))
    assert has_class(browser, "prediction")
    assert text(browser, "privacy") == "The photo is classified on this device and not sent anywhere."


@pytest.mark.slow
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
