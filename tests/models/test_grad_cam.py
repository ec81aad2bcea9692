"""Heat maps of Grad-CAM, compared with those of the package grad-cam."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from animals_pl.models.grad_cam import grad_cam
from animals_pl.models.registry import build_net

LABELS = torch.tensor([0, 3])


def seeded(name: str, size: int, **options: Any) -> tuple[nn.Module, Tensor]:
    """A net with random weights that do not depend on how it is initialised, and two images (2, 3, S, S)."""
    net = build_net(name, 5, size, **options).eval()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in net.parameters():
            fan_in = max(1, parameter[0].numel()) if parameter.dim() > 1 else 1
            parameter.copy_(torch.randn(parameter.shape, generator=random) / fan_in**0.5)
    return net, torch.randint(0, 256, (2, 3, size, size), generator=random).float()


# The second row of each map of the package grad-cam 1.5.7: GradCAM.get_cam_image with the last feature map (ViT: the
# output of blocks[-1].norm1 without the class token) as the target layer, negative values set to 0, divided by the
# maximum of the map.
CASES: list[tuple[str, int, dict[str, Any], list[list[float]]]] = [
    ("tf_mobilenetv3_small_100", 96, {"features": "pooled"}, [[0.0, 0.7619, 0.799], [0.7066, 0.8429, 1.0]]),
    (
        "tf_mobilenetv3_small_100",
        96,
        {"features": "pre_logits", "head": "dense"},
        [[0.0, 0.0, 0.0], [1.0, 0.8333, 0.7708]],
    ),
    ("test_resnet", 96, {}, [[0.8186, 0.8364, 0.7108], [0.0, 0.0, 0.0]]),
    ("test_mambaout", 96, {}, [[0.0, 0.0715, 0.0], [0.5016, 0.0, 0.0]]),  # (B, h, w, F)
    (
        "test_vit3",
        160,
        {},
        [[0.0] * 10, [0.6502, 0.568, 0.7759, 0.6182, 0.799, 0.6906, 0.6884, 0.4072, 0.6294, 0.4318]],
    ),
    ("shallownet", 8, {}, [[0.0] * 8, [0.0, 0.0, 0.0, 0.1791, 0.0, 0.3449, 0.0, 0.0]]),
    ("minivggnet", 16, {}, [[0.0, 0.0, 0.0, 0.0], [0.955, 0.7196, 0.7091, 0.2242]]),
]
CONVOLUTIONAL, VIT = CASES[0], CASES[4]


@pytest.mark.parametrize(("name", "size", "options", "rows"), CASES)
def test_maps_are_those_of_the_package_grad_cam(name, size, options, rows):
    net, images = seeded(name, size, **options)
    maps = grad_cam(net, images, LABELS)
    assert maps.shape[1] == maps.shape[2]
    torch.testing.assert_close(maps[:, 1], torch.tensor(rows), atol=2e-3, rtol=0)
    assert all(peak in (0, 1) for peak in maps.amax((1, 2)).tolist())


@pytest.mark.parametrize(("name", "size", "options", "rows"), [CONVOLUTIONAL, VIT])
def test_a_frozen_backbone_has_the_same_maps(name, size, options, rows):
    net, images = seeded(name, size, **options)
    frozen = build_net(name, 5, size, **options, freeze=True)
    frozen.load_state_dict(net.state_dict())
    torch.testing.assert_close(grad_cam(frozen, images, LABELS), grad_cam(net, images, LABELS))


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradients_are_computed_where_autograd_is_off(context):
    net, images = seeded("tf_mobilenetv3_small_100", 96)
    expected = grad_cam(net, images, LABELS)
    with context():
        torch.testing.assert_close(grad_cam(net, images.clone(), LABELS), expected)


def test_the_net_is_left_as_it_was():
    net, images = seeded("minivggnet", 16)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    expected = grad_cam(net, images, LABELS)
    net.train()
    torch.testing.assert_close(grad_cam(net, images, LABELS), expected)  # no dropout, no batch statistics
    assert net.training
    assert all(parameter.grad is None and parameter.requires_grad for parameter in net.parameters())
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
