"""Effect of ``fit --data.unlabelled`` on a dataset of which most labels are hidden.

    python -m scripts.bench.unlabelled --root DIR [--config NAME] [--net NAME] [--weights FILE] [--seeds N]
        [--hidden_classes K]

For each seed, a quarter of the images are test images. A fifth of the others are labelled; the rest are unlabelled, in
a flat folder. With ``--hidden_classes``, K of the five largest classes have no labelled and no test images: their
unlabelled images are foreign. ``fit`` trains on the labelled images alone, and then on both; a fifth of the labelled
images are validation images.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from animals_pl.data.catalog import Catalog
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.loading import load_dataset
from animals_pl.data.resize import PREPROCESSING
from animals_pl.data.splits import stratified_split
from animals_pl.data.tables import read_rows
from animals_pl.lightning_cli import run
from animals_pl.training.run import evaluate
from animals_pl.training.trained import load_classifier

TEST, LABELLED, VALIDATION = 0.25, 0.2, 0.2
"""Fractions of all images, of the images that are left, and of the labelled ones."""

METRICS = ("macro_recall/test", "acc/test")


def link(catalog: Catalog, paths: Iterable[str], folder: Path, flat: bool = False) -> Path:
    """Make a folder of links to images, in class folders or all in one."""
    for path in paths:
        file = folder / (path.replace("/", "__") if flat else path)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.symlink_to(catalog.root.resolve() / path)
    return folder


def hidden_classes(catalog: Catalog, count: int, seed: int) -> set[str]:
    """Names of ``count`` of the five largest classes."""
    counts = catalog.counts()
    largest = sorted(counts, key=counts.__getitem__)[-5:]
    return set(np.random.default_rng(seed).choice(largest, count, replace=False))


def make_folders(catalog: Catalog, folder: Path, seed: int, hidden: set[str]) -> dict[str, Path]:
    """Folders of labelled, unlabelled and test images."""
    first = stratified_split(catalog, TEST, seed=seed)
    second = stratified_split(catalog.select(first.train), LABELLED, seed=seed)
    known = {name: [path for path in part if path.partition("/")[0] not in hidden]
             for name, part in {"labelled": second.val, "test": first.val}.items()}  # fmt: skip
    folders = {name: link(catalog, paths, folder / name) for name, paths in known.items()}
    return folders | {"unlabelled": link(catalog, second.train, folder / "unlabelled", flat=True)}


def score(
    folders: dict[str, Path], options: argparse.Namespace, seed: int, unlabelled: bool
) -> tuple[list[float], str]:
    """Metrics on the test images, and what became of the unlabelled ones."""
    args = ["fit", "--config", options.config, "--data.root", str(folders["labelled"]), "--data.seed", str(seed)]
    args += ["--data.val_fraction", str(VALIDATION), "--trainer.accelerator", "cpu"]
    args += ["--trainer.default_root_dir", str(folders["labelled"].parent / "runs")]
    args += ["--model.net", options.net] if options.net else []
    args += ["--model.weights", options.weights] if options.weights else []
    args += ["--data.unlabelled", str(folders["unlabelled"])] if unlabelled else []
    with contextlib.redirect_stdout(None):
        trained = run(args).run
        assert trained is not None
        assert trained.folder is not None
        same = {key: trained.data.hparams[key] for key in PREPROCESSING}
        data = AnimalsDataModule(test_root=str(folders["test"]), **same)
        metrics = evaluate(load_classifier(trained.best_path), data, "test", accelerator="cpu")
    values = [metrics[key] for key in METRICS]
    if not unlabelled:
        return values, ""
    rows = read_rows(trained.folder / "pseudo_labels.csv", "pseudo-labels", "path", "label")
    pairs = [(row["path"].partition("__")[0], row["label"]) for row in rows]
    right = sum(true == label for true, label in pairs)
    foreign = sum(bool(label) for true, label in pairs if not (folders["labelled"] / true).exists())
    labelled = sum(bool(label) for _, label in pairs)
    return values, f"{labelled} of {len(pairs)} pseudo-labelled, {right} right, {foreign} foreign"


def main(args: Sequence[str] | None = None) -> None:
    """Print the metrics of each seed, and the mean differences with 95 % intervals (paired t)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, required=True, help="folder with one folder of images per class")
    parser.add_argument("--config", default="mobilenetv3_small_best", help="configuration with a frozen backbone")
    parser.add_argument("--net", help="net, if not that of the configuration")
    parser.add_argument("--weights", help="file with its weights")
    parser.add_argument("--seeds", type=int, default=12, help="number of seeds, 2 or more")
    parser.add_argument(
        "--hidden_classes", type=int, default=0, choices=range(5), help="number of classes without labels"
    )
    options = parser.parse_args(args)
    catalog = load_dataset(options.root).usable
    scores: list[list[list[float]]] = []
    for seed in range(options.seeds):
        with tempfile.TemporaryDirectory() as folder:
            hidden = hidden_classes(catalog, options.hidden_classes, seed)
            folders = make_folders(catalog, Path(folder), seed, hidden)
            (alone, _), (both, found) = (score(folders, options, seed, unlabelled) for unlabelled in (False, True))
        scores.append([alone, both])
        texts = " -> ".join(" ".join(f"{value:.4f}" for value in values) for values in (alone, both))
        print(f"seed {seed}: macro recall, accuracy {texts}; {found}", flush=True)
    values = np.array(scores)
    for metric, alone, both in zip(METRICS, *values.mean(0), strict=True):
        differences = np.subtract(*values[:, ::-1, METRICS.index(metric)].T)
        low, high = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
        print(f"{metric}: {alone:.4f} -> {both:.4f}, difference {both - alone:+.4f} ({low:+.4f} … {high:+.4f})")


if __name__ == "__main__":
    main()
