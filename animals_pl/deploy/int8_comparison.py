"""Compare an exported file with its int8 variant, on the validation images of the run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.table import Table

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.tables import read_image_rows
from animals_pl.deploy.image_sources import load
from animals_pl.deploy.inference_time import THREADS, milliseconds
from animals_pl.deploy.runtime import Identifier
from animals_pl.errors import UsageError, counted
from animals_pl.evaluation.calibration import expected_calibration_error
from animals_pl.evaluation.metrics import confusion_matrix, summarise
from animals_pl.files import track
from animals_pl.training.trained import TrainedModel

MAX_RECALL_LOSS = 0.005
"""Maximum accepted loss of macro recall."""

BATCH_SIZE = 16


@dataclass(frozen=True)
class Measured:
    """Figures of one file.

    Attributes:
        mb: Size in megabytes (10⁶ bytes).
        acc, macro_recall, ece: Accuracy, macro recall and expected calibration error, in 0…1.
        ms: Milliseconds to resize and classify an image, the fastest call, for each number in ``THREADS``.
    """

    mb: float
    acc: float
    macro_recall: float
    ece: float
    ms: list[float]


@dataclass(frozen=True)
class Int8Comparison:
    """Figures of a float32 file and of its int8 variant.

    Attributes:
        images: Number of validation images.
        float32, int8: Figures of each file.
        agreement: Fraction of the images with the same predicted class, in 0…1.
        largest_difference: Largest difference of a probability.
    """

    images: int
    float32: Measured
    int8: Measured
    agreement: float
    largest_difference: float

    def as_json(self) -> dict[str, Any]:
        """The figures as plain values."""
        return asdict(self)

    def table(self) -> Table:
        """The figures as a table."""
        table = Table(title=counted(self.images, "validation image"), box=box.SIMPLE_HEAD, pad_edge=False)
        for column in ("weights", "float32", "int8"):
            table.add_column(column, justify="left" if column == "weights" else "right")
        pair = (self.float32, self.int8)
        table.add_row("accuracy", *(f"{found.acc:.4f}" for found in pair))
        table.add_row("macro recall", *(f"{found.macro_recall:.4f}" for found in pair))
        table.add_row("ECE", *(f"{found.ece:.4f}" for found in pair))
        table.add_row("same class", "", f"{self.agreement:.2%}")
        table.add_row("largest difference of a probability", "", f"{self.largest_difference:.1e}")
        table.add_row("MB", *(f"{found.mb:.2f}" for found in pair))
        for index, threads in enumerate(THREADS):
            table.add_row(f"ms per image, {counted(threads, 'thread')}", *(f"{found.ms[index]:.1f}" for found in pair))
        return table

    def require_recall(self) -> None:
        """Raise UsageError if the variant has lost more than ``MAX_RECALL_LOSS`` of the macro recall."""
        loss = self.float32.macro_recall - self.int8.macro_recall
        if loss > MAX_RECALL_LOSS + 1e-9:  # differences of fractions are not exact
            raise UsageError(
                f"weights=int8 lowers macro recall by {100 * loss:.1f} points on {self.images:,} validation images "
                f"(allowed: {100 * MAX_RECALL_LOSS:g}), so nothing was written. Export with weights=float32."
            )


@dataclass(frozen=True)
class LoadedFile:
    """An exported file, loaded once for each number in ``THREADS``."""

    identifiers: list[Identifier]
    mb: float

    @classmethod
    def load(cls, file: Path) -> LoadedFile:
        """Load a file; it may be replaced afterwards."""
        identifiers = [Identifier(file, threads=threads, self_check=False) for threads in THREADS]
        return cls(identifiers, file.stat().st_size / 1e6)


def validation_images(model: TrainedModel, run: Path) -> Catalog:
    """The validation images of a run.

    Args:
        model: The trained model.
        run: Folder of the run, with its split.csv.

    Raises:
        UsageError: Images or the split no longer exist, or the model was trained on these images.
    """
    if model.refitted:
        raise UsageError(
            "weights=int8 is measured on the run's validation images, but this checkpoint (refit=true) was trained on "
            "them. Export it with weights=float32, or export best.ckpt."
        )
    root, split = Path(model.data_hparams["root"]), run / "split.csv"
    if not root.is_dir():
        raise _gone(root)
    if not split.is_file():
        raise _gone(split)
    catalog = scan_folder(root, model.class_names)
    rows = read_image_rows(split, "data.split", catalog.root, catalog.paths, "split")
    paths = [row["path"] for row in rows if row["split"] == "val"]
    if gone := set(paths) - set(catalog.paths):
        raise _gone(catalog.root / min(gone))
    return catalog.select(paths)


def _gone(path: Path) -> UsageError:
    return UsageError(
        f"weights=int8 is measured on the run's validation images, but {str(path)!r} does not exist. Restore it, or "
        "export with weights=float32."
    )


def compare(float32: LoadedFile, int8: LoadedFile, validation: Catalog) -> Int8Comparison:
    """Measure a file and its int8 variant.

    Raises:
        UsageError: A validation image cannot be decoded.
    """
    files = (float32, int8)
    expected, found = _probabilities(files, validation)
    image = _image(validation, validation.paths[0], int8)
    expected_ms, found_ms = milliseconds([file.identifiers for file in files], image)
    return Int8Comparison(
        images=len(found),
        float32=Measured(float32.mb, *_metrics(expected, validation), expected_ms),
        int8=Measured(int8.mb, *_metrics(found, validation), found_ms),
        agreement=float((expected.argmax(1) == found.argmax(1)).mean()),
        largest_difference=float(np.abs(found - expected).max()),
    )


def _metrics(probabilities: np.ndarray, validation: Catalog) -> tuple[float, float, float]:
    """Accuracy, macro recall and ECE."""
    labels = validation.labels
    summary = summarise(confusion_matrix(labels, probabilities.argmax(1), probabilities.shape[1]))
    return summary["acc"], summary["macro_recall"], expected_calibration_error(probabilities, labels)


def _probabilities(files: Sequence[LoadedFile], validation: Catalog) -> list[np.ndarray]:
    """Probabilities (N, C) of each file."""
    found: list[list[np.ndarray]] = [[] for _ in files]
    for start in track(range(0, len(validation.paths), BATCH_SIZE), "int8: validation images"):
        images = [_image(validation, path, files[0]) for path in validation.paths[start : start + BATCH_SIZE]]
        for file, batches in zip(files, found, strict=True):
            batches.append(file.identifiers[-1].probabilities(images))
    return [np.concatenate(batches) for batches in found]


def _image(validation: Catalog, path: str, file: LoadedFile) -> np.ndarray:
    """Pixels (H, W, 3) of an image, as ``Identifier.predict`` reads them."""
    image, problem = load(validation.root / path, file.identifiers[0].metadata.input_size)
    if image is None:
        raise UsageError(f"validation image {path!r} cannot be used: {problem}. Export with weights=float32.")
    return np.asarray(image)
