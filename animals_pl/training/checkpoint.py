"""Reading the checkpoints of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from animals_pl.errors import UsageError


def load_checkpoint(file: str | Path) -> dict[str, Any]:
    """Read a checkpoint of this project on the CPU.

    Raises:
        UsageError: The file is missing, or is not such a checkpoint.
    """
    remedy = "pass the best.ckpt or last.ckpt of a run below checkpoints/"
    if not Path(file).is_file():
        raise UsageError(f"ckpt_path={str(file)!r} is not a file; {remedy}")
    try:
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle, zip and torch each raise their own
        raise UsageError(f"ckpt_path={str(file)!r} is not a checkpoint ({type(error).__name__}); {remedy}") from error
    if not isinstance(checkpoint, dict) or "class_names" not in checkpoint.get("hyper_parameters", {}):
        raise UsageError(f"ckpt_path={str(file)!r} is not a checkpoint of animals_pl; {remedy}")
    return checkpoint
