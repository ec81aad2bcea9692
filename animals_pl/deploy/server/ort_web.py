"""The files of the npm package onnxruntime-web that run a model in a browser. Standard library only."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path

from animals_pl.errors import UsageError, listed

VERSION = "1.30.0"

SHA512 = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""SHA-512 of the package in base64, as in npm's ``dist.integrity``."""

ORT_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
"""Files of the package's folder ``dist`` that the page needs: WebAssembly, without WebGPU."""

MOST_SECONDS = 600
"""Maximum duration of the download."""


def ort_files(folder: str | None) -> dict[str, bytes]:
    """Names and contents of :data:`ORT_FILES`.

    Args:
        folder: Folder ``dist`` of the package. ``None``: the package is downloaded with npm, and its hash is checked.

    Raises:
        UsageError: A file is missing, the package cannot be downloaded, or it has another hash.
    """
    return _from_package(_download()) if folder is None else _from_folder(folder)


def _from_folder(folder: str) -> dict[str, bytes]:
    if missing := [name for name in ORT_FILES if not (Path(folder) / name).is_file()]:
        raise UsageError(f"ort_web={folder!r} has no {listed(missing)}. Pass the folder dist of onnxruntime-web.")
    return {name: (Path(folder) / name).read_bytes() for name in ORT_FILES}


def _download() -> bytes:
    """The package, downloaded with npm, which uses the registry and the proxy that are set on this machine."""
    npm, package = shutil.which("npm"), f"onnxruntime-web@{VERSION}"
    remedy = f"Pass --ort_web, the folder dist of {package}."
    if npm is None:
        raise UsageError(f"static needs {package}, which is downloaded with npm, but npm is not installed. {remedy}")
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", package, "--loglevel=error"]
        try:
            subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True, timeout=MOST_SECONDS)
            (file,) = Path(folder).glob("*.tgz")
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            lines = str(getattr(error, "stderr", None) or error).strip().splitlines()
            raise UsageError(f"static: npm cannot download {package} ({lines[0]}). {remedy}") from error
        content = file.read_bytes()
    if base64.b64encode(hashlib.sha512(content).digest()).decode() != SHA512:
        raise UsageError(f"static: the {package} that npm downloaded is not the tested one. {remedy}")
    return content


def _from_package(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as package:
        members = {name: package.extractfile(f"package/dist/{name}") for name in ORT_FILES}
        return {name: member.read() for name, member in members.items() if member is not None}
