"""Grad-CAM: the regions of images that raise the score of a class."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.func import functional_call

from animals_pl.models.from_scratch import SequentialNet
from animals_pl.models.layers import evaluation_mode
from animals_pl.models.transfer import TransferNet


@torch.inference_mode(False)
@torch.enable_grad()
def grad_cam(net: SequentialNet | TransferNet, images: Tensor, labels: Tensor) -> Tensor:
    """Heat maps (B, h, w) in 0…1 of the size of the net's last feature map; 0 where nothing raises the logit.

    Source: R. R. Selvaraju, M. Cogswell, A. Das, R. Vedantam, D. Parikh and D. Batra, "Grad-CAM: Visual Explanations
    from Deep Networks via Gradient-based Localization", 2017. Each map is divided by its maximum.

    Args:
        net: The net, frozen or trainable. It is evaluated in evaluation mode.
        images: (B, 3, S, S) pixels in 0…255, on the device of the net.
        labels: The class to explain, for each image (B,).
    """
    maps: list[Tensor] = []

    def start_graph(module: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        maps.append(output.detach().requires_grad_())
        return maps[0].clone()  # in-place activations cannot change a leaf

    # With detached parameters, the graph starts at the feature map, for frozen and trainable nets alike.
    parameters = {name: parameter.detach() for name, parameter in net.named_parameters()}
    with evaluation_mode(net), _last_map(net).register_forward_hook(start_graph):
        logits = functional_call(net, parameters, (images,))
    (gradient,) = torch.autograd.grad(logits.gather(1, labels[:, None]).sum(), maps[0])
    features, gradient = _channels_last(maps[0].detach()), _channels_last(gradient)
    heat = (features * gradient.mean((1, 2), keepdim=True)).sum(3).relu().float()
    return heat / heat.amax((1, 2), keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)


def _last_map(net: SequentialNet | TransferNet) -> nn.Module:
    """Module whose output is the last feature map.

    In a ViT with a class token, the logits do not depend on the other tokens of the last block's output. The input of
    that block's attention is used instead.
    """
    if isinstance(net, SequentialNet):
        return net.features
    if getattr(net.backbone, "num_prefix_tokens", 0) and hasattr(net.backbone, "blocks"):
        return getattr(net.backbone.blocks[-1], "norm1", net.feature_map)
    return net.feature_map


def _channels_last(maps: Tensor) -> Tensor:
    """(B, h, w, F) of (B, F, h, w), (B, h, w, F), or tokens (B, prefix + h·w, F), with h = w."""
    if maps.dim() == 3:
        side = math.isqrt(maps.shape[1])
        return maps[:, -(side**2) :].unflatten(1, (side, side))
    return maps.permute(0, 2, 3, 1) if maps.shape[2] == maps.shape[3] else maps
