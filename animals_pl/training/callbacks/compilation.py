"""Train a net that torch.compile has made quicker."""

from __future__ import annotations

from typing import Any

import lightning as L


class Compilation(L.Callback):
    """Compiles the net in place, so that its parameters and checkpoints keep their names.

    Each training size and the validation are compiled by themselves, a minute or more in all. On two cores it hardly
    pays: MobileNetV3-Small trains 1.1 times as fast at 224 px and no faster at 128 px. What a GPU gains by it,
    ``scripts/bench_gpu.py`` tells.
    """

    def on_fit_start(self, trainer: Any, pl_module: Any) -> None:
        """Have the net compiled when it is first called."""
        pl_module.net.compile()
