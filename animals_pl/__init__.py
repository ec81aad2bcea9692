"""Identify animals in images: train, evaluate and export image classifiers.

Importing this package loads nothing heavy; each name below is imported on first use.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animals_pl.data.datamodule import AnimalsDataModule as AnimalsDataModule
    from animals_pl.data.info import DataInfo as DataInfo
    from animals_pl.deploy.export import export as export
    from animals_pl.deploy.runtime import Identifier as Identifier
    from animals_pl.evaluation.top_k import Prediction as Prediction
    from animals_pl.training.callbacks import GradualUnfreezing as GradualUnfreezing
    from animals_pl.training.callbacks import ProgressiveResizing as ProgressiveResizing
    from animals_pl.training.classifier import AnimalClassifier as AnimalClassifier
    from animals_pl.training.robustness import evaluate_robustness as evaluate_robustness
    from animals_pl.training.run import Run as Run
    from animals_pl.training.run import evaluate as evaluate
    from animals_pl.training.run import fit as fit
    from animals_pl.training.trained import TrainedModel as TrainedModel
    from animals_pl.training.trained import load_classifier as load_classifier
    from animals_pl.training.trained import load_model as load_model

__version__ = "0.2.0"

# onnxruntime 1.32 and later would write a device id to the user's cache folder and send statistics to Microsoft. It
# reads this when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_MODULES = {
    "AnimalClassifier": "training.classifier",
    "AnimalsDataModule": "data.datamodule",
    "DataInfo": "data.info",
    "GradualUnfreezing": "training.callbacks",
    "Identifier": "deploy.runtime",
    "Prediction": "evaluation.top_k",
    "ProgressiveResizing": "training.callbacks",
    "Run": "training.run",
    "TrainedModel": "training.trained",
    "evaluate": "training.run",
    "evaluate_robustness": "training.robustness",
    "export": "deploy.export",
    "fit": "training.run",
    "load_classifier": "training.trained",
    "load_model": "training.trained",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
