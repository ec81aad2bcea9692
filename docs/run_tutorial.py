"""Execute tutorial.ipynb in an empty folder and save it with small outputs.

pip install nbclient nbformat ipykernel
python docs/run_tutorial.py
"""

from __future__ import annotations

import base64
import io
import re
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

TUTORIAL = Path(__file__).with_name("tutorial.ipynb")
ANSI = re.compile(r"\x1b\[[0-9;]*m")


def small_png(encoded: str) -> str:
    """A base64 PNG with 256 colours."""
    buffer = io.BytesIO()
    with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
        picture.convert("RGB").quantize(256, kmeans=2).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()


def clean(outputs: list[Any], folder: str) -> list[Any]:
    """Outputs as plain text and small images: no HTML, colours, warnings and ``folder``; one block of text per cell."""
    cleaned: list[Any] = []
    for output in outputs:
        data = output.get("data", {})
        if "image/png" in data:
            data = {"image/png": small_png(data["image/png"]), "text/plain": data["text/plain"]}
            cleaned.append(nbformat.v4.new_output("display_data", data))
        elif output.output_type == "execute_result":
            cleaned.append(output)
        elif output.get("name") != "stderr":
            lines = ANSI.sub("", output.get("text") or data["text/plain"]).splitlines()
            text = "".join(f"{line.rstrip()}\n" for line in lines).replace(f"{folder}/", "")
            if cleaned and cleaned[-1].output_type == "stream":
                cleaned[-1].text += text
            else:
                cleaned.append(nbformat.v4.new_output("stream", name="stdout", text=text))
    return cleaned


def main() -> None:
    """Execute, clean and save."""
    notebook = nbformat.read(TUTORIAL, 4)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(notebook, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = clean(cell.outputs, folder)
    notebook.metadata["language_info"] = {"name": "python"}
    nbformat.write(notebook, TUTORIAL)


if __name__ == "__main__":
    main()
