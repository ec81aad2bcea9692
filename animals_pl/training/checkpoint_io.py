"""Write checkpoints."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import CheckpointIO, TorchCheckpointIO

from animals_pl.errors import MachineError
from animals_pl.files import atomic_write
from animals_pl.training.checkpoint import disk_full_remedy


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its target, flushes it to the disk, then renames it.

    Lightning saves to the temp directory and copies, which corrupts an existing checkpoint if the disk fills up.
    Checksums are verified when it is read (see :func:`~animals_pl.training.checkpoint.damaged_record`).
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Save a checkpoint.

        Raises:
            MachineError: The file cannot be written; an earlier one is kept.
        """
        buffer = io.BytesIO()  # torch.save to a file hides the reason for a failure
        torch.save(checkpoint, buffer)
        content = buffer.getvalue()  # not a copy; getbuffer() crashes Python 3.12 if Ctrl-C interrupts the write
        try:
            with atomic_write(Path(path)) as partial:
                partial.write_bytes(content)
        except OSError as error:
            kept = "; an earlier file of this name is kept" if Path(path).exists() else ""
            size = f"{len(content) / 1e6:,.1f} MB needed"
            raise MachineError(
                f"cannot write {str(path)!r} ({error.strerror}), {size}{kept}. {disk_full_remedy(Path(path).parent)}"
            ) from error


def with_atomic_io(plugins: Any) -> list[Any]:
    """The trainer's plugins with :class:`AtomicCheckpointIO`, unless they include a ``CheckpointIO``."""
    given = plugins if isinstance(plugins, list) else [plugins] if plugins is not None else []
    return given if any(isinstance(plugin, CheckpointIO) for plugin in given) else [*given, AtomicCheckpointIO()]
