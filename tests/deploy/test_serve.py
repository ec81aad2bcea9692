"""The server in this process: answers, status codes, limits, token, headers, and wrong use of the command."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import re
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from tempfile import SpooledTemporaryFile

import jsonschema
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient
from test_packaging import BLOCK

from animals_pl import Identifier
from animals_pl.cli import main
from animals_pl.deploy.server.answers import LARGE_IMAGE, finds_unknown
from animals_pl.deploy.server.app import PAGE, SECURITY_HEADERS, create_app
from animals_pl.deploy.server.limits import MOST_IMAGES, MOST_SCANS, Limits

TOKEN = "a-token_of.24-characters"
LIMITS = Limits(max_mb=1, max_megapixels=2, max_requests=1, timeout=20)


@pytest.fixture(scope="module")
def identifier(model) -> Identifier:
    return Identifier(model, threads=1)


@pytest.fixture(scope="module")
def client(identifier) -> TestClient:
    return TestClient(create_app(identifier, LIMITS))


@pytest.fixture
def photo(tiny_tree) -> bytes:
    return sorted(tiny_tree.rglob("*.jpg"))[5].read_bytes()


def encoded(width: int, height: int, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (width, height), (90, 140, 60)).save(stream, kind, **options)
    return stream.getvalue()


def files(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("image", (f"{number}.jpg", content)) for number, content in enumerate(contents)]


# ---------------------------------------------------------------- answers


def test_an_image_as_body_is_identified_as_by_the_runtime(client, identifier, photo):
    expected = identifier.predict(photo, top_k=4, unknown=True)[0]
    response = client.post("/identify?top_k=4", content=photo, headers={"Content-Type": "image/jpeg"})
    (found,) = response.json()["images"]
    assert (response.status_code, response.json()["model"]) == (200, identifier.metadata.sha256[:12])
    assert (found["label"], found["probability"], found["problem"]) == (expected.label, expected.probability, "")
    assert [(one["label"], one["probability"]) for one in found["top"]] == expected.top
    assert found["unknown_score"] == expected.unknown_score


def test_several_files_are_answered_in_their_order(client, identifier, photo):
    other = encoded(60, 40, "PNG")
    expected = [one.top for one in identifier.predict([photo, other], top_k=5)]
    response = client.post("/identify", files=files(photo, b"no image", other))
    found = response.json()["images"]
    assert response.status_code == 200
    assert [one["name"] for one in found] == ["0.jpg", "1.jpg", "2.jpg"]
    tops = [[(row["label"], row["probability"]) for row in one["top"]] for one in found]
    assert tops == [expected[0], [], expected[1]]
    assert (found[1]["label"], found[1]["problem"]) == (None, "not an image in a supported format")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "TIFF", "JPEG2000", "PPM"])
def test_formats(client, kind):
    response = client.post("/identify", content=encoded(60, 40, kind))
    assert response.status_code == 200, response.text


def test_a_truncated_image_has_a_result_and_a_problem(client):
    pixels = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG")
    response = client.post("/identify", content=stream.getvalue()[: stream.tell() // 2])
    (found,) = response.json()["images"]
    assert response.status_code == 200
    assert found["label"] is not None and "truncated" in found["problem"]


@pytest.mark.parametrize(("threshold", "is_unknown"), [(-1e9, True), (1e9, False), (None, False)])
def test_unknown(model, photo, threshold, is_unknown):
    identifier = Identifier(model, threads=1)
    identifier.metadata = dataclasses.replace(identifier.metadata, unknown_threshold=threshold)
    client = TestClient(create_app(identifier))
    (found,) = client.post("/identify", content=photo).json()["images"]
    assert found["unknown"] is is_unknown
    assert (found["label"] == "unknown") is is_unknown
    assert (found["english"] == "unknown") is is_unknown
    assert found["top"][0]["probability"] > 0
    assert client.get("/model").json()["unknown"] is (threshold is not None)


def test_a_class_called_unknown_is_a_class(identifier):
    names = ["Unknown", *identifier.class_names[1:]]
    assert finds_unknown(identifier.metadata)
    assert not finds_unknown(dataclasses.replace(identifier.metadata, class_names=names))


def test_the_model_is_described_without_its_golden_images(client, identifier):
    found = client.get("/model").json()
    assert found["classes"][0] == {"label": "cane", "english": "dog"}
    assert found["metrics"] == identifier.metadata.metrics
    assert found["limits"]["bytes"] == 1_000_000 and found["limits"]["images"] == MOST_IMAGES
    assert "golden" not in json.dumps(found)


def test_answers_are_as_the_openapi_description_says(client, photo):
    description = client.get("/openapi.json").json()
    calls = [
        ("/health", "get", client.get("/health")),
        ("/model", "get", client.get("/model")),
        ("/identify", "post", client.post("/identify", content=photo)),
        ("/identify", "post", client.post("/identify", content=b"no image")),
    ]
    assert description["paths"].keys() == {path for path, _, _ in calls}
    for path, method, response in calls:
        described = description["paths"][path][method]["responses"][str(response.status_code)]
        schema = described["content"]["application/json"]["schema"]
        jsonschema.validate(response.json(), schema | {"components": description["components"]})


# ---------------------------------------------------------------- refused requests


@pytest.mark.parametrize(
    ("content", "headers", "status", "text"),
    [
        (b"", {}, 400, "no image in the request"),
        (b"no image", {}, 415, "not an image in a supported format"),
        (b"<svg></svg>", {"Content-Type": "image/svg+xml"}, 415, "(SVG)"),
        (b"\xff\xd8\xff\xe0 damaged", {}, 422, "truncated"),
        (b"{}", {"Content-Type": "application/json"}, 415, "Content-Type 'application/json'"),
        (b"a", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "Send image/*"),
        (b"a", {"Content-Type": "multipart/form-data"}, 400, "Missing boundary"),
        (b"a", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "form data"),
        (b"--b--\r\n", {"Content-Type": "multipart/form-data; boundary=b"}, 400, "no image"),
        (bytes(1_000_001), {}, 413, "At most 1 MB"),
        (iter([bytes(600_000)] * 2), {}, 413, "At most 1 MB"),
        (encoded(1500, 1400, "PNG"), {}, 422, "too many pixels: 2.1 megapixels (allowed: 2)"),
        (encoded(60, 40, "JPEG")[:-2] + b"\xff\xda\0\2" * (MOST_SCANS + 1), {}, 422, "too many scans: 102"),
    ],
)
def test_requests_that_are_refused(client, content, headers, status, text):
    response = client.post("/identify", content=content, headers=headers)
    assert response.status_code == status
    assert text in response.json()["error"]


def test_of_several_files_an_image_decides_why_the_request_is_refused(client):
    response = client.post("/identify", files=files(b"no image", b"\xff\xd8\xff\xe0 damaged"))
    assert response.status_code == 422
    assert "truncated" in response.json()["error"]
    assert client.post("/identify", files=files(b"no image", b"nor this")).status_code == 415


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/identify", 405),
        ("POST", "/model", 405),
        ("POST", "/", 405),
        ("GET", "/nothing", 404),
        ("POST", "/identify/", 405),
        ("GET", "/%00", 404),
        ("GET", "/%ff", 404),
        ("GET", "/..%2f..%2fapp.py", 404),
        ("GET", "/%2e%2e/app.py", 404),
        ("POST", "/identify?top_k=0", 400),
        ("POST", "/identify?top_k=1e9", 400),
        ("POST", "/identify?top_k=%C2%B2", 400),
    ],
)
def test_wrong_paths_methods_and_parameters(client, method, path, status):
    response = client.request(method, path)
    assert (response.status_code, [*response.json()]) == (status, ["error"])


def test_truncated_form_data_are_refused(client, photo):
    request = client.build_request("POST", "/identify", files=files(photo, photo))
    content = request.read()
    for length in (len(content) - 10, len(content) // 2, len(photo) // 2, 10):
        response = client.post("/identify", content=content[:length], headers=request.headers | {"content-length": ""})
        assert response.status_code == 400, length


def test_too_many_files_are_refused(client):
    response = client.post("/identify", files=files(*[b"a"] * (MOST_IMAGES + 1)))
    assert (response.status_code, "Too many files" in response.json()["error"]) == (400, True)


def test_file_names_appear_in_the_answer_only(client, photo):
    names = ["../../etc/passwd", 'a%0d%0aSet-Cookie: b="1"', "ü\u202e.jpg", "n" * 2000]
    for name in names:
        head = f'--b\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n\r\n'
        content = head.encode() + photo + b"\r\n--b--\r\n"
        response = client.post(
            "/identify", content=content, headers={"Content-Type": "multipart/form-data; boundary=b"}
        )
        assert response.status_code == 200, response.text
        assert len(response.json()["images"][0]["name"]) <= 255
        assert set(response.headers) == {"content-length", "content-type", *map(str.lower, SECURITY_HEADERS)}


def test_uploads_stay_in_memory(identifier, photo, monkeypatch):
    def rollover(self: object) -> None:
        raise AssertionError("an upload was written to disk")

    monkeypatch.setattr(SpooledTemporaryFile, "rollover", rollover)
    large = photo + bytes(3_000_000)
    response = TestClient(create_app(identifier)).post("/identify", files=files(large, large))
    assert response.status_code == 200


@pytest.fixture
def blocked(identifier, monkeypatch) -> Iterator[tuple[threading.Event, threading.Event]]:
    """Events: a prediction has started; it may go on."""
    started, released = threading.Event(), threading.Event()
    predict = identifier.predict

    def wait(*args, **kwargs):
        started.set()
        assert released.wait(20)
        return predict(*args, **kwargs)

    monkeypatch.setattr(identifier, "predict", wait)
    yield started, released
    released.set()


def test_a_busy_server_says_so_and_still_answers(client, photo, blocked):
    started, released = blocked
    with ThreadPoolExecutor() as pool:
        first = pool.submit(client.post, "/identify", content=photo)
        assert started.wait(20)
        second = client.post("/identify", content=photo)
        assert (second.status_code, second.headers["Retry-After"]) == (503, "1")
        assert client.get("/health").json() == {"status": "ok"}
        released.set()
        assert first.result().status_code == 200
    assert client.post("/identify", content=photo).status_code == 200


def test_a_body_that_does_not_arrive_in_time(identifier):
    app = create_app(identifier, Limits(timeout=0.01))
    scope = {"type": "http", "method": "POST", "path": "/identify", "headers": [], "query_string": b""}
    sent = []

    async def receive():
        await asyncio.Event().wait()

    async def send(message):
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    assert sent[0]["status"] == 408
    assert "longer than 0.01 s" in json.loads(sent[1]["body"])["error"]


@pytest.mark.parametrize(
    ("content", "is_large"),
    [(encoded(2100, 2000, "PNG"), True), (encoded(2100, 2000, "JPEG"), False), (encoded(1900, 2000, "PNG"), False)],
    ids=["large", "JPEG", "small"],
)
def test_large_images_are_decoded_one_at_a_time(identifier, content, is_large, monkeypatch):
    held = []
    predict = identifier.predict
    monkeypatch.setattr(
        identifier, "predict", lambda *args, **kw: held.append(LARGE_IMAGE.locked()) or predict(*args, **kw)
    )
    assert TestClient(create_app(identifier)).post("/identify", content=content).status_code == 200
    assert held == [is_large]
    assert not LARGE_IMAGE.locked()


# ---------------------------------------------------------------- token and headers


@pytest.mark.parametrize("header", ["", TOKEN, f"Basic {TOKEN}", "Bearer", f"Bearer {TOKEN}x", "Bearer ü"])
def test_a_wrong_token_is_refused(identifier, photo, header):
    client = TestClient(create_app(identifier, token=TOKEN))
    headers = {"Authorization": header.encode()}
    for response in (client.get("/model", headers=headers), client.post("/identify", content=photo, headers=headers)):
        assert (response.status_code, response.headers["WWW-Authenticate"]) == (401, "Bearer")
    for path in ("/", "/health", "/openapi.json", "/page.js"):
        assert client.get(path, headers=headers).status_code == 200


def test_the_right_token_is_accepted(identifier, photo):
    client = TestClient(create_app(identifier, token=TOKEN), headers={"Authorization": f"bearer {TOKEN}"})
    assert client.get("/model").status_code == 200
    assert client.post("/identify", content=photo).status_code == 200


@pytest.mark.parametrize("path", ["/", "/page.css", "/health", "/model", "/nothing", "/identify"])
def test_every_response_has_the_security_headers(client, path):
    headers = client.get(path).headers
    assert {name: headers[name] for name in SECURITY_HEADERS} == SECURITY_HEADERS
    assert "unsafe" not in headers["Content-Security-Policy"]


def test_the_page_loads_nothing_from_other_servers():
    for file in PAGE.iterdir():
        text = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//\w+\.\w|style=|<script>|onclick", text), file.name


def test_both_languages_have_the_same_texts():
    english, italian = (PAGE / "texts.js").read_text(encoding="utf-8").split("  it: {")
    keys = [re.findall(r"^ +(\w+):", text, re.MULTILINE) for text in (english.partition("  en: {")[2], italian)]
    assert keys[0] == keys[1]
    used = re.findall(r'data-(?:text|label)="(\w+)"', (PAGE / "index.html").read_text(encoding="utf-8"))
    assert set(used) <= set(keys[0])


# ---------------------------------------------------------------- the command


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--host", "0.0.0.0"], "host='0.0.0.0' can be reached from other machines. Set --token"),
        (["--host", "::"], "host='::' can be reached from other machines"),
        (["--token", "short"], "token is invalid"),
        (["--token", "with spaces and ümlauts"], "token is invalid"),
        (["--port", "70000"], "port=70000 is out of range"),
        (["--max_requests", "0"], "max_requests=0 is out of range"),
        (["--timeout", "nan"], "timeout=nan is invalid"),
        (["--host", "no.such.host.invalid", "--token", TOKEN], "host='no.such.host.invalid', port=8000: cannot listen"),
    ],
)
def test_wrong_options(options, message, model, capsys):
    assert main(["serve", str(model), *options]) == 2
    assert message in capsys.readouterr().err


def test_a_token_from_the_environment_is_checked(model, monkeypatch, capsys):
    monkeypatch.setenv("ANIMALS_PL_TOKEN", "short")
    assert main(["serve", str(model)]) == 2
    assert "token is invalid" in capsys.readouterr().err


def test_a_port_in_use_and_a_wrong_model(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["serve", "model.onnx", "--port", str(port)]) == 2
    assert f"port={port}: cannot listen (Address already in use" in capsys.readouterr().err
    (tmp_path / "model.onnx").write_text("no model")
    assert main(["serve", str(tmp_path / "model.onnx"), "--port", "0"]) == 2
    assert "it is not an ONNX file" in capsys.readouterr().err


def test_answers_are_sent_without_delay(model, monkeypatch):
    """Nagle's algorithm would hold back the body of an answer until the client has confirmed the head."""
    found = []

    def run(self, sockets):
        found.extend(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for one in sockets)

    monkeypatch.setattr(uvicorn.Server, "run", run)
    assert main(["serve", str(model), "--port", "0"]) == 0
    assert found == [1]


def test_a_missing_package_is_named(tmp_path):
    code = f"import sys; sys.modules['uvicorn'] = None\n{BLOCK}"
    command = [sys.executable, "-c", code, "serve", "model.onnx"]
    found = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert found.returncode == 2
    assert "the package uvicorn is missing. Run: pip install 'animals_pl[serve]'" in found.stderr
