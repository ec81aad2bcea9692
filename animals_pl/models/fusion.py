"""Fuse BatchNorm into the preceding convolution, for faster inference."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TypeVar

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

Net = TypeVar("Net", bound=nn.Module)


def fuse_conv_bn(net: Net, run: Callable[[Net], Tensor]) -> Net:
    """Return a copy of a net in evaluation mode with each BatchNorm fused into the convolution before it.

    The convolution's weights are scaled by γ / √(σ² + ε) and its bias is adjusted (Jacob et al. 2018, "Quantization
    and Training of Neural Networks", section 3.2). 1.3x to 1.5x faster with MobileNetV3 at 224 px on 2 cores.

    Args:
        net: The net. It is not modified.
        run: Calls a net on sample input and returns its output. Used to trace which BatchNorm follows which
            convolution, and to check the result: if the output differs, an unfused copy is returned.
    """
    fused = copy.deepcopy(net).eval()
    expected = run(fused)
    for conv, norm in _pairs(fused, run):
        assert norm.running_mean is not None and norm.running_var is not None
        conv.weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        conv.bias = bias
        rest = nn.Sequential(norm.drop, norm.act) if isinstance(norm, BatchNormAct2d) else nn.Identity()
        name = next(name for name, module in fused.named_modules() if module is norm)
        fused.set_submodule(name, rest)
    same = torch.allclose(run(fused), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    return fused if same else copy.deepcopy(net).eval()


def _pairs(net: Net, run: Callable[[Net], Tensor]) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    """Convolutions that run exactly once, each with the BatchNorm that takes its output."""
    outputs: list[tuple[nn.Conv2d, Tensor]] = []  # keeps the tensors alive, so that `is` comparisons are valid
    found: list[tuple[nn.Conv2d, nn.BatchNorm2d]] = []

    def observe(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if type(module) in (nn.Conv2d, Conv2dSame):  # subclasses may modify their weights in forward()
            outputs.append((module, output))  # type: ignore[arg-type]
        elif isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            found.extend((conv, module) for conv, made in outputs if made is inputs[0])

    hooks = [module.register_forward_hook(observe) for module in net.modules()]
    run(net)
    for hook in hooks:
        hook.remove()
    used = [conv for conv, _ in outputs]
    return [(conv, norm) for conv, norm in found if used.count(conv) == 1]
