"""The two checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch.callbacks import ModelCheckpoint


class RunCheckpoint(ModelCheckpoint):
    """Keeps one checkpoint, always under the same name, in the run's folder.

    Lightning's ``save_last`` writes its file only when the best epoch's is written, so a run resumed from it would
    lose every epoch since the best one. A run has two of these callbacks instead.

    Args:
        folder: The run's folder.
        name: The file's name without ``.ckpt``.
        monitor: The metric whose best epoch is kept; ``None`` keeps the latest epoch.
        mode: ``min`` or ``max``: when the metric is better.
    """

    def __init__(self, folder: Path, name: str, monitor: str | None = None, mode: str = "min") -> None:
        super().__init__(
            folder,
            filename=name,
            monitor=monitor,
            mode=mode,
            save_on_train_epoch_end=monitor is None,
            enable_version_counter=False,
        )

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take over the best score so far, also where the run's folder has been moved."""
        folder = Path(str(self.dirpath))

        def here(path: str) -> str:
            return str(folder / Path(path).name) if path else path

        moved = {key: here(state_dict[key]) for key in ("best_model_path", "kth_best_model_path", "last_model_path")}
        best = {here(path): score for path, score in state_dict["best_k_models"].items()}
        super().load_state_dict({**state_dict, **moved, "best_k_models": best, "dirpath": str(folder)})
