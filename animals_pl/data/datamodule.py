"""The Lightning datamodule: the loaders of one dataset."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.augmentation import Augmentation
from animals_pl.data.catalog import Catalog, scan_folder
from animals_pl.data.dataset import LIMITS, AnimalsDataset, LazyDataLoader, default_num_workers, start_worker
from animals_pl.data.info import DataInfo
from animals_pl.data.inspection.manifest import scan
from animals_pl.data.loading import images_to_test, load_dataset, split_dataset
from animals_pl.data.prediction import find_prediction_images
from animals_pl.data.resize import Interpolation, Resize, ResizeRule
from animals_pl.data.sampling import KeyBatchSampler, Sampling
from animals_pl.data.sources.practice.practice_set import PRACTICE_ROOT, draw_practice_set
from animals_pl.data.splits import SPLITS, Split
from animals_pl.data.unlabelled import scan_unlabelled
from animals_pl.errors import UsageError, require_range, require_types
from animals_pl.files import printable

CPU_BATCH = 16
"""Images per batch for inference on a CPU: as fast as 64, with 200 MB less memory."""

FEATURE_BATCH = 4096
"""Cached features per validation batch. Large, because the overhead per batch exceeds the computation."""


class AnimalsDataModule(L.LightningDataModule):
    """Splits, sampling, augmentation and loaders for one folder-per-class dataset.

    Args:
        root: Folder with one folder of images per class, or with the folders ``train``, ``val`` and ``test``, each with
            class folders; they then define the split. The default, ``datasets/practice``, is generated if missing.
        size: Side of validation, test and export images in pixels (for training see ``ProgressiveResizing``).
        resize: ``stretch`` (resize to a square) or ``crop`` (center crop, aspect ratio kept).
        interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
        crop_pct: Fraction of the shorter side kept by the center crop, in (0, 1]. As in timm.
        batch_size: Images per batch and device.
        sampling: ``shuffle`` (each image once per epoch), ``weighted`` (with replacement, all classes equally
            likely) or ``weighted_sqrt`` (with replacement, classes in proportion to the square root of their count).
        augment: ``none``, ``reference``, ``reference_no_flip``, ``light``, or a YAML or JSON file saved
            by albumentations.
        val_fraction: Fraction of the images for validation, in (0, 1). Default: 0.3, or the folder ``val`` of ``root``.
        test_fraction: Fraction of the images for test, in [0, 1). Default: 0, or the folder ``test`` of ``root``.
        seed: Seed of the split, the order and the augmentation.
        split: A ``split.csv`` to reuse instead of a new split.
        group_duplicates: Keep near-duplicates (resized, re-encoded, slightly cropped, flipped) in the same split, so
            that validation and test images are unseen.
        group_by: Keep related images in the same split: a regular expression searched in their paths, such as
            ``camera[0-9]+``, or ``TABLE.csv:COLUMN`` with a column ``path``.
        exclude: CSV file with a column ``path`` of images to leave out, such as the exclude.csv of analyze.
        unlabelled: Folder of unlabelled images, at any depth. ``fit`` labels them with a head trained on the labelled
            images, and trains on both. Needs a frozen backbone with cached features.
        test_root: Another dataset. ``test`` then uses all of its images, or those of its folder ``test`` if it has
            ``train``, ``val`` and ``test``.
        predict_paths: Images and folders of images for ``predict``.
        num_workers: DataLoader workers. Default: available cores, at most 16.

    Raises:
        UsageError: A value is out of range or unknown.

    Example:
        >>> data = AnimalsDataModule("MY_IMAGES", size=64, batch_size=8)
        >>> data.setup("fit")
        >>> images, labels = next(iter(data.train_dataloader()))
        >>> images.shape, images.dtype
        (torch.Size([8, 3, 64, 64]), torch.uint8)
        >>> data.info
        DataInfo(class_names=('cat', 'dog', 'elephant'), class_counts=(14, 14, 7), size=64, sampling='shuffle')
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
        val_fraction: float | None = None,
        test_fraction: float | None = None,
        seed: int = 42,
        split: str | None = None,
        group_duplicates: bool = True,
        group_by: str | None = None,
        exclude: str | None = None,
        unlabelled: str | None = None,
        test_root: str | None = None,
        predict_paths: list[str] | None = None,
        num_workers: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_types(AnimalsDataModule.__init__, self.hparams, "data.")
        for key, (least, most) in LIMITS.items():
            if self.hparams[key] is not None:
                require_range(f"data.{key}", self.hparams[key], least, most)
        for key, folder in {"test_root": test_root, "unlabelled": unlabelled}.items():
            if folder is not None and not folder.strip():
                raise UsageError(f"data.{key}={folder!r} is not a folder. Pass one, or remove the argument.")
        self.root = Path(root)
        self.size = size
        self.resize = Resize(resize, interpolation, crop_pct)
        self.augmentation = Augmentation(augment, self.resize)
        self.num_workers = default_num_workers() if num_workers is None else num_workers
        self.size_schedule: Callable[[int], int] = lambda epoch: size
        """Epoch → side of training images. ``ProgressiveResizing`` replaces it."""
        self.class_names: list[str] = []
        self.catalog: Catalog
        """All images below ``root``, with sha256 and groups."""
        self.split: Split
        self.catalogs: dict[str, Catalog] = {}
        """Split → its images."""
        self.datasets: dict[str, Dataset[Any]] = {}
        self.broken: dict[str, str] = {}
        """Path → problem of each image that cannot be decoded completely. Such images are in no split; ``predict``
        uses the part that can be decoded."""
        self.excluded: set[str] = set()
        self.pseudo_labelled: Catalog | None = None
        """Images of ``unlabelled`` that were added to the training split in the latest ``fit``."""

    def prepare_data(self) -> None:
        """Generate the practice set if needed, and check that ``unlabelled`` has images.

        In distributed training, rank 0 scans here and the others read the cache.
        """
        stage = self.trainer.state.fn if self.trainer is not None else "fit"
        needs_root = stage != "predict" and not (stage == "test" and self.hparams["test_root"])
        if needs_root and self.root == Path(PRACTICE_ROOT) and not self.root.exists():
            print(f"Generating the practice set (1,000 images, about 30 s) in {printable(self.root)}")
            draw_practice_set(self.root)
        if stage != "fit":
            return
        unlabelled = [scan_unlabelled(self.hparams["unlabelled"])] if self.hparams["unlabelled"] else []
        if self.trainer is not None and self.trainer.world_size > 1:
            for catalog in (scan_folder(self.root), *unlabelled):
                scan(catalog)

    def setup(self, stage: str) -> None:
        """Load and split the images that a stage needs, and hand :attr:`info` to the model.

        Labels follow the class names of the model (a checkpoint), otherwise the sorted folders.

        Raises:
            UsageError: A folder, the split or the test images are missing or do not fit the model.
        """
        module: Any = self.trainer.lightning_module if self.trainer else None
        class_names: list[str] | None = getattr(module, "class_names", None)
        if stage == "predict":
            images = find_prediction_images([Path(path) for path in self.hparams["predict_paths"] or []])
            self.broken = images.broken
            self.catalogs["predict"] = images.catalog(class_names or [])
        elif stage == "test" and self.hparams["test_root"]:
            loaded = load_dataset(self.hparams["test_root"], class_names=class_names, argument="data.test_root")
            self.broken = loaded.broken
            self.catalogs["test"] = images_to_test(loaded.usable)
        elif "train" not in self.catalogs:
            self._load_and_split(class_names)
        elif stage == "fit" and self.pseudo_labelled is not None:  # added by an earlier ``fit``
            self.catalogs["train"], self.pseudo_labelled = self.catalog.select(self.split.train), None
        if stage == "test" and not self.catalogs["test"].paths:
            raise UsageError(
                "the split has no test images. Pass --data.test_root DIR to test on another folder, or train with "
                "--data.test_fraction 0.15."
            )
        self.datasets = {split: self.dataset(split) for split in self.catalogs}
        if stage != "predict" and hasattr(module, "set_data"):
            module.set_data(self.info)

    def _load_and_split(self, class_names: list[str] | None) -> None:
        given = {key: self.hparams[key] for key in ("exclude", "group_duplicates", "group_by")}
        loaded = load_dataset(self.root, class_names=class_names, **given)
        given = {key: self.hparams[key] for key in ("split", "val_fraction", "test_fraction", "seed")}
        self.split = split_dataset(loaded, **given)
        self.catalog, self.broken, self.excluded = loaded.catalog, loaded.broken, loaded.excluded
        self.class_names = loaded.catalog.class_names
        self.catalogs |= {split: loaded.usable.select(getattr(self.split, split)) for split in SPLITS}

    def add_pseudo_labelled(self, images: Catalog) -> None:
        """Add pseudo-labelled images of ``unlabelled`` to the training split. After :meth:`setup`."""
        self.pseudo_labelled = images
        self.catalogs["train"] = self.catalog.select(self.split.train).with_images_of(images)

    def with_validation_images_in_training(self) -> AnimalsDataModule:
        """Copy with training and validation images as its only split, the training split. After :meth:`setup`."""
        merged = copy.copy(self)
        images = self.catalog.select(sorted([*self.split.train, *self.split.val]))
        if self.pseudo_labelled is not None:
            images = images.with_images_of(self.pseudo_labelled)
        merged.catalogs, merged.pseudo_labelled = {"train": images}, None
        return merged

    @property
    def split_origin(self) -> str:
        """Where the split comes from."""
        if self.hparams["split"]:
            return f"from {self.hparams['split']}"
        folders = ", ".join(self.catalog.split_folders)
        return f"folders {folders}" if folders else f"seed {self.hparams['seed']}"

    @property
    def info(self) -> DataInfo:
        """Class names, training counts, image size and sampling, for the model. Available after :meth:`setup`."""
        catalog = next(iter(self.catalogs.values()))
        counts = tuple(self.catalogs["train"].counts().values()) if "train" in self.catalogs else ()
        return DataInfo(tuple(catalog.class_names), counts, self.size, self.hparams["sampling"])

    def save_split(self, folder: Path) -> None:
        """Write ``split.csv`` to a folder, unless the split was read from that file."""
        file = folder / "split.csv"
        if file.resolve() != Path(self.hparams["split"] or "").resolve():
            self.split.save(file, self.catalog)

    def dataset(self, split: str) -> AnimalsDataset:
        """Images of a split. Training images are augmented if requested by a :class:`SampleKey`."""
        augmentation = self.augmentation if split == "train" else None
        return AnimalsDataset(self.catalogs[split], self.resize, self.size, augmentation, self.hparams["seed"])

    def train_sampler(self, position: Callable[[], tuple[int, int]]) -> KeyBatchSampler:
        """Batch sampler that starts at a given (epoch, batch) position."""
        return KeyBatchSampler(
            self.catalogs["train"].labels,
            self.hparams["batch_size"],
            self.hparams["sampling"],
            self.hparams["seed"],
            self.size_schedule,
            position,
            *self._rank_and_world_size(),
        )

    def train_dataloader(self) -> DataLoader[Any]:
        """Loader of augmented training batches."""
        sampler = self.train_sampler(self._position)
        return LazyDataLoader(self.datasets["train"], batch_sampler=sampler, **self._loader_options("train"))

    def val_dataloader(self) -> DataLoader[Any]:
        """Loader of validation batches."""
        return self.loader("val")

    def test_dataloader(self) -> DataLoader[Any]:
        """Loader of test batches."""
        return self.loader("test")

    def predict_dataloader(self) -> DataLoader[Any]:
        """Loader of the images to predict, labelled -1."""
        return self.inference_loader("predict")

    def loader(self, split: str) -> DataLoader[Any]:
        """Loader of this process's share of a split, without augmentation."""
        cached = not isinstance(self.datasets[split], AnimalsDataset)
        batch_size = FEATURE_BATCH if cached else self.hparams["batch_size"]
        return DataLoader(
            self.datasets[split], batch_size=batch_size, sampler=self._share(split), **self._loader_options(split)
        )

    def inference_loader(self, split: str, indices: Sequence[int] | None = None) -> DataLoader[Any]:
        """Loader of the given images of a split, by default of this process's share, for one pass."""
        batch_size = self.hparams["batch_size"] if self._on_gpu() else min(self.hparams["batch_size"], CPU_BATCH)
        options = self._loader_options(split)
        if options["num_workers"]:
            options["prefetch_factor"] = 16  # batches are small, and the first one may wait for OpenVINO
        keys = self._share(split) if indices is None else indices
        return DataLoader(self.datasets[split], batch_size=batch_size, sampler=keys, **options)

    def _share(self, split: str) -> range:
        """This process's images of a split. DistributedSampler would pad, which counts some images twice."""
        rank, world_size = self._rank_and_world_size()
        return range(rank, len(self.catalogs[split].paths), world_size)

    def _position(self) -> tuple[int, int]:
        """(Epoch, completed batches), from Lightning's counters."""
        if self.trainer is None or self.trainer.overfit_batches > 0:  # type: ignore[attr-defined]
            return 0, 0  # overfit_batches: the same batches every epoch
        loop = self.trainer.fit_loop
        epochs_done: int = loop.epoch_progress.current.processed  # type: ignore[attr-defined]
        return epochs_done, loop.epoch_loop.batch_progress.current.ready

    def _rank_and_world_size(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)

    def _on_gpu(self) -> bool:
        return self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"

    def _loader_options(self, split: str) -> dict[str, Any]:
        # Cached features are in memory: workers would only add overhead.
        num_workers = self.num_workers if isinstance(self.datasets[split], AnimalsDataset) else 0
        return {
            "num_workers": num_workers,
            "persistent_workers": num_workers > 0,
            "pin_memory": self._on_gpu(),
            "worker_init_fn": start_worker,
            "collate_fn": getattr(self.datasets[split], "collate_fn", None),
            # Its own generator, so that creating an iterator leaves torch's global random state unchanged.
            "generator": torch.Generator().manual_seed(self.hparams["seed"]),
        }
