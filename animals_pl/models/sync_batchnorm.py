"""BatchNorm statistics over the processes of a distributed run."""

from __future__ import annotations

from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


def synchronize_batchnorm(net: nn.Module) -> None:
    """Replace the BatchNorm layers of a net by SyncBatchNorm, which uses the statistics of all processes.

    PyTorch has it for GPUs only. timm's conversion is used, because that of PyTorch loses the activations that timm's
    BatchNorm layers contain. The keys and values of the state_dict do not change. A frozen layer stays frozen.
    """
    for name, child in net.named_children():
        if any(isinstance(module, _BatchNorm) for module in child.modules()):
            setattr(net, name, convert_sync_batchnorm(child))
