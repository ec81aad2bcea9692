"""speed.json: size and speed of a run's model. Does not import torch, which takes seconds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from animals_pl.errors import require_types
from animals_pl.files import atomic_write

BATCH_NORM_BUFFERS = ("running_mean", "running_var", "num_batches_tracked")
BYTES_PER_NUMBER = 4
"""Bytes of a float32."""


@dataclass(frozen=True)
class Size:
    """Size of a model.

    Attributes:
        trainable: Number of trainable parameters; see :func:`model_size`.
        size_mb: Megabytes (10⁶ bytes) of the net's parameters and buffers in float32, as it is deployed.
    """

    trainable: int
    size_mb: float


@dataclass(frozen=True)
class Speed(Size):
    """Contents of speed.json.

    Attributes:
        ms_per_image: Median milliseconds for the logits of one image, with the model's test-time augmentation.
        device: Name of the processor or GPU.
        threads: Number of CPU threads; ``None`` on a GPU.
        precision: Precision of the trainer, such as ``32-true``.
    """

    ms_per_image: float
    device: str
    threads: int | None
    precision: str

    @property
    def conditions(self) -> str:
        """Device, threads and precision of the measurement, as text."""
        threads = "" if self.threads is None else f", {self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"{self.device}{threads}, precision {self.precision}"


def model_size(state_dict: Mapping[str, Any], *, frozen: bool) -> Size:
    """Size of the net of an ``AnimalClassifier``, from its state.

    Args:
        state_dict: Name → tensor.
        frozen: Whether the backbone is frozen; its parameters then do not count as trainable. Buffers, such as
            BatchNorm statistics and the pixels' mean and standard deviation, never do.
    """
    net = {key: tensor for key, tensor in state_dict.items() if key.startswith("net.")}
    excluded = ("net.normalize.", "net.backbone.") if frozen else ("net.normalize.",)
    trainable = (
        tensor.numel()
        for key, tensor in net.items()
        if not key.startswith(excluded) and not key.endswith(BATCH_NORM_BUFFERS)
    )
    numbers = sum(tensor.numel() for tensor in net.values() if tensor.is_floating_point())
    return Size(sum(trainable), BYTES_PER_NUMBER * numbers / 1e6)


def write_speed(file: Path, speed: Speed) -> None:
    """Write speed.json."""
    with atomic_write(file) as partial:
        partial.write_text(json.dumps(asdict(speed), indent=1) + "\n", encoding="utf-8")


def read_speed(file: Path) -> Speed:
    """Read speed.json.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not a speed.json.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or content.keys() != {field.name for field in fields(Speed)}:
        raise ValueError("not the speed of a run")
    require_types(Speed, content)
    return Speed(**content)
