"""Compare scores that tell known classes from unknown images: AUROC and false positive rate at 95 % true positive rate.

    python -m scripts.bench.unknown --root DIR --config mobilenetv3_small_best [--net NAME] [--weights FILE]

Each cross-validation fold is the test split once, as in ``scripts.bench.trust``. The known images are the test images.
The unknown images are those of each class in turn, left out of training; the practice drawings; and corrupted test
images. The backbone must be frozen and the head linear.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageFilter
from rich import box
from rich.console import Console
from rich.table import Table
from scipy.special import logsumexp
from sklearn.covariance import ledoit_wolf
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.metrics.pairwise import cosine_similarity
from torch import Tensor

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.sources.practice.practice_set import draw_practice_set
from animals_pl.data.tables import read_rows, write_table
from animals_pl.evaluation.calibration import Calibration
from animals_pl.lightning_cli import run
from animals_pl.training.extraction import Extractor
from animals_pl.training.trained import TrainedModel
from scripts.bench.trust import write_splits

Change = Callable[[Image.Image, np.random.Generator], Image.Image]


def _noise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture) + rng.normal(0, 80, (picture.height, picture.width, 3))
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def _jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=1)
    return Image.open(content)


CORRUPTIONS: dict[str, Change] = {
    "noise": _noise,
    "blur": lambda picture, rng: picture.filter(ImageFilter.GaussianBlur(8)),
    "JPEG": _jpeg,
}
"""Kind of corruption → the change of an image of the net's size: σ = 80 of 255; σ = 8 pixels; quality 1."""


def corrupted(images: Tensor, change: Change, rng: np.random.Generator) -> Tensor:
    """Changed copy of images (B, 3, S, S) uint8."""
    pictures = [change(Image.fromarray(image), rng) for image in images.permute(0, 2, 3, 1).contiguous().numpy()]
    return torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures])).permute(0, 3, 1, 2)


def features_of(
    model: TrainedModel, extractor: Extractor, catalog: Catalog, change: Change | None = None
) -> np.ndarray:
    """Features (N, F) of a catalog's images; with ``tta=hflip``, averaged with those of the horizontal flips."""
    rng, total = np.random.default_rng(0), []
    for images in model.batches(catalog):
        batch = images if change is None else corrupted(images, change, rng)
        views = [batch, batch.flip(3)] if model.tta == "hflip" else [batch]
        total.append(torch.stack(list(extractor(views))).mean(0))
    return torch.cat(total).numpy()


@dataclass(frozen=True)
class Images:
    """Features (N, F) and logits (N, C) of images."""

    features: np.ndarray
    logits: np.ndarray


Score = Callable[[Images], np.ndarray]


def scores(train: Images, labels: np.ndarray, calibration: Calibration) -> dict[str, Score]:
    """Name → score of images (N,), higher for known classes; fitted to training images with ``labels`` (N,)."""
    means = np.stack([train.features[labels == label].mean(0) for label in np.unique(labels)])
    precision = np.linalg.inv(ledoit_wolf(train.features - means[labels], assume_centered=True)[0])

    def mahalanobis(images: Images) -> np.ndarray:
        offsets = images.features[:, None] - means
        return -np.einsum("nkf,fg,nkg->nk", offsets, precision, offsets, optimize=True).min(1)

    assert calibration.train_counts is not None
    trained = calibration.with_target(calibration.train_counts)
    return {
        "maximum probability": lambda images: calibration.probabilities(images.logits).max(1),
        "maximum probability, training prior": lambda images: trained.probabilities(images.logits).max(1),
        "maximum logit": lambda images: images.logits.max(1),
        "maximum logit, training prior": lambda images: (images.logits + trained.log_shift).max(1),
        "energy": lambda images: logsumexp(images.logits, axis=1),
        "energy, training prior": lambda images: logsumexp(images.logits + trained.log_shift, axis=1),
        "cosine to class means": lambda images: cosine_similarity(images.features, means).max(1),
        "Mahalanobis distance": mahalanobis,
    }


@dataclass(frozen=True)
class Separation:
    """How well a score tells known from unknown images: AUROC and shares above the threshold, in 0…1.

    Attributes:
        auroc: Area under the ROC curve.
        fpr: Share of the unknown images above the threshold that 95 % of the known ones reach.
        macro_tpr: Share of the known images above it, as the mean over their classes.
    """

    auroc: float
    fpr: float
    macro_tpr: float


Fold = Literal["mean", "min", "max"]
"""How the values of the folds are summarised: a function of NumPy."""

Result = dict[str, dict[str, Separation]]
"""Score → kind of unknown images → separation."""


def separation(known: np.ndarray, labels: np.ndarray, unknown: np.ndarray) -> Separation:
    """Separation of scores of known images (N,), with their classes (N,), from those of unknown ones (M,)."""
    truth = np.repeat([1, 0], [len(known), len(unknown)])
    both = np.concatenate([known, unknown])
    false, true, thresholds = roc_curve(truth, both, drop_intermediate=False)
    point = np.argmax(true >= 0.95 - 1e-9)
    accepted = known >= thresholds[point]
    macro_tpr = np.mean([accepted[labels == label].mean() for label in np.unique(labels)])
    return Separation(float(roc_auc_score(truth, both)), float(false[point]), float(macro_tpr))


def train_without(
    root: Path, left_out: str | None, rows: Sequence[dict[str, str]], arguments: Sequence[str], folder: Path
) -> TrainedModel:
    """Train on all classes but one, with the paths and splits of ``rows``; the run is in ``folder``."""
    images = folder.parent / "images"  # the same in all runs, so that the scan of its images is cached
    shutil.rmtree(images, ignore_errors=True)
    images.mkdir()
    folder.mkdir()
    for source in sorted(root.iterdir()):
        if source.is_dir() and source.name != left_out:
            (images / source.name).symlink_to(source.resolve())
    split = folder / "split.csv"
    write_table(pd.DataFrame(rows), split)
    options = ["--data.root", str(images), "--data.split", str(split), "--data.val_fraction", "null"]
    options += ["--trainer.default_root_dir", str(folder), "--trainer.logger", "false"]
    with (
        (folder / "fit.txt").open("w", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        done = run(["fit", *arguments, *options]).run
    assert done is not None
    return done.best


class Pool:
    """Images of a folder, and the measurements on them.

    Args:
        root: Folder with one folder of images per class.
        arguments: Options of fit.
        scratch: A folder for runs and drawings.
    """

    def __init__(self, root: Path, arguments: Sequence[str], scratch: Path) -> None:
        self.root, self.arguments, self.scratch = root, arguments, scratch
        self.catalog = scan_folder(root, argument="root")
        self.drawings = scan_folder(draw_practice_set(scratch / "drawings"), argument="root")
        self._features: dict[str, np.ndarray] = {}

    def measure(self, split: Path) -> Result:
        """Train on a split, and once without each class."""
        found: Result = {}
        rows = read_rows(split, "split", "path", "split")
        row_of = {path: row for row, path in enumerate(self.catalog.paths)}
        for left_out in (None, *self.catalog.class_names):
            kept = [row for row in rows if Path(row["path"]).parts[0] != left_out]
            model = train_without(self.root, left_out, kept, self.arguments, self.scratch / f"{split.stem}-{left_out}")
            extractor = Extractor(model.net)  # type: ignore[arg-type]
            if not self._features:  # the frozen backbone is the same in every run
                catalogs = {"images": self.catalog, "drawings": self.drawings}
                self._features = {name: features_of(model, extractor, of) for name, of in catalogs.items()}
            test, train = (
                np.array([row_of[row["path"]] for row in kept if row["split"] == name]) for name in ("test", "train")
            )
            images = self._features["images"]
            if left_out is None:
                catalog = self.catalog.select([self.catalog.paths[row] for row in test])
                unknown = {kind: features_of(model, extractor, catalog, change) for kind, change in CORRUPTIONS.items()}
                unknown["drawings"] = self._features["drawings"]
            else:
                unknown = {left_out: images[self.catalog.labels == self.catalog.class_names.index(left_out)]}
            labels = np.unique(self.catalog.labels[train], return_inverse=True)[1]
            for name, score in scores(_images(model, images[train]), labels, model.calibration).items():
                known, classes = score(_images(model, images[test])), self.catalog.labels[test]
                for kind, features in unknown.items():
                    others = score(_images(model, features))
                    found.setdefault(name, {})[kind] = separation(known, classes, others)
        return found


def _images(model: TrainedModel, features: np.ndarray) -> Images:
    with torch.inference_mode():
        logits = model.net.forward_head(torch.from_numpy(features))  # type: ignore[operator]
    return Images(features.astype(float), logits.double().numpy())


def table(found: Sequence[Result], kinds: dict[str, Sequence[str]], fold: Fold) -> Table:
    """Scores with their separation in percent: means over the ``kinds`` of a column, then ``fold`` over the folds."""
    title = f"{fold} over the folds: AUROC / FPR at 95 % TPR, in %; macro TPR: mean recall of the known classes, in %"
    result = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)
    result.add_column("score", no_wrap=True)
    for column in (*kinds, "mean", "macro TPR"):
        result.add_column(column, justify="right")
    over_folds = getattr(np, fold)
    for name in found[0]:
        cells = np.array(
            [
                [np.mean([astuple(one[name][kind]) for kind in members], 0) for members in kinds.values()]
                for one in found
            ]
        )  # (folds, columns, 3)
        cells = np.concatenate([cells, cells.mean(1, keepdims=True)], 1)
        numbers = [f"{100 * auroc:.1f} / {100 * fpr:.1f}" for auroc, fpr, _ in over_folds(cells, 0)]
        macro = over_folds([np.mean([kind.macro_tpr for kind in one[name].values()]) for one in found])
        result.add_row(name, *numbers, f"{100 * macro:.1f}")
    return result


def saved(file: Path, measure: Callable[[], Result]) -> Result:
    """Result in a JSON file, measured and written unless the file exists."""
    if not file.is_file():
        found = {name: {kind: asdict(one) for kind, one in kinds.items()} for name, kinds in measure().items()}
        file.write_text(json.dumps(found, indent=1), encoding="utf-8")
    values = json.loads(file.read_text(encoding="utf-8"))
    return {name: {kind: Separation(**one) for kind, one in kinds.items()} for name, kinds in values.items()}


def main(args: Sequence[str] | None = None) -> None:
    """Measure a configuration and print tables of the kinds of unknown images, and of the classes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--config", required=True, help="configuration, as for fit")
    parser.add_argument("--net", help="timm model in place of the configuration's")
    parser.add_argument("--weights", help="its weights, as for fit")
    parser.add_argument("--folds", type=int, default=5, help="number of folds")
    parser.add_argument("--seed", type=int, default=0, help="seed of the folds")
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("checkpoints/unknown"),
        help="folder of the results; folds that are there are not measured again",
    )
    options = parser.parse_args(args)
    arguments = ["--config", options.config]
    for key in ("net", "weights"):
        if value := getattr(options, key):
            arguments += [f"--model.{key}", value]
    options.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        pool = Pool(options.root, arguments, Path(scratch))
        found = []
        for split in write_splits(options.root, options.folds, options.seed, options.output):
            found.append(saved(split.with_suffix(".json"), lambda split=split: pool.measure(split)))  # type: ignore[misc]
            print(f"{split.stem} of {options.folds} done", flush=True)
        classes = pool.catalog.class_names
    console = Console(width=200)
    columns: dict[str, Sequence[str]] = {"left-out classes": classes, "drawings": ["drawings"]}
    for fold in get_args(Fold):
        console.print(table(found, columns | {kind: [kind] for kind in CORRUPTIONS}, fold))
        console.print(table(found, {name: [name] for name in classes}, fold))


if __name__ == "__main__":
    main()
