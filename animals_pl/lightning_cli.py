"""fit, validate, test, predict: Lightning's command line on top of ``training.run``.

The only private name of Lightning used in this project is ``LightningCLI._parse_ckpt_path`` (checked against 2.6.6).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import yaml
from jsonargparse import Namespace
from jsonargparse.typing import PositiveInt
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from animals_pl import __version__
from animals_pl.arguments import boolean_options, normalise, parser_mode, require_null_is_written
from animals_pl.configurations import find_config
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.resize import PREPROCESSING
from animals_pl.errors import UsageError, explain_argument_error, one_line
from animals_pl.files import message_stream, printable
from animals_pl.training.calibration import calibration_of, require_unknown
from animals_pl.training.callbacks.evaluation_files import EvaluationFiles
from animals_pl.training.callbacks.prediction_writer import PredictionWriter
from animals_pl.training.callbacks.summaries import EvaluationSummary, print_predicted
from animals_pl.training.checkpoint import data_settings, load_checkpoint, model_settings, require_same
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.resume import valid_checkpoint
from animals_pl.training.robustness import BaselineCheck, read_baseline, score_corruptions
from animals_pl.training.run import Run, RunOptions, prepare_run
from animals_pl.training.trainer import TRAINER_DEFAULTS, check_evaluation_arguments, make_trainer, quiet

OVERRIDABLE = ("tta",)
"""Model settings that may differ from the checkpoint's in validate, test and predict."""

PRIOR_HELP = (
    "Class frequencies expected in use: train, uniform, or a CSV file with the columns class and frequency. Default: "
    "the model's own prior, without adjustment."
)
UNKNOWN_HELP = 'Label images of no known class "unknown", by the threshold of the checkpoint, and write all scores.'

ROBUSTNESS_HELP = "Also test on corrupted images: 7 corruptions at 5 severities, which takes about 35 times as long."

BASELINE_HELP = "With robustness: folder of a run tested on the same images, to compare with."


class AnimalsCLI(LightningCLI):
    """LightningCLI with one folder per run, and labels and preprocessing from the checkpoint.

    Args:
        args: The command line: name of the command and options.
        callbacks: Callbacks in addition to those of the configuration.
        values: Settings that bypass the parser, such as positional arguments: name → value.
    """

    def __init__(
        self, args: list[str], callbacks: Sequence[L.Callback] = (), values: Mapping[str, Any] | None = None
    ) -> None:
        self.run: Run | None = None
        """The training run; ``None`` unless the command is ``fit``."""
        self._values = values or {}
        self._more_callbacks = list(callbacks)
        self._verb = args[0]
        parser_kwargs = {"exit_on_error": False, "parser_mode": parser_mode()}
        super().__init__(
            AnimalClassifier,
            AnimalsDataModule,
            save_config_callback=None,  # the run writes its configuration
            seed_everything_default=42,
            trainer_defaults=TRAINER_DEFAULTS,
            parser_kwargs={"prog": "python -m animals_pl", **parser_kwargs, self._verb: parser_kwargs},
            auto_configure_optimizers=False,
            args=args,
        )

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Only the requested command: building all four parsers takes half a second."""
        return {self._verb: super().subcommands()[self._verb]}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of the command."""
        self._verb_parser = parser
        if self._verb == "fit":
            parser.add_class_arguments(RunOptions, as_group=False, instantiate=False)
        elif self._verb == "predict":
            parser.add_argument("--output", type=str, default="predictions.csv", help="The CSV file to write.")
            parser.add_argument("--top_k", type=PositiveInt, default=3, help="Number of classes per image.")
            parser.add_argument("--unknown", type=bool, default=False, help=UNKNOWN_HELP)
        elif self._verb == "test":
            parser.add_argument("--robustness", type=bool, default=False, help=ROBUSTNESS_HELP)
            parser.add_argument("--baseline", type=str | None, default=None, help=BASELINE_HELP)
        if self._verb != "fit":
            parser.add_argument("--prior", type=str | None, default=None, help=PRIOR_HELP)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse; with ``--ckpt_path``, settings that are not given are taken from the checkpoint."""
        verb = args[0]
        self.config = self._parse(parser, args)
        seed = self.config[verb].seed_everything
        if not isinstance(seed, bool) and not 0 <= seed < 2**32:
            raise UsageError(f"seed_everything={seed} is out of range. Choose a value from 0 to {2**32 - 1}.")
        ckpt_path = self.config[verb].ckpt_path
        if ckpt_path is None:
            if verb != "fit":
                raise UsageError(f"{verb} needs --ckpt_path FILE: the best.ckpt of a run below checkpoints/.")
            return
        if verb == "fit":
            ckpt_path = str(valid_checkpoint(ckpt_path))
        checkpoint = load_checkpoint(ckpt_path, mmap=True)
        if self.config[verb].get("unknown"):
            require_unknown(calibration_of(checkpoint), checkpoint["hyper_parameters"]["class_names"])
        settings = {"model": model_settings(checkpoint), "data": data_settings(checkpoint) | {"test_root": None}}
        split = Path(ckpt_path).parent / "split.csv"
        if split.is_file():  # it contains the result of grouping and exclusion
            settings["data"] |= {"split": str(split), "group_by": None, "exclude": None}
        # Defaults: the user's configuration files and options override them.
        self._verb_parser.set_defaults(
            {f"{key}.{name}": settings[key][name] for key in settings for name in settings[key]}
        )
        self.config = self._parse(parser, args)
        config = self.config[verb]
        config.ckpt_path = ckpt_path
        if split.is_file() and config.data.split is None:
            config.data.split = str(split)
        belongs = [f"model.{key}" for key in settings["model"] if verb == "fit" or key not in OVERRIDABLE]
        belongs += [f"data.{key}" for key in PREPROCESSING if key in settings["data"]]
        for key in belongs:
            section, _, name = key.partition(".")
            trained = settings[section][name]
            if config[key] is None:  # null in the configuration
                config[key] = trained
            require_same(key, config[key], trained)

    def _parse(self, parser: LightningArgumentParser, args: list[str]) -> Namespace:
        try:
            config = parser.parse_args(args)
        except argparse.ArgumentError as error:
            message = explain_argument_error(error, list(self._verb_parser.get_defaults().keys()))
            raise UsageError(message) from error
        require_null_is_written(args[1:], config[self._verb])
        for key, value in self._values.items():
            config[f"{self._verb}.{key}"] = value
        return config

    def _parse_ckpt_path(self) -> None:
        """Do nothing: ``parse_arguments`` has applied the checkpoint's settings already."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the trainer of the command."""
        verb, config = str(self.subcommand), self.config_init[self.subcommand]
        options = {**config.trainer, **kwargs}
        given = options.pop("callbacks") or []  # a single callback without arguments is not wrapped in a list
        callbacks = [*(given if isinstance(given, list) else [given]), *self._more_callbacks]
        if verb == "fit":
            self.run = prepare_run(
                self.model,
                self.datamodule,
                RunOptions(**{field.name: config[field.name] for field in fields(RunOptions)}),
                ckpt_path=config.ckpt_path,
                callbacks=callbacks,
                dump_config=partial(_dump_config, self._verb_parser, self.config[verb]),
                **options,
            )
            return self.run.trainer
        check_evaluation_arguments(verb, options)
        self.model.prior = config.prior
        options |= {"logger": False, "enable_checkpointing": False}
        if verb == "predict":
            callbacks.append(PredictionWriter(Path(config.output), config.top_k, config.unknown))
            options["devices"] = 1  # several processes would write the same file
        else:
            callbacks += [EvaluationSummary(self.datamodule), EvaluationFiles(self.datamodule)]
            if verb == "test" and config.robustness:
                options["devices"] = 1  # each device would predict its share only
        return make_trainer(callbacks, **options)

    def fit(self, **kwargs: Any) -> None:
        """Train."""
        assert self.run is not None
        self.run.fit()

    def validate(self, **kwargs: Any) -> None:
        """Evaluate on the validation split and print the result."""
        with self._files().more_files():
            self.trainer.validate(**kwargs | {"verbose": False, "weights_only": True})
            self._write_report()

    def test(self, **kwargs: Any) -> None:
        """Evaluate on the test split and print the result; with ``--robustness``, also on corrupted images."""
        config = self.config_init[self.subcommand]
        if config.baseline is not None and not config.robustness:
            raise UsageError(f"baseline={config.baseline!r} has no effect without --robustness. Add it.")
        baseline = None if config.baseline is None else read_baseline(config.baseline, self.datamodule)
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        if baseline is not None:
            callbacks.append(BaselineCheck(self.datamodule, baseline))
        files = self._files()
        with files.more_files():
            self.trainer.test(**kwargs | {"verbose": False, "weights_only": True})
            if config.robustness:
                score_corruptions(self.trainer, self.model, self.datamodule, files.evaluation, baseline)
            self._write_report()

    def _files(self) -> EvaluationFiles:
        callbacks: list[L.Callback] = self.trainer.callbacks  # type: ignore[attr-defined]
        return next(callback for callback in callbacks if isinstance(callback, EvaluationFiles))

    def _write_report(self) -> None:
        """Write report.html, unless the evaluation's files could not be written."""
        from animals_pl.reports.model_report import ModelReport

        evaluation = self._files().evaluation
        if evaluation is not None:
            ModelReport(evaluation).write()
            print(printable(f"report: {evaluation.folder / 'report.html'}"))

    def predict(self, **kwargs: Any) -> None:
        """Predict and print where the result is."""
        self.trainer.predict(**kwargs | {"return_predictions": False, "weights_only": True})
        output = self.config_init[self.subcommand].output
        with redirect_stdout(message_stream(Path(output))):
            print_predicted(self.datamodule, output)


CONFIG = ("--config", "-c")

FLAGS = {
    "cache_features",
    "compile",
    "refit",
    "robustness",
    "seed_everything",
    "unknown",
    *boolean_options(AnimalClassifier, "model."),
    *boolean_options(AnimalsDataModule, "data."),
    *boolean_options(L.Trainer, "trainer."),
}
"""Options that mean ``true`` without a value."""


def run(args: Sequence[str], callbacks: Sequence[L.Callback] = (), positional: str = "") -> AnimalsCLI:
    """Run fit, validate, test or predict.

    Args:
        args: Name of the command and options.
        callbacks: Callbacks in addition to those of the configuration.
        positional: Option that receives positional arguments.

    Raises:
        UsageError: An argument, file or folder cannot be used.
    """
    with quiet():
        options, values = normalise(args[1:], positional, FLAGS)
        return AnimalsCLI([args[0], *map(_with_config_text, options)], callbacks, values)


def _with_config_text(option: str) -> str:
    """Replace the name of a configuration by its text: the parser would read the file in the locale's encoding."""
    name, _, value = option.partition("=")
    if name not in CONFIG or value.lstrip().startswith("{"):  # the text of a configuration
        return option
    try:
        settings = yaml.safe_load(find_config(value).read_text(encoding="utf-8-sig"))
        if not isinstance(settings, dict):
            raise UsageError(f"config={value!r} has no keys such as 'data:'. Pass a configuration file.")
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        reason = one_line(error).replace(' in "<unicode string>",', "")
        raise UsageError(f"config={value!r} cannot be read: {reason}. Save it as YAML in UTF-8.") from error
    return f"{name}={json.dumps(settings, default=str)}"  # default=str: YAML dates


def _dump_config(parser: LightningArgumentParser, config: Namespace, tuned: dict[str, float]) -> str:
    """Configuration as YAML, with tuned values in place of the search."""
    config = config.clone()
    if tuned:
        for key, value in {**tuned, "tune": None}.items():
            config[key] = value
        finders = ("LearningRateFinder", "BatchSizeFinder")
        callbacks = config["trainer.callbacks"] or []
        config["trainer.callbacks"] = [c for c in callbacks if not c["class_path"].endswith(finders)] or None
    return f"# animals_pl {__version__}\n" + parser.dump(config, skip_unset=False, skip_link_targets=False)
