"""Fusing BatchNorm into the preceding convolution."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import Tensor, nn

from animals_pl.models import registry
from animals_pl.models.fusion import fuse_conv_bn

IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))


def with_statistics(net: nn.Module) -> nn.Module:
    """Give BatchNorms other statistics and weights than those of a new net."""
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return net.eval()


def norms(net: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in net.modules())


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tf_mobilenetv3_small_100", 0),  # padding that depends on the size
        ("resnet18", 0),
        ("resnetv2_50", 17),  # those before an activation that the sum of two branches goes through
        ("mobilenetv4_conv_small", 0),
        ("densenet121", 62),
        ("convnext_atto", 0),
        ("test_vit", 0),
    ],
)
@torch.no_grad()
def test_fused_net_has_the_same_output(name, left):
    size = 160 if name == "test_vit" else 64
    net = with_statistics(timm.create_model(name, num_classes=0))
    images = torch.rand(2, 3, size, size)
    before = copy.deepcopy(net.state_dict())
    fused = fuse_conv_bn(net, lambda net: net(images[:1]))
    expected = net(images)
    torch.testing.assert_close(fused(images), expected, rtol=1e-4, atol=1e-5 * expected.abs().max().item())
    assert norms(fused) == left
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key


class Twice(nn.Module):
    """A convolution that is used twice, once with BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> Tensor:
        return self.norm(self.conv(images)) + self.conv(images + 1)


class Shared(Twice):
    """A convolution whose output goes elsewhere, too."""

    def forward(self, images: Tensor) -> Tensor:
        output = self.conv(images)
        return self.norm(output) * output


class Standardised(nn.Conv2d):
    """A convolution that scales its weights by itself."""

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.conv2d(images, self.weight / self.weight.norm(), self.bias)


@pytest.mark.parametrize(
    "net",
    [Twice(), Shared(), nn.Sequential(Standardised(3, 4, 3), nn.BatchNorm2d(4))],
    ids=["used twice", "output used twice", "other weights"],
)
@torch.no_grad()
def test_other_convolutions_are_not_fused(net):
    with_statistics(net)
    fused = fuse_conv_bn(net, lambda net: net(IMAGES))
    assert norms(fused) == 1
    torch.testing.assert_close(fused(IMAGES), net(IMAGES))


@torch.no_grad()
def test_fused_weights_equal_the_formula():
    """γ (w·x + b − μ) / √(σ² + ε) + β, written out."""
    conv, norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=0.1)
    net = with_statistics(nn.Sequential(conv, norm))
    fused = fuse_conv_bn(net, lambda net: net(IMAGES))
    factor = norm.weight / torch.sqrt(norm.running_var + 0.1)
    torch.testing.assert_close(fused[0].weight, conv.weight * factor[:, None, None, None])
    torch.testing.assert_close(fused[0].bias, (conv.bias - norm.running_mean) * factor + norm.bias)


def test_for_inference_returns_a_fused_copy_in_evaluation_mode():
    net = registry.build_net("tf_mobilenetv3_small_100", 4, 64, freeze=True)
    with_statistics(net.backbone)
    net.train()
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    quick = net.for_inference(images[:1])
    with torch.no_grad():
        expected = net.forward_features(images)
        torch.testing.assert_close(quick.forward_features(images), expected, rtol=1e-4, atol=1e-5)
    assert not quick.training
    assert net.training
    assert norms(quick) == 0
    assert norms(net) == 34
