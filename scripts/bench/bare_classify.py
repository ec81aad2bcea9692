"""The least that ``classify`` must do: decode, resize and classify images with Pillow and onnxruntime alone.

    python -m scripts.bench.bare_classify MODEL FOLDER

One thread per core; nothing is checked or written. ``scripts.bench.classify`` measures it.
"""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image

from animals_pl.data.cores import available_cores
from animals_pl.data.resize import Resize


def main(model: str, folder: str) -> None:
    """Classify the images of a folder with one folder per class, and print their number."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    texts = session.get_modelmeta().custom_metadata_map
    size = json.loads(texts["input_size"])
    resize = Resize(texts["resize"], texts["interpolation"], json.loads(texts["crop_pct"]))

    def classify(file: Path) -> int:
        with Image.open(file) as picture:
            pixels = resize(picture.convert("RGB"), size)
        (probabilities,) = session.run(["probabilities"], {"images": pixels.transpose(2, 0, 1)[np.newaxis]})
        return int(probabilities.argmax())

    with ThreadPoolExecutor(available_cores()) as pool:
        print(sum(1 for _ in pool.map(classify, sorted(Path(folder).glob("*/*")))))


if __name__ == "__main__":
    main(*sys.argv[1:])
