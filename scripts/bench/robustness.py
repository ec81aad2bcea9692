"""Accuracy on corrupted images over cross-validation folds.

    python -m scripts.bench.trust --root DIR --config NAME --output RUNS    # trains the nets, once for each NAME
    python -m scripts.bench.robustness RUNS [OTHER_RUNS]

The numbers are those of ``test --robustness``, several times faster: the corrupted images are made once for all nets,
and OpenVINO computes the features. The first folder is the baseline of the corruption errors. A fold's numbers are kept
as ``foldN-robustness.json`` and not measured again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.corrupted_dataset import CorruptedDataset
from animals_pl.data.corruptions import CORRUPTIONS, SEVERITIES
from animals_pl.data.dataset import default_num_workers, start_worker
from animals_pl.data.tables import read_rows
from animals_pl.evaluation.robustness import corruption_errors, mean_corruption_error, robustness_values
from animals_pl.training.extraction import Extractor
from animals_pl.training.trained import TrainedModel, load_model
from scripts.bench.trust import markdown

Values = dict[str, Any]
"""Result of :func:`robustness_values`."""


class Predictor:
    """A transfer net whose features are computed by an :class:`Extractor`."""

    def __init__(self, model: TrainedModel) -> None:
        self.model = model
        self.extractor = Extractor(model.net)  # type: ignore[arg-type]

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Predicted classes (B,) of images (B, 3, S, S) uint8."""
        chunks = images.split(32)
        views = [*chunks, *(chunk.flip(3) for chunk in chunks)] if self.model.tta == "hflip" else list(chunks)
        features = torch.cat(list(self.extractor(views))).unflatten(0, (-1, len(images)))
        return self.model.net.forward_head(features.flatten(0, 1)).unflatten(0, features.shape[:2]).mean(0).argmax(1)  # type: ignore[operator]


def measure(models: Sequence[TrainedModel], catalog: Catalog) -> list[Values]:
    """Metrics of models with the same preprocessing on a catalog's images and on corruptions of them."""
    first = models[0]
    if any((model.resize, model.size) != (first.resize, first.size) for model in models):
        raise SystemExit("the nets need different image sizes or resize rules. Measure them one at a time.")
    predictors = [Predictor(model) for model in models]
    clean = [torch.cat([predict(images) for images in first.batches(catalog)]) for predict in predictors]
    dataset = CorruptedDataset(catalog, first.resize, first.size)
    loader = DataLoader(dataset, batch_size=None, num_workers=default_num_workers(), worker_init_fn=start_worker)
    corrupted: list[list[Tensor]] = [[] for _ in models]
    for versions in loader:
        for rows, predict in zip(corrupted, predictors, strict=True):
            rows.append(predict(versions))
    shape = (-1, len(CORRUPTIONS), len(SEVERITIES))
    return [
        robustness_values(
            catalog.labels,
            plain.numpy(),
            torch.stack(rows).numpy().reshape(shape),
            list(CORRUPTIONS),
            len(catalog.class_names),
        )
        for plain, rows in zip(clean, corrupted, strict=True)
    ]


def fold_values(folders: Sequence[Path], fold: str) -> list[Values]:
    """Values of each folder's run of a fold, measured unless they are stored."""
    files = [folder / f"{fold}-robustness.json" for folder in folders]
    missing = [file for file in files if not file.is_file()]
    models = [load_model(file.parent / fold / "version_0" / "best.ckpt") for file in missing]
    if models:
        catalog = scan_folder(models[0].data_hparams["root"], argument="root")
        rows = read_rows(folders[0] / f"{fold}.csv", "split", "path", "split")
        test = catalog.select([row["path"] for row in rows if row["split"] == "test"])
        for file, values in zip(missing, measure(models, test), strict=True):
            file.write_text(json.dumps(values, indent=1), encoding="utf-8")
    return [json.loads(file.read_text(encoding="utf-8")) for file in files]


def spread(values: Sequence[float | None], digits: int) -> str:
    """Mean and range over the folds, such as ``0.81 (0.79–0.83)``."""
    numbers = [np.nan if value is None else value for value in values]
    return f"{np.mean(numbers):.{digits}f} ({min(numbers):.{digits}f}–{max(numbers):.{digits}f})"


def accuracy_rows(folds: Sequence[Values]) -> Iterator[list[str]]:
    """A net's accuracy at severity 1, averaged over the severities, and at 5; mean macro recall."""
    clean, mean = ([fold[key] for fold in folds] for key in ("clean", "mean"))
    yield ["none", "", spread([one["acc"] for one in clean], 3), "", spread([one["macro_recall"] for one in clean], 3)]
    for name in CORRUPTIONS:
        found = [fold["corruptions"][name] for fold in folds]
        lowest, highest = ([one["acc"][index] for one in found] for index in (0, -1))
        recall = spread([one["mean_macro_recall"] for one in found], 3)
        yield [name, spread(lowest, 3), spread([one["mean_acc"] for one in found], 3), spread(highest, 3), recall]
    yield ["mean", "", spread([one["acc"] for one in mean], 3), "", spread([one["macro_recall"] for one in mean], 3)]


def error_rows(folds: Sequence[Values], baselines: Sequence[Values]) -> Iterator[list[str]]:
    """Corruption errors of a net in percent of the baseline's."""
    errors = [corruption_errors(own, other) for own, other in zip(folds, baselines, strict=True)]
    for name in CORRUPTIONS:
        yield [name, spread([fold[name] for fold in errors], 0)]
    yield ["mean (mCE)", spread([mean_corruption_error(fold) for fold in errors], 0)]


def main(args: Sequence[str] | None = None) -> None:
    """Measure and print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="folders of runs, as written by scripts.bench.trust")
    folders = parser.parse_args(args).folders
    folds = sorted(file.stem for file in folders[0].glob("fold*.csv"))
    measured = []
    for fold in folds:
        measured.append(fold_values(folders, fold))
        print(f"{fold} of {len(folds)} done", flush=True)
    baseline, *others = zip(*measured, strict=True)
    columns = ("corruption", "accuracy at severity 1", "mean over severities", "5", "mean macro recall")
    for folder, values in zip(folders, (baseline, *others), strict=True):
        print(f"\n{folder.name}, mean and range over {len(folds)} folds\n\n{markdown(columns, accuracy_rows(values))}")
        if values is not baseline:
            print(markdown(("corruption", f"errors in % of {folders[0].name}"), error_rows(values, baseline)))


if __name__ == "__main__":
    main()
