"""BatchNorm statistics over the processes of a distributed run."""

from __future__ import annotations

from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batchnorm(net: nn.Module) -> None:
    """Replace the BatchNorm layers of a net that learn, or may learn later, by ones with common statistics.

    torch has them for GPUs only. timm's own conversion is used, since torch's loses the activations that timm's
    BatchNorm layers contain. Names and values of the state do not change. A frozen layer stays frozen.
    """
    for name, child in net.named_children():
        if any(isinstance(module, _BatchNorm) for module in child.modules()):
            setattr(net, name, convert_sync_batchnorm(child))
