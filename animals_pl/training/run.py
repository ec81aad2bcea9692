"""Training runs: folder, loggers, callbacks and trainer."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import MachineError, UsageError, require_types
from animals_pl.models.openvino import Precision
from animals_pl.signals import Terminated
from animals_pl.training.board import run_loggers
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.callbacks.epoch_table import EpochTable
from animals_pl.training.callbacks.evaluation_files import EvaluationFiles
from animals_pl.training.callbacks.finite_loss import FiniteLoss
from animals_pl.training.callbacks.initial_weights import InitialWeights
from animals_pl.training.callbacks.pseudo_labelling import PseudoLabelling
from animals_pl.training.callbacks.run_checkpoint import RunCheckpoint
from animals_pl.training.callbacks.run_files import RunFiles, dump_hparams
from animals_pl.training.callbacks.run_length import RunLength
from animals_pl.training.callbacks.speed import MeasureSpeed
from animals_pl.training.callbacks.stop_on_signal import SaveOnSignal, StopOnSignal
from animals_pl.training.callbacks.summaries import EvaluationSummary, RunSummary
from animals_pl.training.callbacks.temperature import Temperature
from animals_pl.training.callbacks.tensorboard import TensorBoardImages
from animals_pl.training.callbacks.trained_with import TrainedWith
from animals_pl.training.callbacks.tuning import Finder, Tune, Tuner
from animals_pl.training.checkpoint import (
    BEST_CHECKPOINT,
    LAST_CHECKPOINT,
    REFIT_CHECKPOINT,
    disk_full_remedy,
    how_to_resume,
)
from animals_pl.training.checkpoint_io import with_atomic_io
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.metrics_csv import Row, monitor_mode, read_metrics
from animals_pl.training.refit import Refit
from animals_pl.training.resume import check_new_model, prepare_resume
from animals_pl.training.run_folder import new_run_folder
from animals_pl.training.run_options import Monitor, RunOptions, check_combination, check_types, list_of_callbacks
from animals_pl.training.save_interval import SaveInterval
from animals_pl.training.session import option_callbacks, train, without_empty_run
from animals_pl.training.trained import TrainedModel, load_classifier, load_model
from animals_pl.training.trainer import (
    TRAINER_DEFAULTS,
    check_evaluation_arguments,
    check_training_arguments,
    make_trainer,
    quiet,
)


@dataclass(eq=False)
class Run:
    """A training run and the files in its folder.

    Attributes:
        model: The LightningModule that is trained.
        data: The datamodule.
        trainer: The trainer.
        folder: ``checkpoints/NAME/version_N``, or ``None`` with ``fast_dev_run``.
        ckpt_path: The checkpoint that the run is resumed from.
        refit: The second fit, on training and validation images; ``None`` without the option.

    Example:
        >>> from animals_pl import AnimalClassifier, AnimalsDataModule
        >>> data = AnimalsDataModule("MY_IMAGES", size=32)
        >>> run = fit(AnimalClassifier("shallownet"), data, name="other", max_epochs=1)
        data        MY_IMAGES: 50 images, 3 classes
        ...
        >>> [path.name for path in (run.folder.parent, run.folder, run.best_path, run.last_path)]
        ['other', 'version_0', 'best.ckpt', 'last.ckpt']
        >>> sorted(run.validate())
        class ...
        ['acc/val', 'loss/val', 'macro_f1/val', 'macro_recall/val']
    """

    model: AnimalClassifier
    data: L.LightningDataModule
    trainer: L.Trainer
    folder: Path | None
    ckpt_path: str | Path | None = None
    refit: Refit | None = None

    def fit(self) -> Run:
        """Train, and return the run.

        Raises:
            UsageError: An argument, file or folder is invalid. A new run that ends before its
                first epoch is complete leaves no folder, unless the loss was not finite.
            MachineError: The disk is full, or a file of the run cannot be written.
            TrainingError: Memory ran out, the loss is not finite, an optimizer step overflowed, an image has changed,
                or a loader process has ended.
            KeyboardInterrupt: SIGINT (Ctrl-C) was received. The message says how to resume.
            Terminated: SIGTERM was received. A ``SystemExit`` with the exit code 143; the message says how to resume.
        """
        try:
            with without_empty_run(self.folder, self.ckpt_path):
                train(self.trainer, self.model, self.data, self.ckpt_path)
                if self.refit is not None and self.folder is not None:
                    self.refit.fit(self.trainer, self.folder)
        except KeyboardInterrupt as error:
            raise KeyboardInterrupt(f"interrupted{self._how_to_resume()}") from error
        except Terminated as error:
            raise Terminated(f"terminated{self._how_to_resume()}") from error
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            folder = self.folder or Path(self.trainer.default_root_dir)
            raise MachineError(
                f"cannot write below {str(folder)!r} ({error.strerror}). {disk_full_remedy(folder)}"
            ) from error
        return self

    @property
    def best_path(self) -> Path:
        """Checkpoint of the best epoch by ``monitor``."""
        return self._file(BEST_CHECKPOINT)

    @property
    def last_path(self) -> Path:
        """Checkpoint of the latest epoch, to resume from."""
        return self._file(LAST_CHECKPOINT)

    @property
    def refit_path(self) -> Path:
        """Checkpoint of the net trained on training and validation images, with ``refit=True``."""
        return self._file(REFIT_CHECKPOINT)

    @property
    def metrics(self) -> list[Row]:
        """One row per epoch, as in metrics.csv."""
        return read_metrics(self._file("metrics.csv"))

    @cached_property
    def best(self) -> TrainedModel:
        """The model of the best epoch."""
        if not self.best_path.exists():
            raise UsageError(
                f"{str(self.best_path)!r} does not exist: no epoch was validated, or checkpointing is off."
            )
        return load_model(self.best_path)

    def validate(self, data: L.LightningDataModule | None = None) -> dict[str, float]:
        """Metrics of the best epoch on the validation split; see :func:`evaluate`."""
        return evaluate(load_classifier(self.best_path), data or self.data, "val")

    def test(self, data: L.LightningDataModule | None = None) -> dict[str, float]:
        """Metrics of the best epoch on the test split, or on ``data.test_root``; see :func:`evaluate`."""
        return evaluate(load_classifier(self.best_path), data or self.data, "test")

    def _how_to_resume(self) -> str:
        hint = how_to_resume(self.folder) if self.folder else ""
        return hint and f"; {hint}"

    def _file(self, name: str) -> Path:
        if self.folder is None:
            raise UsageError("a run with fast_dev_run leaves no files. Train without it.")
        return self.folder / name


def fit(
    model: AnimalClassifier,
    data: L.LightningDataModule,
    *,
    name: str = "run",
    monitor: Monitor = "loss/val",
    save_top_k: int = 1,
    save_every: str | None = None,
    ckpt_path: str | Path | None = None,
    callbacks: Sequence[L.Callback] | L.Callback | None = (),
    cache_features: bool = True,
    extract_precision: Precision = "float32",
    compile: bool = False,
    tune: Tune | None = None,
    refit: bool = False,
    **trainer_kwargs: Any,
) -> Run:
    """Train a model with the same run folder, callbacks, feature cache and resuming as the command line.

    Initial weights are drawn from torch's global random state: call ``lightning.seed_everything(42)`` first to
    reproduce a run of the command line. :class:`RunOptions` explains ``name``, ``monitor``, ``save_top_k``,
    ``save_every``, ``cache_features``, ``extract_precision``, ``compile``, ``tune`` and ``refit``.

    Args:
        model: The model.
        data: The data.
        ckpt_path: Checkpoint to resume from; the run continues in its folder.
        callbacks: Additional callbacks.
        **trainer_kwargs: Arguments of ``lightning.Trainer``, such as ``max_epochs``.

    Returns:
        The finished run.

    Raises:
        UsageError: An argument, file or folder is invalid.

    Example:
        >>> from animals_pl import AnimalClassifier, AnimalsDataModule
        >>> data = AnimalsDataModule("MY_IMAGES", size=32, batch_size=16)
        >>> run = fit(AnimalClassifier("shallownet"), data, name="mine", max_epochs=1)
        data        MY_IMAGES: 50 images, 3 classes
        ...
        >>> run = fit(AnimalClassifier("shallownet"), data, ckpt_path=run.last_path, max_epochs=2)  # resume
        data        MY_IMAGES: 50 images, 3 classes
        ...
        >>> len(run.metrics)
        2
    """
    options = RunOptions(name, monitor, save_top_k, save_every, tune, cache_features, extract_precision, compile, refit)
    return prepare_run(model, data, options, ckpt_path=ckpt_path, callbacks=callbacks, **trainer_kwargs).fit()


def prepare_run(
    model: AnimalClassifier,
    data: L.LightningDataModule,
    options: RunOptions,
    *,
    ckpt_path: str | Path | None = None,
    callbacks: Sequence[L.Callback] | L.Callback | None = (),
    dump_config: Callable[[dict[str, float]], str] | None = None,
    **trainer_kwargs: Any,
) -> Run:
    """Create a run without starting it. The arguments are those of :func:`fit`.

    ``dump_config`` returns the run's configuration as YAML, with tuned values such as ``{"model.lr": 0.01}`` filled in.
    Default: built from the hyperparameters.
    """
    check_types(model, data)
    kwargs = {**TRAINER_DEFAULTS, **trainer_kwargs}
    callbacks = list_of_callbacks(callbacks)
    saves = kwargs.get("enable_checkpointing") is not False
    check_combination(options, ckpt_path, saves)
    check_training_arguments(kwargs)
    if kwargs.get("precision") is None and trains_in_bfloat16(kwargs.get("accelerator")):
        kwargs["precision"] = "bf16-mixed"
    if ckpt_path is None:
        check_new_model(model)
    else:
        ckpt_path = prepare_resume(model, data, options.monitor, ckpt_path)
    length = RunLength.of(kwargs)
    mine: list[L.Callback] = [BatchSeed(data.hparams.get("seed", 42)), length, RunSummary(data), Temperature()]
    if options.refit:
        mine.append(InitialWeights())
    mine += option_callbacks(options, data)
    finders = [callback for callback in callbacks if isinstance(callback, Finder)]
    given = [callback for callback in callbacks if not isinstance(callback, Finder)]
    refit = Refit(data, options, given, dict(kwargs)) if options.refit else None
    folder, stop = None, StopOnSignal()
    if isinstance(data, AnimalsDataModule) and data.hparams["unlabelled"]:
        mine.append(PseudoLabelling(data))
    if not kwargs.get("fast_dev_run"):
        parent = Path(kwargs["default_root_dir"]) / options.name
        folder = Path(ckpt_path).resolve().parent if ckpt_path else new_run_folder(parent)
        dump_config = dump_config or partial(dump_hparams, model, data, asdict(options), trainer_kwargs)
        searches = [*finders, options.tune] if options.tune else finders
        files = RunFiles(data, folder, dump_config, resumed=ckpt_path is not None)
        mine = [TrainedWith(data), files, *mine, FiniteLoss(data, folder), EpochTable(folder)]
        mine += [TensorBoardImages(data), MeasureSpeed(folder)]
        mine += [Tuner(what, files.record) for what in searches]
        if saves:
            mode = monitor_mode(options.monitor)
            best = RunCheckpoint(folder, "best", options.monitor, mode, save_top_k=options.save_top_k)
            interval = SaveInterval(options.save_every) if options.save_every else None
            last = RunCheckpoint(folder, "last", save_every=interval)
            mine += [best, last]
            stop = SaveOnSignal(last)
        kwargs |= {"default_root_dir": str(folder), "logger": run_loggers(folder, kwargs.get("logger"))}
        kwargs["plugins"] = with_atomic_io(kwargs.get("plugins"))
    with without_empty_run(folder, ckpt_path):
        trainer = make_trainer([*given, *mine, stop], **kwargs)
    return Run(model, data, trainer, folder and folder.resolve(), ckpt_path, refit)


def evaluate(
    model: AnimalClassifier, data: L.LightningDataModule, split: Literal["val", "test"], **trainer_kwargs: Any
) -> dict[str, float]:
    """Evaluate a model on one split and print the result.

    If the model is from :func:`load_classifier`, predictions and metrics are written into the checkpoint's folder.

    Args:
        model: A trained model.
        data: The data.
        split: ``val`` or ``test``.
        **trainer_kwargs: Arguments of ``lightning.Trainer``.

    Returns:
        ``loss/SPLIT``, ``acc/SPLIT``, ``macro_recall/SPLIT`` and ``macro_f1/SPLIT``.

    Example:
        >>> from animals_pl import AnimalsDataModule, load_classifier
        >>> data = AnimalsDataModule(test_root="OTHER_IMAGES", size=32)
        >>> metrics = evaluate(load_classifier("checkpoints/my_animals/version_0/best.ckpt"), data, "test")
        class ...
        >>> sorted(metrics)
        ['acc/test', 'loss/test', 'macro_f1/test', 'macro_recall/test']
    """
    check_types(model, data)
    require_types(evaluate, {"split": split})
    check_evaluation_arguments(split, trainer_kwargs)
    kwargs = {**TRAINER_DEFAULTS, "logger": False, "enable_checkpointing": False, **trainer_kwargs}
    trainer = make_trainer([EvaluationSummary(data), EvaluationFiles(data)], **kwargs)
    with quiet():
        (trainer.validate if split == "val" else trainer.test)(model, datamodule=data, verbose=False)
    return {key: float(value) for key, value in trainer.callback_metrics.items()}


def trains_in_bfloat16(accelerator: Any) -> bool:
    """Whether an ``accelerator`` argument selects a GPU that supports bfloat16."""
    gpu = accelerator in (None, "auto", "gpu", "cuda") and torch.cuda.is_available()
    return gpu and torch.cuda.is_bf16_supported(including_emulation=False)
