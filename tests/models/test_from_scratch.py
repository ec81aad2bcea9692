"""ShallowNet, LeNet and MiniVGGNet against Keras's definitions, written out by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from animals_pl.errors import UsageError
from animals_pl.models.registry import FROM_SCRATCH, build_net

NETS = sorted(FROM_SCRATCH)
SMALLEST = {"shallownet": 1, "lenet": 4, "minivggnet": 4}


def conv(kernel: int, inputs: int, outputs: int) -> int:
    """Parameters of keras.layers.Conv2D."""
    return (kernel * kernel * inputs + 1) * outputs


def dense(inputs: int, outputs: int) -> int:
    """Parameters of keras.layers.Dense."""
    return (inputs + 1) * outputs


def pooled(side: int) -> int:
    """Side of the map after keras.layers.MaxPooling2D(2), whose "valid" padding drops an odd last row."""
    return (side - 2) // 2 + 1


def keras_count(net: str, size: int, classes: int) -> int:
    """Trainable parameters, layer by layer; BatchNorm has gamma and beta."""
    side = pooled(pooled(size))
    if net == "shallownet":
        return conv(3, 3, 32) + dense(32 * size * size, classes)
    if net == "lenet":
        return conv(5, 3, 20) + conv(5, 20, 50) + dense(50 * side * side, 500) + dense(500, classes)
    blocks = conv(3, 3, 32) + conv(3, 32, 32) + conv(3, 32, 64) + conv(3, 64, 64) + 2 * (32 + 32 + 64 + 64)
    return blocks + dense(64 * side * side, 512) + 2 * 512 + dense(512, classes)


def on_meta(net: str, classes: int, size: int) -> nn.Module:
    """Build a net without memory for its weights: MiniVGGNet at 224 px would take 400 MB."""
    with torch.device("meta"):
        return build_net(net, classes, size)


def trainable(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def images(size: int, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def with_random_batchnorm(net: nn.Module) -> nn.Module:
    """Give every BatchNorm statistics, scale and shift far from where they start."""
    for module in net.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values, low, high in (
                (module.running_mean, -0.2, 0.2),
                (module.running_var, 0.001, 0.1),
                (module.weight.data, 0.5, 1.5),
                (module.bias.data, -0.5, 0.5),
            ):
                values.uniform_(low, high)
    return net


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(
    ("net", "count"), [("shallownet", 16_057_226), ("lenet", 78_432_080), ("minivggnet", 102_833_066)]
)
def test_parameter_count_is_the_reference_s_at_224_pixels_and_ten_classes(net: str, count: int) -> None:
    network = on_meta(net, 10, 224)
    assert trainable(network) == count == sum(parameter.numel() for parameter in network.parameters())


def test_minivggnet_with_its_batchnorm_statistics_counts_what_keras_counts() -> None:
    network = on_meta("minivggnet", 10, 224)
    statistics = sum(
        values.numel() for name, values in network.named_buffers() if name.endswith(("running_mean", "running_var"))
    )
    assert trainable(network) + statistics == 102_834_474


@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("size", [4, 64, 65, 66, 67, 100])
@pytest.mark.parametrize("net", NETS)
def test_parameter_count_follows_keras_s_layers_at_any_size(net: str, size: int, classes: int) -> None:
    assert trainable(on_meta(net, classes, size)) == keras_count(net, size, classes)


POOL = [nn.MaxPool2d]
CONV = [nn.Conv2d, nn.ReLU]
LAYERS = {
    "shallownet": [*CONV, nn.Linear],
    "lenet": [*CONV, *POOL, *CONV, *POOL, nn.Linear, nn.ReLU, nn.Linear],
    "minivggnet": [
        *2 * [*2 * [*CONV, nn.BatchNorm2d], *POOL, nn.Dropout],
        *[nn.Linear, nn.ReLU, nn.BatchNorm1d, nn.Dropout, nn.Linear],
    ],
}


@pytest.mark.parametrize("net", NETS)
def test_layers_stand_in_the_reference_s_order(net: str) -> None:
    network = build_net(net, 10, 8)
    parts = [network.features, network.head]
    leaves = [module for part in parts for module in part.modules() if not list(module.children())]
    assert [type(leaf) for leaf in leaves] == LAYERS[net]


def test_minivggnet_drops_a_quarter_after_each_block_and_half_before_the_last_layer() -> None:
    rates = [module.p for module in build_net("minivggnet", 10, 8).modules() if isinstance(module, nn.Dropout)]
    assert rates == [0.25, 0.25, 0.5]


def shallownet_by_hand(pixels: Tensor, w: list[Tensor]) -> Tensor:
    return F.linear(F.relu(F.conv2d(pixels, w[0], w[1], padding=1)).flatten(1), w[2], w[3])


def lenet_by_hand(pixels: Tensor, w: list[Tensor]) -> Tensor:
    x = F.max_pool2d(F.relu(F.conv2d(pixels, w[0], w[1], padding=2)), 2)
    x = F.max_pool2d(F.relu(F.conv2d(x, w[2], w[3], padding=2)), 2)
    return F.linear(F.relu(F.linear(x.flatten(1), w[4], w[5])), w[6], w[7])


def minivggnet_by_hand(pixels: Tensor, w: list[Tensor]) -> Tensor:
    """Keras's inference: gamma · (x - mean) / sqrt(variance + 0.001) + beta, and no dropout."""

    def normalise(x: Tensor, gamma: Tensor, beta: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        shape = (1, -1, *[1] * (x.ndim - 2))
        gamma, beta, mean, variance = (values.view(shape) for values in (gamma, beta, mean, variance))
        return gamma * (x - mean) / (variance + 0.001).sqrt() + beta

    x = pixels
    for start in (0, 12):
        for first in (start, start + 6):
            x = normalise(F.relu(F.conv2d(x, w[first], w[first + 1], padding=1)), *w[first + 2 : first + 6])
        x = F.max_pool2d(x, 2)
    x = normalise(F.relu(F.linear(x.flatten(1), w[24], w[25])), *w[26:30])
    return F.linear(x, w[30], w[31])


@pytest.mark.parametrize("size", [16, 19])
@pytest.mark.parametrize(
    ("net", "by_hand"),
    [("shallownet", shallownet_by_hand), ("lenet", lenet_by_hand), ("minivggnet", minivggnet_by_hand)],
)
def test_logits_equal_the_formula_in_evaluation_mode(
    net: str, by_hand: Callable[[Tensor, list[Tensor]], Tensor], size: int
) -> None:
    network = with_random_batchnorm(build_net(net, 10, size)).double().eval()
    weights = [
        values
        for name, values in network.state_dict().items()
        if not name.startswith("normalize.") and not name.endswith("num_batches_tracked")
    ]
    pixels = images(size)
    with torch.no_grad():
        torch.testing.assert_close(network(pixels), by_hand(pixels.double() / 255, weights), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("classes", [3, 10])
def test_uint8_and_float_pixels_give_the_same_logits(net: str, classes: int) -> None:
    network = build_net(net, classes, 16).eval()
    pixels = images(16)
    logits = network(pixels)
    assert logits.shape == (2, classes)
    assert logits.dtype == torch.float32
    assert logits.std() > 0
    assert torch.equal(logits, network(pixels.float()))


def test_pixels_are_divided_by_255() -> None:
    pixels = images(16)
    torch.testing.assert_close(build_net("lenet", 10, 16).normalize(pixels), pixels / 255, rtol=1e-6, atol=0)


@pytest.mark.parametrize("net", NETS)
def test_a_net_in_double_precision_takes_any_pixels(net: str) -> None:
    network = build_net(net, 10, 16).double().eval()
    assert network(images(16)).dtype == network(images(16).float()).dtype == torch.float64


@pytest.mark.parametrize(("net", "width"), [("shallownet", 32 * 18**2), ("lenet", 50 * 16), ("minivggnet", 64 * 16)])
def test_forward_is_the_head_on_flat_features(net: str, width: int) -> None:
    network = build_net(net, 10, 18).eval()
    features = network.forward_features(images(18))
    assert features.shape == (2, width)
    assert torch.equal(network.forward_head(features), network(images(18)))


@pytest.mark.parametrize("net", NETS)
def test_kernels_start_glorot_uniform_and_biases_at_zero(net: str) -> None:
    layers = [module for module in build_net(net, 10, 32).modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    assert len(layers) == {"shallownet": 2, "lenet": 4, "minivggnet": 6}[net]
    for layer in layers:
        outputs, inputs, *kernel = layer.weight.shape
        bound = math.sqrt(6 / (math.prod(kernel) * (inputs + outputs)))
        count = layer.weight.numel()
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        # of a uniform sample: the mean's deviation is bound/√(3n), the mean square's is √(0.8/n) of it
        assert abs(layer.weight.mean()) < 4 * bound / math.sqrt(3 * count)
        assert layer.weight.square().mean().item() == pytest.approx(bound**2 / 3, rel=4 * math.sqrt(0.8 / count))
        assert not layer.bias.any()


def test_batchnorm_starts_and_moves_as_keras_s() -> None:
    network = build_net("minivggnet", 10, 16)
    layers = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert [(layer.eps, layer.momentum) for layer in layers] == [(1e-3, 0.01)] * 5
    for layer in layers:
        assert torch.equal(layer.weight, torch.ones_like(layer.weight))
        assert torch.equal(layer.bias, torch.zeros_like(layer.bias))
    pixels = images(16, count=8)
    seen = F.relu(network.features[0](pixels / 255)).mean((0, 2, 3))
    network.train()(pixels)
    torch.testing.assert_close(network.features[2].running_mean, 0.99 * torch.zeros(32) + 0.01 * seen)


def test_dropout_acts_in_training_mode_only() -> None:
    network = build_net("minivggnet", 10, 16)
    pixels = images(16, count=8)
    network.train()
    assert not torch.equal(network(pixels), network(pixels))
    network.eval()
    assert torch.equal(network(pixels), network(pixels))


@pytest.mark.parametrize("net", ["shallownet", "lenet"])
def test_a_net_without_dropout_and_batchnorm_is_the_same_in_both_modes(net: str) -> None:
    network = build_net(net, 10, 16)
    assert torch.equal(network.train()(images(16)), network.eval()(images(16)))


@pytest.mark.parametrize("net", NETS)
def test_every_parameter_learns(net: str) -> None:
    network = build_net(net, 10, 16)
    F.cross_entropy(network(images(16, count=8)), torch.arange(8)).backward()
    assert [name for name, parameter in network.named_parameters() if not parameter.grad.any()] == []


@pytest.mark.parametrize("net", NETS)
def test_a_net_is_tied_to_its_size(net: str) -> None:
    network = build_net(net, 10, 16).eval()
    assert network.fixed_size is True
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(images(24))


@pytest.mark.parametrize("net", NETS)
def test_the_smallest_size_works_and_one_pixel_less_is_refused(net: str) -> None:
    smallest = SMALLEST[net]
    assert build_net(net, 10, smallest)(images(smallest)).shape == (2, 10)
    with pytest.raises(UsageError, match=rf"data\.size={smallest - 1} .*'{net}'.* {smallest} or more"):
        build_net(net, 10, smallest - 1)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize(
    ("option", "value"), [("head", "dense"), ("features", "pre_logits"), ("freeze", True), ("dropout", 0.5)]
)
def test_an_option_of_transfer_nets_is_refused(net: str, option: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"model\.{option}={value!r} .*model\.net='{net}'"):
        build_net(net, 10, 16, **{option: value})
