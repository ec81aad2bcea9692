"""config.yaml, split.csv and environment.json of a run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import yaml

from animals_pl import __version__
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.files import atomic_write
from animals_pl.training.checkpoint import SET_BY_DATA
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.disk_space import require_space
from animals_pl.training.environment import record_session


class RunFiles(L.Callback):
    """Writes the configuration, the split and the environment into the run's folder before training.

    Args:
        data: The run's datamodule.
        folder: The run's folder.
        dump_config: Returns the configuration as YAML, with tuned values filled in.
        resumed: Whether the run is resumed; it then keeps its configuration.
    """

    def __init__(
        self,
        data: L.LightningDataModule,
        folder: Path,
        dump_config: Callable[[dict[str, float]], str],
        resumed: bool = False,
    ) -> None:
        self.data = data
        self.folder = folder
        self.dump_config = dump_config
        self.resumed = resumed
        self.tuned: dict[str, float] = {}

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check that checkpoints fit on the disk, and write the files.

        Raises:
            MachineError: There is not enough free space.
        """
        if not trainer.is_global_zero:
            return
        require_space(self.folder, trainer, pl_module)
        if not self.resumed:
            self._write_config()
        if isinstance(self.data, AnimalsDataModule):
            self.data.save_split(self.folder)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Record the session, with the epoch that it starts from."""
        if trainer.is_global_zero:
            record_session(self.folder, trainer)

    def record(self, key: str, value: float) -> None:
        """Put a tuned value such as ``model.lr`` into the configuration, so that repeating the run needs no search."""
        self.tuned[key] = value
        self._write_config()

    def _write_config(self) -> None:
        with atomic_write(self.folder / "config.yaml") as partial:
            partial.write_text(self.dump_config(self.tuned), encoding="utf-8")


def dump_hparams(
    model: AnimalClassifier,
    data: L.LightningDataModule,
    options: dict[str, Any],
    trainer_kwargs: dict[str, Any],
    tuned: dict[str, float],
) -> str:
    """Configuration of a run that was started from Python, as YAML; callbacks and other objects are left out."""
    plain = (bool, int, float, str, list, type(None))
    config: dict[str, Any] = {
        **options,
        "data": {key: value for key, value in data.hparams_initial.items() if not key.startswith("_")},
        "model": {
            key: value
            for key, value in model.hparams_initial.items()
            if key not in SET_BY_DATA and not key.startswith("_")
        },
        "trainer": {key: value for key, value in trainer_kwargs.items() if isinstance(value, plain)},
    }
    for key, value in tuned.items():
        section, _, name = key.partition(".")
        config[section][name] = value
        config["tune"] = None
    return f"# animals_pl {__version__}\n" + yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
