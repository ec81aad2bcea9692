"""Refuse to resume a run with other images or another number of processes."""

from __future__ import annotations

import hashlib
from typing import Any

import lightning as L

from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError, counted


class TrainedWith(L.Callback):
    """Stores in checkpoints what the batches of a run depend on, and checks it when the run is resumed.

    Args:
        data: The run's datamodule. Images are compared only for an AnimalsDataModule.
    """

    def __init__(self, data: L.LightningDataModule) -> None:
        self.data = data
        self.facts: dict[str, Any] = {}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Collect the facts: number of processes, number of images, and a hash of the split."""
        self.facts = {"processes": trainer.world_size}
        if isinstance(self.data, AnimalsDataModule):
            catalogs = [self.data.catalogs[split] for split in ("train", "val")]
            digest = hashlib.sha256()
            for catalog in catalogs:
                digest.update("\n".join([*catalog.sha256, *map(str, catalog.labels.tolist()), ""]).encode())
            self.facts |= {"images": [len(catalog.paths) for catalog in catalogs], "split": digest.hexdigest()}
            self.facts["unlabelled"] = self.data.hparams["unlabelled"] is not None

    def state_dict(self) -> dict[str, Any]:
        """The facts."""
        return self.facts

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Compare the facts with those of the checkpoint.

        Raises:
            UsageError: They differ.
        """
        trained = counted(state_dict["processes"], "process")
        if state_dict["processes"] != self.facts["processes"]:
            raise UsageError(
                f"the run was trained by {trained}; with {self.facts['processes']}, its batches would differ. "
                "Pass the same trainer.devices and trainer.num_nodes, or start a new run."
            )
        if state_dict.get("split") != self.facts.get("split"):
            before, now = (_images(facts) for facts in (state_dict, self.facts))
            change = "but their contents or classes have changed" if before == now else f"but now there are {now}"
            raise UsageError(f"the run was trained with {before}, {change}. Restore the images, or start a new run.")
        if state_dict.get("unlabelled", False) != self.facts.get("unlabelled", False):
            before, remedy = ("without", "Remove") if self.facts["unlabelled"] else ("with", "Pass its")
            raise UsageError(
                f"the run was trained {before} unlabelled images. {remedy} data.unlabelled, or start a new run."
            )


def _images(facts: dict[str, Any]) -> str:
    if "images" not in facts:
        return "custom data loaders"
    train, val = facts["images"]
    return f"{train:,} training and {val:,} validation images"
