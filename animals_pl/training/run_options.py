"""Options of training runs, and checks of their arguments."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning as L

from animals_pl.errors import UsageError, require_types
from animals_pl.models.openvino import Precision
from animals_pl.training.callbacks.tuning import Tune
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.save_interval import SaveInterval

Monitor = Literal["loss/val", "acc/val", "macro_recall/val", "macro_f1/val"]


@dataclass(frozen=True)
class RunOptions:
    """Options of :func:`fit`, also on the command line.

    Attributes:
        name: Runs are written to checkpoints/NAME/version_N.
        monitor: Metric that selects the best epoch.
        save_top_k: Number of best epochs to keep. With 2 or more, each is also saved as epoch=NN.ckpt.
        save_every: Interval at which last.ckpt is also saved within epochs: a duration such as ``10min``, or training
            steps such as ``500steps``. Default: only after each epoch.
        tune: Before training, search for a good model.lr (``lr``), or for the largest data.batch_size that fits into
            GPU memory, at most a tenth of the training images (``batch_size``), and use it.
        cache_features: Compute the features of a frozen backbone once, if that does not change the result.
        extract_precision: Precision in which OpenVINO computes cached features. ``bf16`` is faster on CPUs with AMX.
        compile: Compile the net with torch.compile. Takes a minute or more; only worthwhile for long runs.
        refit: Train again on training and validation images together, for as many epochs as best.ckpt was trained, and
            save refit.ckpt. Metrics, temperature and unknown threshold remain those of best.ckpt.

    Raises:
        UsageError: ``name`` is not the name of a folder, ``save_top_k`` is below 1, or ``save_every`` is not a duration
            or a number of steps.
    """

    name: str = "run"
    monitor: Monitor = "loss/val"
    save_top_k: int = 1
    save_every: str | None = None
    tune: Tune | None = None
    cache_features: bool = True
    extract_precision: Precision = "float32"
    compile: bool = False
    refit: bool = False

    def __post_init__(self) -> None:
        require_types(RunOptions, vars(self))
        if not self.name or self.name in {".", ".."} or {"/", "\\", "\0"} & set(self.name):
            raise UsageError(f"name={self.name!r} is not the name of a folder. Use letters, digits, '-' and '_'.")
        if self.save_every is not None:
            SaveInterval(self.save_every)
        if self.save_top_k < 1:
            raise UsageError(f"save_top_k={self.save_top_k} is out of range. Choose a value >= 1.")


def check_types(model: Any, data: Any) -> None:
    """Raise a :class:`UsageError` if ``model`` is not an AnimalClassifier or ``data`` is not a LightningDataModule."""
    if not isinstance(model, AnimalClassifier):
        raise UsageError(f"model={model!r} is not a model. Pass AnimalClassifier(net=…), or load_classifier(FILE).")
    if not isinstance(data, L.LightningDataModule):
        raise UsageError(f"data={data!r} is not a datamodule. Pass AnimalsDataModule(FOLDER).")


def list_of_callbacks(given: Any) -> list[L.Callback]:
    """None, one or several callbacks as a list.

    Raises:
        UsageError: An item is not a callback.
    """
    callbacks = list(given) if isinstance(given, list | tuple) else [] if given is None else [given]
    for callback in callbacks:
        if not isinstance(callback, L.Callback):
            raise UsageError(f"callbacks={callback!r} is not a callback. Pass an instance such as RichProgressBar().")
    return callbacks


def check_combination(options: RunOptions, ckpt_path: str | Path | None, saves: bool) -> None:
    """Raise a :class:`UsageError` if options conflict."""
    if options.save_top_k > 1 and not saves:
        raise UsageError(
            f"save_top_k={options.save_top_k} has no effect with trainer.enable_checkpointing=false. Remove one."
        )
    if options.save_every and not saves:
        raise UsageError(
            f"save_every={options.save_every} has no effect with trainer.enable_checkpointing=false. Remove one."
        )
    if options.extract_precision != "float32" and not options.cache_features:
        raise UsageError(
            f"extract_precision={options.extract_precision} has no effect with cache_features=false. Remove one."
        )
    if options.tune and ckpt_path:
        raise UsageError(f"tune={options.tune} is for new runs, but ckpt_path resumes one. Remove one of them.")
