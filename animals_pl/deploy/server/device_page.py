"""Write a page that identifies animals in the browser, also without a network."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from animals_pl.data.decode import read_image
from animals_pl.deploy.metadata import Metadata
from animals_pl.deploy.runtime import Identifier
from animals_pl.deploy.server.answers import model_facts
from animals_pl.deploy.server.app import PAGE
from animals_pl.deploy.server.limits import Limits
from animals_pl.deploy.server.ort_web import ort_files
from animals_pl.errors import UsageError

DEVICE = Path(__file__).with_name("device")

_HEAD = """
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; \
style-src 'self'; img-src 'self' blob:; connect-src 'self' data:; manifest-src 'self'; worker-src 'self'; \
base-uri 'none'; form-action 'none'">
<link rel="manifest" href="manifest.webmanifest">"""


def write_device_page(model: str, output: str, ort_web: str | None) -> None:
    """Write the page with a model.

    Args:
        model: The ONNX file, exported with ``input=image``.
        output: Folder to create.
        ort_web: Folder ``dist`` of the npm package onnxruntime-web. ``None``: npm downloads it.

    Raises:
        UsageError: The model, the folder of onnxruntime-web or the output cannot be used.
    """
    folder = Path(output)
    if folder.exists():
        raise UsageError(f"static={output!r} exists. Choose another folder.")
    metadata = Identifier(model).metadata
    if metadata.input != "image":
        raise UsageError(f"static: {model!r} has input={metadata.input}. Export it with --input image.")
    runtime = ort_files(ort_web)
    files = {file.name: file.read_bytes() for part in (PAGE, DEVICE) for file in sorted(part.iterdir())} | runtime
    files["index.html"] = files["index.html"].replace(b"</title>", b"</title>" + _HEAD.encode())
    files["model.onnx"] = read_image(Path(model))
    files["model.json"] = json.dumps(_facts(metadata)).encode()
    files["service-worker.js"] = _with_version(files)
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    print(f"{output} written ({len(files)} files, {sum(map(len, files.values())) / 1e6:.1f} MB)")


def _facts(metadata: Metadata) -> dict[str, Any]:
    """What ``GET /model`` answers, and what the page needs to run the model. Golden images are data: URLs."""
    golden = [
        {"jpeg": f"data:image/jpeg;base64,{image['jpeg']}", "probabilities": image["probabilities"]}
        for image in metadata.golden_images
    ]
    own = {name: getattr(metadata, name) for name in ("resize", "unknown_threshold", "golden_tolerance")}
    return {**model_facts(metadata, Limits()), **own, "golden_images": golden}


def _with_version(files: dict[str, bytes]) -> bytes:
    """The service worker with a hash of all files and their names."""
    version = hashlib.sha256(b"".join(hashlib.sha256(content).digest() for content in files.values())).hexdigest()
    names = ["./", *(name for name in files if name not in ("index.html", "service-worker.js"))]
    head = f"const VERSION = {json.dumps(version[:12])};\nconst FILES = {json.dumps(names)};\n\n"
    return head.encode() + files["service-worker.js"]
