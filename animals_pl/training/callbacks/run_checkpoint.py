"""The checkpoints of a run: the best epoch's, the latest, and where that is asked for some more of the best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor


class KeptCheckpoints(ModelCheckpoint):
    """Keeps the checkpoints of the best epochs as ``epoch=07.ckpt``, numbered as on the screen: the first one is 1.

    Args:
        folder: The run's folder.
        monitor: The metric by which epochs are compared.
        mode: ``min`` or ``max``: when the metric is better.
        keep: How many epochs are kept.
    """

    def __init__(self, folder: Path, monitor: str, mode: str, keep: int) -> None:
        super().__init__(
            folder,
            filename="{epoch:02d}",
            monitor=monitor,
            mode=mode,
            save_top_k=keep,
            save_on_train_epoch_end=False,
            enable_version_counter=False,
        )

    def format_checkpoint_name(self, metrics: dict[str, Tensor], *args: Any, **kwargs: Any) -> str:
        """Return the file of an epoch."""
        return super().format_checkpoint_name({**metrics, "epoch": metrics["epoch"] + 1}, *args, **kwargs)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best epochs so far, as far as their files are here, also where the run's folder was moved."""
        state = _here(state_dict, Path(str(self.dirpath)))
        # Resumed from before the end, epochs that were kept then have had to make way since.
        best = {path: score for path, score in state["best_k_models"].items() if Path(path).is_file()}
        super().load_state_dict({**state, "best_k_models": best})


class RunCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, always under the same name, in the run's folder.

    Lightning's ``save_last`` writes its file only when the best epoch's is written, so a run resumed from it would
    lose every epoch since the best one. A run has two of these callbacks instead.

    Args:
        folder: The run's folder.
        name: The file's name without ``.ckpt``.
        monitor: The metric whose best epoch is kept; ``None`` keeps the latest epoch.
        mode: ``min`` or ``max``: when the metric is better.
        keep: How many of the best epochs have a file each, that of the best one beside the one called ``name``.
            1: the latter only.
    """

    def __init__(
        self, folder: Path, name: str, monitor: str | None = None, mode: str = "min", *, keep: int = 1
    ) -> None:
        super().__init__(
            folder,
            filename=name,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=monitor is None,
            enable_version_counter=False,
        )
        # Inside this one, not beside it in the trainer's list: whichever file a run is resumed from knows both states.
        self.kept = KeptCheckpoints(folder, monitor, mode, keep) if monitor is not None and keep > 1 else None

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Note where the files go."""
        super().setup(trainer, pl_module, stage)
        if self.kept is not None:
            self.kept.setup(trainer, pl_module, stage)

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Keep the epoch where it is one of the best."""
        if self.kept is not None:
            self.kept.on_validation_end(trainer, pl_module)
        super().on_validation_end(trainer, pl_module)

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run has to know of the best epochs."""
        more = {} if self.kept is None else {"kept": self.kept.state_dict()}
        return {**super().state_dict(), **more}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far, also where the run's folder has been moved."""
        super().load_state_dict(_here(state_dict, Path(str(self.dirpath))))
        if self.kept is None or "kept" not in state_dict:
            return
        self.kept.load_state_dict(state_dict["kept"])
        score = state_dict["kept"]["best_model_score"]
        if score is not None:  # the file of a kept epoch was written before this callback had seen that epoch
            self.best_model_path = self.kth_best_model_path = self.format_checkpoint_name({})
            self.best_k_models = {self.best_model_path: score}
            self.best_model_score = self.kth_value = score


def _here(state_dict: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return a checkpoint callback's state with every file in a folder, wherever the run was when it was saved."""

    def here(path: str) -> str:
        return str(folder / Path(path).name) if path else path

    moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
    best = {here(path): score for path, score in state_dict["best_k_models"].items()}
    return {**state_dict, **moved, "best_k_models": best, "dirpath": str(folder)}
