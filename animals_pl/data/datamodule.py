"""Images → uint8 batches (B, 3, S, S) and labels (B,)."""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.decode import Interpolation, Resize, ResizeRule, decode
from animals_pl.data.grouping import group_by, join_groups
from animals_pl.data.info import DataInfo
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.prediction import find_prediction_images
from animals_pl.data.sampling import KeyBatchSampler, SampleKey, Sampling
from animals_pl.data.sources.practice.practice_set import PRACTICE_ROOT, draw_practice_set
from animals_pl.data.splits import SPLITS, load_split, stratified_split
from animals_pl.data.tables import read_rows
from animals_pl.data.transforms import Augmentation
from animals_pl.errors import UsageError


class AnimalsDataset(Dataset[tuple[Tensor, int]]):
    """The images of a catalog as uint8 tensors.

    Args:
        catalog: Which images.
        resize: How they become squares.
        size: Side in pixels of samples that are asked for by a plain index.
        augmentation: What training samples go through.
        seed: The run's seed.
    """

    def __init__(
        self,
        catalog: Catalog,
        resize: Resize,
        size: int,
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ) -> None:
        self.catalog = catalog
        self.resize = resize
        self.size = size
        self.augmentation = augmentation
        self.seed = seed

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.catalog.paths)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, int]:
        """Return the image (3, S, S) uint8 and its label.

        A :class:`SampleKey` gives the augmented training sample that belongs to it; a plain index the
        image as validation sees it (Lightning puts a sampler of such in for ``predict``).
        """
        index = key.index if isinstance(key, SampleKey) else key
        path = self.catalog.root / self.catalog.paths[index]
        if isinstance(key, SampleKey) and self.augmentation is not None:
            # At the scale of the run's own size in its smaller stages, too: they differ in nothing but the resizing.
            image = decode(path, max(self.size, key.size))
            seed = np.random.SeedSequence([self.seed, key.epoch, key.index, key.repeat])
            image = self.augmentation(image, key.size, seed)
        else:
            image = self.resize(decode(path, self.size), self.size)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), int(self.catalog.labels[index])


LOADER_NICENESS = 10
"""How much loader processes yield, 0 to 19. With 10, fine-tuning at 128 pixels took 15 % less time on two cores."""


def default_num_workers() -> int:
    """Cores that this process may use, at most 16."""
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, 16)


class LazyDataLoader(DataLoader[Any]):
    """A loader that starts to work at the first ``next()``.

    Lightning makes the first iterator of a resumed run before it has restored its counters, which the
    batch sampler reads; a plain loader with workers would fetch the wrong batches at once.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of one epoch."""
        yield from super().__iter__()


class AnimalsDataModule(L.LightningDataModule):
    """Splits, sampling, augmentation and loaders for one folder-per-class dataset.

    Args:
        root: Folder with one folder of images per class. ``datasets/practice`` is drawn when it is absent.
        size: Side of the images in pixels, for validation and export (training: see ``ProgressiveResizing``).
        resize: ``stretch`` (squeeze the whole image into the square) or ``crop`` (centre, aspect ratio kept).
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        crop_pct: For ``crop``: the part, in (0, 1], of the shorter side that is kept.
        batch_size: Images per batch and device.
        sampling: ``shuffle`` (each image once an epoch), ``weighted`` (drawn with replacement, all classes
            equally likely) or ``weighted_sqrt`` (in proportion to the square root of their counts).
        augment: ``none``, ``reference``, ``reference_no_flip``, ``light``, ``strong``, or a YAML or JSON file saved
            by albumentations.
        val_fraction: Part of the images for validation, in (0, 1).
        test_fraction: Part of the images for test, in [0, 1).
        seed: Seed of the split, the order and the augmentation.
        split: A ``split.csv`` to reuse instead of drawing a split.
        group_duplicates: Keep copies of one picture (resized, encoded anew, slightly cut, mirrored) in one split, so
            that no validation or test image has been learnt by heart.
        group_by: Keep images that belong together in one split: a regular expression over their paths, such as
            ``camera[0-9]+``, or ``TABLE.csv:COLUMN`` with a column ``path``.
        exclude: A CSV file with a column ``path`` of images to leave out, such as analyze writes.
        test_root: Another folder-per-class dataset, which ``test`` evaluates whole.
        predict_paths: Images and folders of images for ``predict``.
        num_workers: Loader processes; null: one per core, at most 16.

    Raises:
        UsageError: A value is out of range or unknown.
    """

    def __init__(
        self,
        root: str = PRACTICE_ROOT,
        size: int = 224,
        resize: ResizeRule = "stretch",
        interpolation: Interpolation = "bilinear",
        crop_pct: float = 1.0,
        batch_size: int = 64,
        sampling: Sampling = "shuffle",
        augment: str = "none",
        val_fraction: float = 0.3,
        test_fraction: float = 0.0,
        seed: int = 42,
        split: str | None = None,
        group_duplicates: bool = True,
        group_by: str | None = None,
        exclude: str | None = None,
        test_root: str | None = None,
        predict_paths: list[str] | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        for key, value, least in (
            ("size", size, 8),
            ("batch_size", batch_size, 1),
            ("seed", seed, 0),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and not value >= least:  # nan is neither more nor less
                raise UsageError(f"data.{key}={value} is too small; choose {least} or more")
        self.root = Path(root)
        self.size = size
        self.resize = Resize(resize, interpolation, crop_pct)
        self.augmentation = Augmentation(augment, self.resize)
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.size_schedule: Callable[[int], int] = lambda epoch: size
        """Epoch → image side of training batches; replaced by ``ProgressiveResizing``."""
        self.class_names: list[str] = []
        self.catalogs: dict[str, Catalog] = {}
        self.broken: dict[str, str] = {}
        """Path of each image that cannot be decoded whole → the reason. None of them is in a split, but that
        ``predict`` looks at what is left of one that was cut short."""
        self.excluded: set[str] = set()
        """Paths that ``exclude`` names."""
        self.datasets: dict[str, Dataset[tuple[Tensor, int]]] = {}

    def prepare_data(self) -> None:
        """Draw the practice set where it is meant and absent; scan before several processes do."""
        if self.root == Path(PRACTICE_ROOT) and not self.root.exists():
            print(f"drawing the practice set to {self.root}, which takes half a minute")
            draw_practice_set(self.root)
        if self.trainer is not None and self.trainer.world_size > 1 and self.trainer.state.fn == "fit":
            scan(scan_folder(self.root))

    def setup(self, stage: str) -> None:
        """Scan the folders that a stage needs and split them.

        Labels follow the model's class names where it has them (a checkpoint), else the sorted folders.

        Raises:
            UsageError: A folder, the split or the test images are missing or do not suit the model.
        """
        module = self.trainer.lightning_module if self.trainer else None
        known = getattr(module, "class_names", None)
        if stage == "predict":
            self.catalogs["predict"] = self._predict_catalog(known or [])
        elif stage == "test" and self.hparams["test_root"]:
            catalog = self._inspected(scan_folder(self.hparams["test_root"], known, "data.test_root"))
            self.catalogs["test"] = catalog.select([path for path in catalog.paths if path not in self.broken])
        elif "train" not in self.catalogs:
            self._split(scan_folder(self.root, known))
        if stage == "test" and not self.catalogs["test"].paths:
            raise UsageError(
                "there are no test images: data.test_fraction was 0 in training; pass --data.test_root DIR "
                "to test on another folder, or train with --data.test_fraction 0.15"
            )
        self.datasets = {split_name: self.dataset(split_name) for split_name in self.catalogs}
        set_data: Any = getattr(module, "set_data", None)
        if set_data is not None and stage != "predict":
            set_data(self.info)

    def _split(self, catalog: Catalog) -> None:
        hparams = self.hparams
        self.catalog = self._grouped(self._inspected(catalog))
        self.excluded = self._read_exclude(catalog)
        self.decodable = self.catalog.select([path for path in catalog.paths if path not in self.broken])
        left_out = self.broken.keys() | self.excluded
        usable = self.catalog.select([path for path in catalog.paths if path not in left_out])
        for label in np.setdiff1d(catalog.labels, usable.labels):
            raise UsageError(
                f"{str(catalog.root)!r}: every image of the class {catalog.class_names[label]!r} is broken or "
                "excluded; mend some, or remove the folder"
            )
        if hparams["split"]:
            self.split = load_split(hparams["split"], usable, left_out)
        else:
            self.split = stratified_split(usable, hparams["val_fraction"], hparams["test_fraction"], hparams["seed"])
        self.class_names = catalog.class_names
        self.catalogs |= {split_name: usable.select(getattr(self.split, split_name)) for split_name in SPLITS}

    def _inspected(self, catalog: Catalog) -> Catalog:
        """Note which images are broken, and return the catalog with content hashes and groups of duplicates."""
        manifest = scan(catalog).manifest
        problems = zip(catalog.paths, manifest["problem"], strict=True)
        self.broken = {path: problem for path, problem in problems if problem}
        return replace(catalog, sha256=manifest["sha256"].tolist(), groups=manifest["duplicate_group"].to_numpy())

    def _grouped(self, catalog: Catalog) -> Catalog:
        """Return the catalog with the groups that a split may not divide."""
        groups = catalog.groups if self.hparams["group_duplicates"] else np.full_like(catalog.groups, -1)
        if self.hparams["group_by"]:
            groups = join_groups(groups, group_by(self.hparams["group_by"], catalog))
        return replace(catalog, groups=groups)

    def _read_exclude(self, catalog: Catalog) -> set[str]:
        file = self.hparams["exclude"]
        if not file:
            return set()
        named = {row["path"] for row in read_rows(Path(file), "data.exclude", "path")} - {""}
        unknown = sorted(named - set(catalog.paths))
        if unknown:
            rank_zero_warn(
                f"data.exclude={file!r} names {len(unknown)} images that are not in {str(catalog.root)!r} "
                f"(first: {unknown[0]})"
            )
        return named & set(catalog.paths)

    @property
    def info(self) -> DataInfo:
        """What the model needs to know; available after :meth:`setup`."""
        catalog = next(iter(self.catalogs.values()))
        counts = tuple(self.catalogs["train"].counts().values()) if "train" in self.catalogs else ()
        return DataInfo(tuple(catalog.class_names), counts, self.size, self.hparams["sampling"])

    def save_split(self, folder: Path) -> None:
        """Write ``split.csv`` into a folder, unless the split was read from that very file."""
        file = folder / "split.csv"
        if file.resolve() != Path(self.hparams["split"] or "").resolve():
            file.parent.mkdir(parents=True, exist_ok=True)
            self.split.save(file, self.catalog)

    def _predict_catalog(self, class_names: list[str]) -> Catalog:
        found = find_prediction_images([Path(path) for path in self.hparams["predict_paths"] or []])
        self.broken = found.broken
        return found.catalog(class_names)

    def _position(self) -> tuple[int, int]:
        """Return the epoch and the number of its batches that are done, from Lightning's own counters."""
        if self.trainer is None:
            return 0, 0
        if self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]  # the same batches in every epoch
            return 0, 0
        loop = self.trainer.fit_loop
        epochs_done: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return epochs_done, loop.epoch_loop.batch_progress.current.ready

    def dataset(self, split_name: str) -> AnimalsDataset:
        """Return the images of a split; those for training come augmented when asked for by key."""
        augmentation = self.augmentation if split_name == "train" else None
        return AnimalsDataset(self.catalogs[split_name], self.resize, self.size, augmentation, self.hparams["seed"])

    def train_sampler(self, position: Callable[[], tuple[int, int]]) -> KeyBatchSampler:
        """Return what decides which samples make up the training batches from a position on."""
        return KeyBatchSampler(
            self.catalogs["train"].labels,
            self.hparams["batch_size"],
            self.hparams["sampling"],
            self.hparams["seed"],
            self.size_schedule,
            position,
            *self._rank_and_world(),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of augmented training batches."""
        sampler = self.train_sampler(self._position)
        return LazyDataLoader(self.datasets["train"], batch_sampler=sampler, **self._loader_options("train"))

    def val_dataloader(self) -> DataLoader[Any]:
        """Return the loader of validation batches."""
        return self.evaluation_loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Return the loader of test batches."""
        return self.evaluation_loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the images to predict, labelled -1."""
        return self.evaluation_loader("predict")

    def evaluation_loader(self, split_name: str) -> DataLoader[Any]:
        """Return a loader of a split as it is: in order, not augmented, each image once over all processes."""
        rank, world_size = self._rank_and_world()
        # A distributed sampler would pad, and count some images twice.
        return self.loader(split_name, range(rank, len(self.catalogs[split_name].paths), world_size))

    def loader(self, split_name: str, keys: Sequence[SampleKey | int]) -> DataLoader[Any]:
        """Return a loader of certain samples of a split, in their order."""
        batch_size = self.hparams["batch_size"]
        return DataLoader(
            self.datasets[split_name], batch_size=batch_size, sampler=keys, **self._loader_options(split_name)
        )

    def _rank_and_world(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _loader_options(self, split_name: str) -> dict[str, Any]:
        # Only decoding is work for other processes; features are in memory already.
        num_workers = self.num_workers if isinstance(self.datasets[split_name], AnimalsDataset) else 0
        return {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": self.trainer is not None and self.trainer.strategy.root_device.type == "cuda",
            "worker_init_fn": _start_loader_process,
            # A generator of its own: making an iterator then leaves torch's global random state alone.
            "generator": torch.Generator().manual_seed(self.hparams["seed"]),
        }


def _start_loader_process(worker: int) -> None:
    """Keep OpenCV from starting a thread per core, yield to training, and give back what the main process had freed.

    Where the net runs on the same cores, each of its threads waits for the slowest, so that one second taken from one
    of them costs a second of all. A process just forked would otherwise keep the activations of the batches before it,
    0.8 GB in fine-tuning.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):
        os.nice(LOADER_NICENESS)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
