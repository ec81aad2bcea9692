"""fit, validate, test, predict: Lightning's command line around the classifier and the datamodule."""

from __future__ import annotations

import argparse
import logging
import shutil
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from jsonargparse.typing import PositiveInt
from lightning.pytorch.callbacks import EarlyStopping
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from rich import get_console
from rich.table import Table

from animals_pl.data.catalog import display_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError, explain_argument_error
from animals_pl.evaluation.metrics import recall_per_class
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.callbacks.compilation import Compilation
from animals_pl.training.callbacks.epoch_table import EpochTable
from animals_pl.training.callbacks.feature_cache import FeatureCache
from animals_pl.training.callbacks.learning_rate import LearningRate
from animals_pl.training.callbacks.prediction_writer import PredictionCSV
from animals_pl.training.callbacks.run_checkpoint import RunCheckpoint
from animals_pl.training.callbacks.run_summary import EpochBar, RunSummary, print_best, print_left_out
from animals_pl.training.callbacks.tensorboard import RunTensorBoard, TensorBoardPictures
from animals_pl.training.callbacks.tuning import Finder, Tune, Tuner
from animals_pl.training.checkpoint import load_checkpoint
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.malloc import set_malloc_thresholds
from animals_pl.training.metrics_csv import monitor_mode
from animals_pl.training.run_folder import new_run_folder

PREPROCESSING = ("size", "resize", "interpolation", "crop_pct")
"""Datamodule settings that belong to a trained model as much as its weights do."""


Monitor = Literal["loss/val", "acc/val", "macro_recall/val", "macro_f1/val"]


class AnimalsCLI(LightningCLI):
    """LightningCLI with one folder per run and labels and preprocessing that come from the checkpoint.

    Args:
        args: The command line: verb and options.
        callbacks: Callbacks in addition to those of the configuration.
    """

    def __init__(self, args: list[str], callbacks: Sequence[L.Callback] = ()) -> None:
        self.more_callbacks = list(callbacks)
        self.console = get_console()  # the progress bar's own, so that lines appear above it
        self.run_folder: Path | None = None
        verbs = self.subcommands()
        try:
            super().__init__(
                AnimalClassifier,
                AnimalsDataModule,
                seed_everything_default=42,
                trainer_defaults={
                    "default_root_dir": "checkpoints",
                    "use_distributed_sampler": False,  # the samplers shard by themselves
                    "enable_model_summary": False,
                    "num_sanity_val_steps": 0,
                    "log_every_n_steps": 10,
                },
                parser_kwargs={
                    "prog": "python -m animals_pl",
                    "exit_on_error": False,
                    **{verb: {"exit_on_error": False} for verb in verbs},
                },
                auto_configure_optimizers=False,
                args=args,
            )
        except (UsageError, MisconfigurationException) as error:  # Lightning's: a GPU that is not there, say
            self._remove_fruitless_run()
            raise UsageError(" ".join(str(error).split())) from error

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what belongs to a run as a whole."""
        parser.add_argument("--name", type=str, default="run", help="Runs are written to checkpoints/NAME/version_N.")
        parser.add_argument("--monitor", type=Monitor, default="loss/val", help="Metric that chooses the best epoch.")
        parser.add_argument(
            "--save_top_k",
            type=PositiveInt,
            default=1,
            help="How many of the best epochs are kept: with 2 and more each as epoch=NN.ckpt, beside best.ckpt.",
        )
        parser.add_argument(
            "--tune",
            type=Literal[Tune, None],
            default=None,
            help="Search before the training for model.lr (lr), or for the largest data.batch_size that the GPU's "
            "memory holds (batch_size), and train with it.",
        )
        parser.add_argument(
            "--cache_features", type=bool, default=True, help="Run a frozen backbone once where that is exact."
        )
        parser.add_argument(
            "--compile",
            type=bool,
            default=False,
            help="Compile the net with torch.compile before training: a minute or more that long runs repay.",
        )

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Add what only one verb takes."""
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "predict":
            parser.add_argument("--output", type=str, default="predictions.csv", help="The CSV file to write.")
            parser.add_argument("--top_k", type=PositiveInt, default=3, help="How many classes to name per image.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; with ``--ckpt_path`` the checkpoint's settings are the defaults."""
        verb = args[0]
        try:
            self.config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            known = list(self._subcommand_parsers[verb].get_defaults().keys())
            message = explain_argument_error(error, known)
            for flag in ("--config", "-c"):  # the YAML parser does not know which file it was reading
                if flag in args[:-1]:
                    message = message.replace("<unicode string>", args[args.index(flag) + 1])
            raise UsageError(message) from error
        ckpt_path = self.config[verb].ckpt_path
        if ckpt_path is None:
            if verb != "fit":
                raise UsageError(f"{verb} needs --ckpt_path FILE: the best.ckpt of a run below checkpoints/")
            return
        checkpoint = load_checkpoint(ckpt_path)
        model, data = checkpoint["hyper_parameters"], checkpoint["datamodule_hyper_parameters"]
        split = Path(ckpt_path).parent / "split.csv"
        defaults = {
            **{f"model.{key}": value for key, value in model.items() if not key.startswith("_")},
            **{f"data.{key}": value for key, value in data.items() if not key.startswith("_")},
            "data.test_root": None,
        }
        if split.is_file():  # it tells what was grouped and excluded
            defaults |= {"data.split": str(split), "data.group_by": None, "data.exclude": None}
        self._subcommand_parsers[verb].set_defaults(defaults)
        self.config = parser.parse_args(args)
        if split.is_file() and self.config[verb].data.split is None:  # a run's own configuration leaves it open
            self.config[verb].data.split = str(split)
        belongs = [f"model.{key}" for key in model if not key.startswith("_")]
        for key in belongs + [f"data.{key}" for key in PREPROCESSING]:
            self._keep_from_checkpoint(self.config[verb], key, defaults[key])

    def _keep_from_checkpoint(self, config: Any, key: str, kept: Any) -> None:
        if config[key] is None:  # a configuration that leaves it open
            config[key] = kept
        if config[key] != kept:
            raise UsageError(
                f"{key}={config[key]!r} contradicts the checkpoint, which was trained with {kept!r}; leave it out"
            )

    def _parse_ckpt_path(self) -> None:
        """Do nothing: ``parse_arguments`` has taken the checkpoint's settings already."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer with what every run has."""
        config = self._get(self.config_init, "trainer")
        if self.subcommand == "fit" and config.precision is None and _trains_on_gpu(config.accelerator):
            kwargs["precision"] = "bf16-mixed"
        extra = {"fit": self._fit_options, "predict": self._predict_options}.get(
            str(self.subcommand), self._test_options
        )
        options = extra(config)
        given = [callback for callback in config.get("callbacks") or [] if not isinstance(callback, Finder)]
        callbacks = [*given, *self.more_callbacks, *options.pop("callbacks", [])]
        if config.enable_progress_bar is not False and self.console.is_terminal:
            callbacks.append(EpochBar())
        else:
            options["enable_progress_bar"] = False
        try:
            return super().instantiate_trainer(**{**kwargs, **options, "callbacks": callbacks})
        except ValueError as error:  # an accelerator, a strategy or a precision that Lightning does not know
            raise UsageError(str(error)) from error

    def _remove_fruitless_run(self) -> None:
        """Remove the folder of a new run that ended before its first epoch was complete."""
        folder = self.run_folder
        if folder is not None and not (folder / "metrics.csv").exists() and not self._get(self.config, "ckpt_path"):
            shutil.rmtree(folder)
            with suppress(OSError):  # other runs of this name stay
                folder.parent.rmdir()

    def _fit_options(self, config: Any) -> dict[str, Any]:
        callbacks: list[L.Callback] = [BatchSeed(self.datamodule.hparams["seed"]), RunSummary(self.console)]
        if self._get(self.config, "compile"):
            callbacks.append(Compilation())
        if self._get(self.config, "cache_features"):
            callbacks.append(FeatureCache(self.console))
        self._require_kept_epochs(config)
        if config.fast_dev_run:
            return {"callbacks": callbacks}
        ckpt_path = self._get(self.config, "ckpt_path")
        if ckpt_path:  # a resumed run goes on in its folder, under its own configuration
            self.run_folder, self.save_config_callback = Path(ckpt_path).resolve().parent, None
        else:
            self.run_folder = new_run_folder(Path(config.default_root_dir) / self._get(self.config, "name"))
        monitor = self._get(self.config, "monitor")
        board = RunTensorBoard(
            self.run_folder.parent.parent, self.run_folder.parent.name, self.run_folder.name, default_hp_metric=False
        )
        table = EpochTable(self.run_folder, config.max_epochs, self.console)
        callbacks += [TensorBoardPictures(), LearningRate(), *self._tuners(config)]
        if config.enable_checkpointing is not False:
            keep = self._get(self.config, "save_top_k")
            best = RunCheckpoint(self.run_folder, "best", monitor, monitor_mode(monitor), keep=keep)
            callbacks += [best, RunCheckpoint(self.run_folder, "last")]
        more = config.logger if isinstance(config.logger, list) else [config.logger]
        loggers = [board, table, *(logger for logger in more if not isinstance(logger, bool | None))]
        return {"default_root_dir": str(self.run_folder), "logger": loggers, "callbacks": callbacks}

    def _require_kept_epochs(self, config: Any) -> None:
        keep = self._get(self.config, "save_top_k")
        if keep > 1 and config.enable_checkpointing is False:
            raise UsageError(f"save_top_k={keep} has no effect with trainer.enable_checkpointing=false; leave one out")

    def _tuners(self, config: Any) -> list[L.Callback]:
        """Return what searches for settings before the training; a resumed run has found its own."""
        tune = self._get(self.config, "tune")
        if self._get(self.config, "ckpt_path"):
            if tune:
                raise UsageError(f"tune={tune} is for new runs, --ckpt_path goes on with one; leave one of them out")
            return []
        finders = [callback for callback in config.get("callbacks") or [] if isinstance(callback, Finder)]
        return [Tuner(what, self.console, self._keep_tuned) for what in [*finders, *([tune] if tune else [])]]

    def _keep_tuned(self, key: str, value: float) -> None:
        """Note in the run's configuration what a search has found, so that repeating the run needs none."""
        assert self.run_folder is not None
        config = self.config[self.subcommand]
        config[key] = value
        config["tune"] = None
        kept = [one for one in config["trainer.callbacks"] or [] if not _is_finder(one)]
        config["trainer.callbacks"] = kept or None
        file = self.run_folder / "config.yaml"
        if file.is_file():
            self._parser(self.subcommand).save(config, str(file), skip_none=False, overwrite=True, multifile=False)

    def _predict_options(self, config: Any) -> dict[str, Any]:
        output = PredictionCSV(Path(self._get(self.config, "output")), self._get(self.config, "top_k"))
        # One process: several would write the same file.
        return {"callbacks": [output], "devices": 1, **self._test_options(config)}

    def _test_options(self, config: Any) -> dict[str, Any]:
        self.save_config_callback = None
        return {"logger": False, "enable_checkpointing": False}

    def after_fit(self) -> None:
        """Say why the run ended early and where the best checkpoint is."""
        if self.trainer.is_global_zero:
            self._print_stopped()
            print_best(self.trainer, self.console)

    def _print_stopped(self) -> None:
        for callback in self.trainer.early_stopping_callbacks:  # what Lightning logs of it is silenced
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message and callback.stopped_epoch:
                reason = callback.stopping_reason_message.removesuffix(" Signaling Trainer to stop.")
                self.console.print(f"\nstopped after epoch {callback.stopped_epoch + 1}: {reason}", highlight=False)

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation images and print the result."""
        self.trainer.validate(**{**kwargs, "verbose": False})
        self._print_metrics("val")

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test images and print the result."""
        self.trainer.test(**{**kwargs, "verbose": False})
        self._print_metrics("test")

    def predict(self, **kwargs: Any) -> None:
        """Predict and say where the result is."""
        self.trainer.predict(**{**kwargs, "return_predictions": False})
        print_left_out(self.datamodule, self.console)
        count = len(self.datamodule.catalogs["predict"].paths)
        self.console.print(f"{count} predictions written to {self._get(self.config, 'output')}", highlight=False)

    @rank_zero_only
    def _print_metrics(self, split: str) -> None:
        matrix = getattr(self.model, f"{split}_metrics").matrix()
        table = Table(box=None, padding=(0, 2), header_style="bold")
        table.add_column("class")
        for column in ("images", "recall", "most often mistaken for"):
            table.add_column(column, justify="right" if column != "most often mistaken for" else "left")
        for label, recall in enumerate(recall_per_class(matrix)):
            row = matrix[label].copy()
            row[label] = 0
            mistaken = f"{display_name(self.model.class_names[row.argmax()])} ({row.max()})" if row.any() else ""
            if matrix[label].any():
                name = display_name(self.model.class_names[label])
                table.add_row(name, str(matrix[label].sum()), f"{recall:.4f}", mistaken)
        self.console.print(table)
        print_left_out(self.datamodule, self.console)
        for key, value in self.trainer.callback_metrics.items():
            self.console.print(f"{key:<18} {float(value):.4f}", highlight=False)


def run(args: Sequence[str], callbacks: Sequence[L.Callback] = ()) -> AnimalsCLI:
    """Run one of the four verbs.

    Args:
        args: Verb and options.
        callbacks: Callbacks in addition to those of the configuration.

    Raises:
        UsageError: Something in the arguments, the files or the folders cannot be worked with.
    """
    _quieten()
    set_malloc_thresholds()
    return AnimalsCLI(_paths_to_option(list(args)) if args[0] == "predict" else list(args), callbacks)


def _is_finder(callback: Any) -> bool:
    """Return whether that is a finder's entry in a configuration."""
    return callback["class_path"].rpartition(".")[2] in {"LearningRateFinder", "BatchSizeFinder"}


def _trains_on_gpu(accelerator: Any) -> bool:
    """Return whether that means a GPU that calculates in bfloat16."""
    here = accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return here and torch.cuda.is_bf16_supported(including_emulation=False)


def _paths_to_option(args: list[str]) -> list[str]:
    """Turn ``predict PATH … --option`` into ``predict --data.predict_paths=[PATH, …] --option``."""
    paths = []
    for arg in args[1:]:
        if arg.startswith("-"):
            break
        paths.append(arg)
    option = [f"--data.predict_paths={paths!r}"] if paths else []
    return [args[0], *option, *args[1 + len(paths) :]]


def _quieten() -> None:
    """Silence what Lightning says about itself; what it says about the user's data and settings stays."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*The number of training batches.*is smaller than the logging interval.*",
        ".*Checkpoint directory.*exists and is not empty.*",
        ".*callbacks used to create the checkpoint need to be provided.*",
        ".*module.s. in eval mode at the start of training.*",  # a frozen backbone is meant to be
        ".*isinstance.treespec, LeafSpec.*",
        ".*WeightAveraging callback with a model that overrides the configure_model.*",  # nothing here is sharded
    ):
        warnings.filterwarnings("ignore", message)
