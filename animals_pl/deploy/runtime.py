"""Identify animals with an exported file. Needs numpy, Pillow and onnxruntime only."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from animals_pl.data.decode import read_image
from animals_pl.data.problems import decode_checked
from animals_pl.deploy.engines import CPU, OUTPUTS, EngineName, load_engine, require_engine
from animals_pl.deploy.image_sources import Pixels, Source, as_list, expand_folders, load, require_pixels
from animals_pl.deploy.metadata import GoldenImage, Metadata, digest, parse_metadata, read_texts
from animals_pl.errors import UsageError, listed, one_line, require_range, require_types
from animals_pl.evaluation.top_k import UNKNOWN, Prediction, top_k_prediction
from animals_pl.hub import ONNX_FILE, local_file

MOST_ASPECT = 50
"""Images are cut to at most this aspect ratio before a graph resizes and crops them, which could take gigabytes."""

_EXTERNAL_DATA = b"\n\x08location\x12"
"""The key of a path to a file with weights, in protobuf: field 1, 8 characters, and the tag of the value."""


class Prepared(NamedTuple):
    """An image to classify.

    Attributes:
        path: Its file.
        pixels: See :meth:`Identifier.prepare`; None if it cannot be decoded.
        problem: What is wrong with the file; empty if nothing.
    """

    path: str
    pixels: np.ndarray | None
    problem: str


class Identifier:
    """A model exported by ``animals_pl export``, ready to predict.

    The file is checked first: it must be complete, and reproduce the probabilities of its golden images.

    Args:
        file: The ONNX file, or ``hf://OWNER/NAME[@REVISION]`` for model.onnx of a model on the Hugging Face Hub.
        engine: ``onnxruntime``, or ``openvino`` if it is installed.
        providers: Names of onnxruntime's execution providers, the preferred one first.
        threads: Threads of a call. Default: one per core.
        self_check: Compare with the golden images, which takes the time of 8 images.

    Attributes:
        metadata: Metadata of the file: class names, preprocessing, metrics, threshold for unknown images.

    Raises:
        UsageError: The file was not written by ``export``, is damaged or altered, or does not reproduce its golden
            images; or the engine or a provider is not available.

    Example:
        >>> from animals_pl import Identifier, export
        >>> exported = export("checkpoints/my_animals/version_0/best.ckpt", "animals.onnx")
        animals.onnx written (...
        >>> identifier = Identifier("animals.onnx")
        >>> prediction, broken = identifier.predict(["a.jpg", "broken.jpg"])
        >>> prediction.label in identifier.class_names, broken.problem
        (True, 'not an image in a supported format')
    """

    def __init__(
        self,
        file: str | Path,
        *,
        engine: EngineName = "onnxruntime",
        providers: Sequence[str] = (CPU,),
        threads: int | None = None,
        self_check: bool = True,
    ) -> None:
        require_types(Identifier.__init__, {"engine": engine})
        require_engine(engine, providers)
        if threads is not None:
            require_range("threads", threads, 1, 1024)
        file = local_file(file, "file", ONNX_FILE)
        try:
            content, self.metadata = _read(file)
            if engine == "openvino" and self.metadata.input == "image":
                raise UsageError("it has input=image, and OpenVINO resizes without antialiasing")
            self._engine = load_engine(engine, content, threads, providers)
            self._require_interface()
            if self_check:
                self.check_golden_images()
        except UsageError as error:
            reason = textwrap.shorten(one_line(error), 300, placeholder=" …").rstrip(".")
            remedy = "Choose engine=onnxruntime, or write it" if engine == "openvino" else "Write it"
            raise UsageError(
                f"file={str(file)!r} cannot be used: {reason}. {remedy} again with 'python -m animals_pl export'."
            ) from error

    @property
    def class_names(self) -> list[str]:
        """C names in label order."""
        return self.metadata.class_names

    def predict(
        self, images: Source | Sequence[Source], *, top_k: int = 3, batch_size: int = 16, unknown: bool = False
    ) -> list[Prediction]:
        """Predict images.

        Args:
            images: Files, folders (searched at any depth), contents of files, RGB arrays (H, W, 3) uint8, or Pillow
                images; one or several.
            top_k: Classes per image in :attr:`Prediction.top`.
            batch_size: Images per call of a file exported with ``input=batch``.
            unknown: Label images ``"unknown"`` if their score is above ``metadata.unknown_threshold``.

        Returns:
            One prediction per image, in the order given; its path is empty if the image is not a file. An image that
            cannot be decoded has a problem instead of a label.

        Raises:
            UsageError: A value has the wrong type, shape or range, or the file has no threshold for ``unknown``.
        """
        require_types(Identifier.predict, {"top_k": top_k, "batch_size": batch_size, "unknown": unknown})
        require_range("top_k", top_k, 1, math.inf)
        require_range("batch_size", batch_size, 1, 2**16)
        threshold = self._threshold() if unknown else math.inf
        sources = expand_folders(as_list(images))
        starts = range(0, len(sources), batch_size)
        batches = (self.rank(list(map(self._load, sources[start : start + batch_size])), top_k) for start in starts)
        predictions = [prediction for batch in batches for prediction in batch]
        return [prediction.with_unknown(threshold) for prediction in predictions]

    def probabilities(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Calibrated class probabilities (N, C) float32 of RGB images (H, W, 3) uint8, one or several.

        Raises:
            UsageError: An image has another type or shape.
        """
        return self.outputs(images)[0]

    def outputs(self, images: np.ndarray | Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`probabilities` (N, C), and unknown scores (N,) float32."""
        return self.run([self.prepare(require_pixels(image)) for image in as_list(images)])

    def prepare(self, image: Pixels) -> np.ndarray:
        """An image as the graph takes it: uint8 (3, S, S), or (H, W, 3) if the graph resizes."""
        if self.metadata.input == "image":
            return self._cut(np.asarray(image))
        return self.metadata.rule(image, self.metadata.input_size).transpose(2, 0, 1)

    def run(self, prepared: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """:meth:`outputs` of images that were prepared."""
        if not prepared:
            return np.empty((0, len(self.class_names)), np.float32), np.empty(0, np.float32)
        if self.metadata.input == "image":
            runs = [self._engine(image) for image in prepared]
            probabilities, scores = (np.concatenate(parts) for parts in zip(*runs, strict=True))
        else:
            probabilities, scores = self._engine(np.stack(prepared))
        return probabilities, scores

    def rank(self, images: Sequence[Prepared], top_k: int) -> list[Prediction]:
        """One prediction per image, with the most probable classes."""
        probabilities, scores = self.run([one.pixels for one in images if one.pixels is not None])
        rows = iter(zip(probabilities, scores.tolist(), strict=True))
        outputs = [None if one.pixels is None else next(rows) for one in images]
        return [
            top_k_prediction(one.path, output, self.class_names, top_k, one.problem)
            for one, output in zip(images, outputs, strict=True)
        ]

    def check_golden_images(self) -> None:
        """Compare the probabilities of the golden images with those in the file.

        Raises:
            UsageError: They differ by more than ``golden_tolerance``, or a golden image is damaged.
        """
        for number, values in enumerate(self.metadata.golden_images, start=1):
            try:
                golden = GoldenImage.from_json(values)
                image, problem = decode_checked(golden.jpeg, self.metadata.input_size)
            except (KeyError, TypeError, ValueError) as error:
                raise UsageError(f"golden image {number} is damaged ({one_line(error)})") from error
            if image is None or problem or golden.probabilities.shape != (len(self.class_names),):
                raise UsageError(f"golden image {number} is damaged ({problem or 'number of probabilities'})")
            try:
                found = self.probabilities(image)[0]
            except Exception as error:  # onnxruntime may raise any exception
                raise UsageError(f"its graph fails ({one_line(error)})") from error
            difference = np.abs(found - golden.probabilities).max() if found.shape == golden.probabilities.shape else 1
            if not difference <= self.metadata.golden_tolerance:  # also true for NaN
                raise UsageError(
                    f"it gives other probabilities for golden image {number}: they differ by {difference:.2g} "
                    f"(allowed: {self.metadata.golden_tolerance:g})"
                )

    def _threshold(self) -> float:
        if self.metadata.unknown_threshold is None:
            raise UsageError("unknown=true: the file has no threshold for unknown images. Remove unknown.")
        if own := [name for name in self.class_names if name.casefold() == UNKNOWN]:
            raise UsageError(f"unknown=true: the model has a class {own[0]!r}. Remove unknown.")
        return self.metadata.unknown_threshold

    def _load(self, source: Source) -> Prepared:
        image, problem = load(source, self.metadata.input_size)
        path = str(source) if isinstance(source, str | Path) else ""
        return Prepared(path, None if image is None else self.prepare(image), problem)

    def _cut(self, image: np.ndarray) -> np.ndarray:
        """The middle of an extremely long image, of which the graph crops the center."""
        if self.metadata.resize != "crop":
            return image
        limit = MOST_ASPECT * min(image.shape[:2])
        top, left = (max(0, side - limit) // 2 for side in image.shape[:2])
        return image[top : top + limit, left : left + limit]

    def _require_interface(self) -> None:
        expected = {"batch": ["images"], "image": ["image"]}[self.metadata.input]
        inputs, outputs = self._engine.inputs, self._engine.outputs
        if inputs != expected or not {*OUTPUTS} <= {*outputs}:
            raise UsageError(f"it has the inputs {listed(inputs)} and the outputs {listed(outputs)}")


def _read(file: str | Path) -> tuple[bytes, Metadata]:
    """Content of a file and its metadata. The content is checked before onnxruntime parses it."""
    try:
        content = read_image(Path(file))
        texts, sha256 = read_texts(content), digest(content)
    except OSError as error:
        raise UsageError(f"it cannot be read ({error.strerror})") from error
    except ValueError as error:
        raise UsageError(f"it is not an ONNX file, or is incomplete ({one_line(error)})") from error
    metadata = parse_metadata(texts)
    if _EXTERNAL_DATA in content:
        raise UsageError("its weights are in another file (external data)")
    if metadata.sha256 != sha256:
        raise UsageError("it was altered after the export")
    return content, metadata
