"""Identify animals in images: train, evaluate and export image classifiers.

Importing this package loads nothing heavy; each name below is imported on first use.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from animals_pl.data.datamodule import AnimalsDataModule
    from animals_pl.data.info import DataInfo
    from animals_pl.deploy.export import export
    from animals_pl.training.callbacks import GradualUnfreezing, ProgressiveResizing
    from animals_pl.training.classifier import AnimalClassifier
    from animals_pl.training.run import Run, evaluate, fit
    from animals_pl.training.trained import Prediction, TrainedModel, load_model

__version__ = "0.2.0"

__all__ = [
    "AnimalClassifier",
    "AnimalsDataModule",
    "DataInfo",
    "GradualUnfreezing",
    "Prediction",
    "ProgressiveResizing",
    "Run",
    "TrainedModel",
    "evaluate",
    "export",
    "fit",
    "load_model",
]

_MODULES = {
    "AnimalClassifier": "training.classifier",
    "AnimalsDataModule": "data.datamodule",
    "DataInfo": "data.info",
    "GradualUnfreezing": "training.callbacks",
    "Prediction": "training.trained",
    "ProgressiveResizing": "training.callbacks",
    "Run": "training.run",
    "TrainedModel": "training.trained",
    "evaluate": "training.run",
    "export": "deploy.export",
    "fit": "training.run",
    "load_model": "training.trained",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
