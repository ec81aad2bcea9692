"""Transfer nets against timm's own models and the reference's counts."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import huggingface_hub.constants
import pytest
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from timm.models import _builder
from torch import Tensor, nn

from animals_pl.errors import UsageError
from animals_pl.models.registry import build_net
from animals_pl.models.synsets import IMAGENET_CLASSES
from animals_pl.models.transfer import TransferNet

SMALL = "tf_mobilenetv3_small_100"
LARGE = "tf_mobilenetv3_large_100"
LARGE_MINIMAL = "tf_mobilenetv3_large_minimal_100"
TINY = ["test_resnet", "test_efficientnet", "test_convnext", "test_nfnet", "test_vit", "test_vit4", "test_maxvit"]
NAMES = ("zebra", "unicorn", "dog", "cow", "red_panda")
ROWS = {"zebra": [340], "dog": list(range(151, 269)), "cow": [345], "red_panda": [387]}
FIXED_SIZE = {"test_vit", "test_vit4", "test_maxvit"}

HALF = (0.5, 0.5, 0.5)
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def images(size: int = 64, count: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(5))


def trainable(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters() if parameter.requires_grad)


def on_meta(net: str, **options: object) -> TransferNet:
    """Build a net without memory or time for its weights."""
    with torch.device("meta"):
        return build_net(net, 10, 64, **options)


def copy_of(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.clone() for name, values in state.items()}


def assert_same_tensors(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert state.keys() == expected.keys()
    assert [name for name, values in state.items() if not torch.equal(values, expected[name])] == []


def timm_twin(net: TransferNet, mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[nn.Module, Tensor]:
    """Return timm's whole model with the net's backbone in it, and a normalised batch for it."""
    size = {"img_size": net.input_size} if net.fixed_size else {}
    twin = timm.create_model(net.name, **size).eval()
    absent, unknown = twin.load_state_dict(net.backbone.state_dict(), strict=False)
    assert unknown == []
    assert {name.split(".")[0] for name in absent} <= {"classifier", "conv_head", "head", "fc"}
    pixels = images(net.input_size).float() / 255
    return twin, (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def assert_same_features(features: Tensor, expected: Tensor) -> None:
    """Compare on the scale of the features, which a random net makes tiny."""
    assert expected.std() > 0
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


# ---- parameters


@pytest.mark.parametrize(
    ("net", "options", "count"),
    [
        (LARGE, {}, 9_610),
        (LARGE, {"head": "dense"}, 124_298),
        (LARGE, {"features": "pre_logits"}, 12_810),
        (SMALL, {}, 5_770),
        (SMALL, {"head": "dense"}, 75_146),
        (SMALL, {"features": "pre_logits"}, 10_250),
        ("resnetv2_50", {}, 20_490),
    ],
)
def test_a_frozen_net_learns_as_many_parameters_as_the_reference_s(
    net: str, options: dict[str, str], count: int
) -> None:
    assert trainable(on_meta(net, freeze=True, **options)) == count


@pytest.mark.parametrize(
    ("net", "count", "with_statistics"), [(LARGE, 2_971_952, 2_996_352), (SMALL, 927_008, 939_120)]
)
def test_the_backbone_has_the_parameters_and_statistics_of_keras_s(net: str, count: int, with_statistics: int) -> None:
    backbone = on_meta(net).backbone
    assert trainable(backbone) == count
    statistics = sum(
        values.numel() for name, values in backbone.named_buffers() if not name.endswith("num_batches_tracked")
    )
    assert count + statistics == with_statistics


@pytest.mark.parametrize("net", [SMALL, "test_vit"])
def test_an_unfrozen_net_learns_everything(net: str) -> None:
    network = on_meta(net)
    assert trainable(network) == sum(parameter.numel() for parameter in network.parameters())
    assert trainable(network.backbone) > trainable(network.head) > 0


def test_pooled_features_have_no_conv_head() -> None:
    pooled, pre_logits = (on_meta(SMALL, features=features).state_dict() for features in ("pooled", "pre_logits"))
    assert pre_logits.keys() - pooled.keys() == {"backbone.conv_head.weight", "backbone.conv_head.bias"}
    assert pooled.keys() < pre_logits.keys()


@pytest.mark.parametrize("features", ["pooled", "pre_logits"])
@pytest.mark.parametrize("net", [SMALL, "mobilenetv4_conv_small", "efficientvit_b0", "test_resnet", "test_vit"])
def test_no_layer_is_dead_weight(net: str, features: str) -> None:
    network = build_net(net, 10, 64, features=features)
    network(images()).sum().backward()
    assert [name for name, parameter in network.named_parameters() if parameter.grad is None] == []


# ---- forward pass


@pytest.mark.parametrize(
    ("net", "mean", "std"), [(SMALL, HALF, HALF), ("mobilenetv3_large_100.ra_in1k", IMAGENET_MEAN, IMAGENET_STD)]
)
def test_pooled_features_are_the_mean_over_timm_s_last_map(
    net: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    network = build_net(net, 10, 64).eval()
    twin, pixels = timm_twin(network, mean, std)
    with torch.no_grad():
        expected = twin.forward_features(pixels).mean((2, 3))
        assert_same_features(network.forward_features(images()), expected)


@pytest.mark.parametrize(
    ("net", "features", "mean", "std"),
    [
        (SMALL, "pre_logits", HALF, HALF),
        ("mobilenetv3_large_100.ra_in1k", "pre_logits", IMAGENET_MEAN, IMAGENET_STD),
        ("test_resnet", "pooled", HALF, HALF),
        ("test_vit", "pooled", HALF, HALF),
        ("test_convnext", "pooled", HALF, HALF),
        ("test_efficientnet", "pre_logits", IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_other_features_are_what_timm_s_classifier_would_see(
    net: str, features: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    network = build_net(net, 10, 64, features=features).eval()
    twin, pixels = timm_twin(network, mean, std)
    with torch.no_grad():
        expected = twin.forward_head(twin.forward_features(pixels), pre_logits=True)
        assert_same_features(network.forward_features(images()), expected)


@pytest.mark.parametrize(
    ("net", "mean", "std"),
    [
        (SMALL, HALF, HALF),
        ("mobilenetv3_large_100.ra_in1k", IMAGENET_MEAN, IMAGENET_STD),
        ("mobilenetv3_large_100.miil_in21k", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        ("test_efficientnet", IMAGENET_MEAN, IMAGENET_STD),
    ],
)
def test_pixels_are_normalised_with_the_weights_own_mean_and_deviation(
    net: str, mean: tuple[float, ...], std: tuple[float, ...]
) -> None:
    normalize = build_net(net, 10, 64).normalize
    expected = torch.stack([(images()[:, i].double() / 255 - mean[i]) / std[i] for i in range(3)], 1)
    torch.testing.assert_close(normalize(images()).double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("head", ["linear", "dense"])
@pytest.mark.parametrize("net", [SMALL, *TINY])
def test_uint8_and_float_pixels_give_the_same_logits(net: str, head: str) -> None:
    network = build_net(net, 7, 64, head=head).eval()
    logits = network(images())
    assert logits.shape == (2, 7)
    assert logits.std() > 0
    assert torch.equal(logits, network(images().float()))
    features = network.forward_features(images())
    assert features.ndim == 2
    assert torch.equal(logits, network.forward_head(features))
    assert network.fixed_size is (net in FIXED_SIZE)


@pytest.mark.parametrize("net", [SMALL, "test_resnet", "test_efficientnet", "test_convnext", "test_mambaout"])
def test_a_net_of_no_fixed_size_takes_images_of_other_sizes(net: str) -> None:
    network = build_net(net, 10, 64).eval()
    assert network.fixed_size is False
    assert network.forward_features(images(96)).shape == network.forward_features(images(64)).shape
    assert network(images(96)).shape == (2, 10)


def test_a_vision_transformer_is_built_for_the_size_asked_for() -> None:
    network = build_net("vit_tiny_patch16_224", 10, 96).eval()
    assert network.fixed_size is True
    assert network.backbone.pos_embed.shape == (1, 1 + (96 // 16) ** 2, 192)
    assert network(images(96)).shape == (2, 10)


# ---- head


@pytest.mark.parametrize("head", ["linear", "dense"])
def test_the_head_starts_as_keras_s(head: str) -> None:
    layers = [module for module in build_net("test_resnet", 10, 64, head=head).head if isinstance(module, nn.Linear)]
    assert [tuple(layer.weight.shape) for layer in layers] == {
        "linear": [(10, 96)],
        "dense": [(128, 96), (10, 128)],
    }[head]
    for layer in layers:
        bound = math.sqrt(6 / sum(layer.weight.shape))
        assert 0.98 * bound < layer.weight.abs().max() <= bound
        assert layer.weight.square().mean().item() == pytest.approx(
            bound**2 / 3, rel=4 * math.sqrt(0.8 / layer.weight.numel())
        )
        assert not layer.bias.any()


@pytest.mark.parametrize("dropout", [0.0, 0.2, 0.5])
def test_dropout_before_the_last_layer_has_the_rate_asked_for_in_training_mode_only(dropout: float) -> None:
    network = build_net("test_resnet", 96, 64, dropout=dropout)
    with torch.no_grad():
        network.head[-1].weight.copy_(torch.eye(96))
    features = torch.ones(500, 96)
    kept = network.train().forward_head(features)
    torch.testing.assert_close(kept[kept != 0].unique(), torch.tensor([1 / (1 - dropout)]))
    deviation = math.sqrt(dropout * (1 - dropout) / kept.numel())
    assert abs((kept == 0).float().mean().item() - dropout) <= 4 * deviation
    assert torch.equal(network.eval().forward_head(features), features)


def test_the_dense_head_is_dense_relu_dropout_dense() -> None:
    network = build_net("test_resnet", 128, 64, head="dense", dropout=0.5).train()
    first, last = network.head[0], network.head[-1]
    with torch.no_grad():
        first.weight.zero_()
        first.bias.copy_(torch.tensor([3.0, -3.0]).repeat(64))
        last.weight.copy_(torch.eye(128))
    positive, negative = network.forward_head(torch.ones(100, 96)).view(100, 64, 2).unbind(-1)
    assert sorted(positive.unique().tolist()) == [0, 6]  # dropout after the ReLU doubles what it keeps
    assert not negative.any()


# ---- freezing


def training_step(net: nn.Module) -> None:
    optimizer = torch.optim.SGD([parameter for parameter in net.parameters() if parameter.requires_grad], lr=0.1)
    F.cross_entropy(net.train()(images(count=4)), torch.arange(4)).backward()
    optimizer.step()


@pytest.mark.parametrize("features", ["pooled", "pre_logits"])
@pytest.mark.parametrize("net", [SMALL, "test_resnet", "test_vit"])
def test_training_leaves_every_bit_of_a_frozen_backbone_and_moves_the_head(net: str, features: str) -> None:
    network = build_net(net, 10, 64, features=features, freeze=True)
    backbone, head = copy_of(network.backbone.state_dict()), copy_of(network.head.state_dict())
    training_step(network)
    assert_same_tensors(network.backbone.state_dict(), backbone)
    assert [name for name, values in network.head.state_dict().items() if torch.equal(values, head[name])] == []


def test_a_frozen_backbone_stays_in_evaluation_mode_while_the_head_trains() -> None:
    network = build_net(SMALL, 10, 64, freeze=True)
    for mode in (True, False, True):
        assert network.train(mode) is network
        assert not any(module.training for module in network.backbone.modules())
        assert all(module.training is mode for module in network.head.modules())


def test_a_frozen_backbone_builds_no_graph_and_the_gradient_stops_at_the_head() -> None:
    network = build_net(SMALL, 10, 64, freeze=True).train()
    assert network.forward_features(images()).requires_grad is False
    network(images()).sum().backward()
    assert all(parameter.grad is None for parameter in network.backbone.parameters())
    assert all(parameter.grad.any() for parameter in network.head.parameters())


def test_training_moves_the_statistics_and_weights_of_an_unfrozen_backbone() -> None:
    network = build_net(SMALL, 10, 64)
    before = copy_of(network.backbone.state_dict())
    training_step(network)
    after = network.backbone.state_dict()
    still = {name for name, values in after.items() if torch.equal(values, before[name])}
    statistics = {name for name in after if name.endswith(("running_mean", "running_var"))}
    kernels = {name for name in after if "conv" in name and name.endswith("weight")}
    assert len(statistics) > 60
    assert len(kernels) > 40
    assert still & (statistics | kernels) == set()


def test_an_unfrozen_net_builds_no_graph_without_grad() -> None:
    network = build_net("test_resnet", 10, 64)
    with torch.no_grad():
        assert network(images()).requires_grad is False
    assert network.forward_features(images()).requires_grad is True


def test_a_new_unfrozen_net_is_in_training_mode_throughout() -> None:
    assert all(module.training for module in build_net("test_resnet", 10, 64).modules())


# ---- refused


@pytest.mark.parametrize(
    ("net", "nearest"),
    [
        ("mobilnetv3_large_100", "'mobilenetv3_large_100'"),
        ("lenett", "'lenet'"),
        ("MiniVGGNet", "'minivggnet'"),
        ("resnet5O.a1_in1k", "'resnet50'"),
    ],
)
def test_an_unknown_net_is_refused_with_the_nearest_name(net: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=rf"model\.net='{net}' is unknown\. Did you mean {nearest}\?"):
        build_net(net, 10, 64)


def test_an_unknown_net_without_a_near_name_is_refused() -> None:
    with pytest.raises(UsageError, match=r"model\.net='§§§§' is unknown\. Choose shallownet, lenet, minivggnet"):
        build_net("§§§§", 10, 64)


def test_a_wrong_weights_tag_is_refused_with_the_tags_that_exist() -> None:
    with pytest.raises(UsageError, match=r"model\.net='mobilenetv3_large_100\.in1k'.* mobilenetv3_large_100\.ra_in1k"):
        build_net("mobilenetv3_large_100.in1k", 10, 64)


@pytest.mark.parametrize(("net", "size"), [("vit_tiny_patch16_224", 7), ("test_vit", 8), ("test_coatnet", 50)])
def test_a_size_that_a_net_cannot_take_is_refused(net: str, size: int) -> None:
    with pytest.raises(UsageError, match=rf"data\.size={size} .*model\.net='{net}'"):
        build_net(net, 10, size)


# ---- weights


def save(state: dict[str, Tensor], path: Path) -> str:
    (save_file if path.suffix == ".safetensors" else torch.save)(state, path)
    return str(path)


@pytest.mark.parametrize("freeze", [True, False])
@pytest.mark.parametrize(
    ("net", "features", "left_out"),
    [
        (SMALL, "pooled", {"classifier", "conv_head"}),
        (SMALL, "pre_logits", {"classifier"}),
        (LARGE_MINIMAL, "pooled", {"classifier", "conv_head"}),
    ],
)
def test_pretrained_weights_are_the_file_s_tensors(
    weights_folder: Path, net: str, features: str, left_out: set[str], freeze: bool
) -> None:
    path = weights_folder / f"{net}.safetensors"
    expected = {name: values for name, values in load_file(path).items() if name.split(".")[0] not in left_out}
    network = build_net(net, 10, 64, features=features, freeze=freeze)
    head = copy_of(network.head.state_dict())
    network.load_weights(str(path))
    assert_same_tensors(network.backbone.state_dict(), expected)
    assert_same_tensors(network.head.state_dict(), head)
    assert all(parameter.requires_grad is not freeze for parameter in network.backbone.parameters())
    assert all(module.training is not freeze for module in network.backbone.modules())
    assert network(images()).shape == (2, 10)


def test_a_frozen_backbone_with_loaded_weights_does_not_move(weights_folder: Path) -> None:
    network = build_net(SMALL, 10, 64, freeze=True)
    network.load_weights(str(weights_folder / f"{SMALL}.safetensors"))
    before = copy_of(network.backbone.state_dict())
    training_step(network)
    assert_same_tensors(network.backbone.state_dict(), before)


def test_loading_keeps_evaluation_mode(tmp_path: Path) -> None:
    network = build_net("test_resnet", 10, 64).eval()
    network.load_weights(save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.pth"))
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("num_classes", [0, 10, 1000])
def test_a_file_may_have_any_classifier_or_none(tmp_path: Path, suffix: str, num_classes: int) -> None:
    donor = timm.create_model("test_resnet", num_classes=num_classes).state_dict()
    network = build_net("test_resnet", 10, 64)
    network.load_weights(save(donor, tmp_path / f"weights{suffix}"))
    backbone = {name: values for name, values in donor.items() if not name.startswith("fc.")}
    assert_same_tensors(network.backbone.state_dict(), backbone)


def test_weights_of_a_vision_transformer_fit_another_size(tmp_path: Path) -> None:
    donor = timm.create_model("test_vit", img_size=160).state_dict()
    network = build_net("test_vit", 10, 64)
    network.load_weights(save(donor, tmp_path / "weights.safetensors"))
    state = network.backbone.state_dict()
    assert state.pop("pos_embed").shape != donor["pos_embed"].shape
    assert_same_tensors(
        state, {name: values for name, values in donor.items() if not name.startswith(("head.", "pos_embed"))}
    )
    assert network(images()).shape == (2, 10)


@pytest.mark.parametrize("name", ["absent.safetensors", "imagenet21k", ""])
def test_missing_weights_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=rf"model\.weights='{name}' is not a file"):
        build_net("test_resnet", 10, 64).load_weights(name)


def of_the_same_family(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return timm.create_model("test_efficientnet").state_dict()


def of_another_family(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return timm.create_model("test_vit").state_dict()


def without_half_of_it(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return dict(list(state.items())[: len(state) // 2])


def empty(_: dict[str, Tensor]) -> dict[str, Tensor]:
    return {}


@pytest.mark.parametrize("spoil", [of_the_same_family, of_another_family, without_half_of_it, empty])
def test_weights_that_do_not_fit_are_refused(
    tmp_path: Path, spoil: Callable[[dict[str, Tensor]], dict[str, Tensor]]
) -> None:
    network = build_net(SMALL, 10, 64)
    path = save(spoil(timm.create_model(SMALL).state_dict()), tmp_path / "weights.safetensors")
    with pytest.raises(UsageError, match=rf"model\.weights='.*weights\.safetensors' .*'{SMALL}'"):
        network.load_weights(path)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_file_that_holds_no_weights_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"<html>not found</html>" * 40)
    with pytest.raises(UsageError, match=r"model\.weights=.*could not be loaded"):
        build_net("test_resnet", 10, 64).load_weights(str(path))


def test_imagenet_weights_without_a_network_say_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)  # else the hub tries again for 25 s
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match=r"model\.weights='imagenet' could not be loaded.* network"):
        build_net("test_resnet", 10, 64).load_weights("imagenet")


def test_building_reads_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    def alarm(*_: object, **__: object) -> None:
        raise RuntimeError("weights were read")

    monkeypatch.setattr(_builder, "load_pretrained", alarm)
    for net in (SMALL, "test_resnet", "test_vit"):
        network = build_net(net, 10, 64, freeze=True)
        with pytest.raises(UsageError, match="weights were read"):  # the alarm works
            network.load_weights("imagenet")


# ---- head from ImageNet's classifier


def start_head(
    net: str, path: Path, num_classes: int = IMAGENET_CLASSES, names: tuple[str, ...] = NAMES, **options: str
) -> tuple[TransferNet, dict[str, Tensor], dict[str, Tensor]]:
    """Load a file of random weights; return the net, the file's tensors and the head as it was before."""
    donor = timm.create_model(net, num_classes=num_classes, **({"img_size": 64} if net in FIXED_SIZE else {}))
    state = copy_of(donor.state_dict())
    for name, values in state.items():
        if values.is_floating_point():  # a classifier's bias starts at 0, which would hide where it comes from
            state[name] = torch.rand_like(values) + 0.1
    network = build_net(net, len(names), 64, **options)
    head = copy_of(network.head.state_dict())
    network.load_weights(save(state, path / "weights.safetensors"), names)
    return network, state, head


@pytest.mark.parametrize(
    ("net", "features", "classifier"),
    [
        ("mobilenetv3_small_050", "pre_logits", "classifier"),
        ("test_resnet", "pooled", "fc"),
        ("test_resnet", "pre_logits", "fc"),
        ("test_vit", "pooled", "head"),
        ("test_convnext", "pooled", "head.fc"),
    ],
)
def test_rows_of_known_classes_are_the_mean_of_their_classifier_rows(
    tmp_path: Path, net: str, features: str, classifier: str
) -> None:
    network, state, head = start_head(net, tmp_path, features=features)
    weight, bias = state[f"{classifier}.weight"].double(), state[f"{classifier}.bias"].double()
    for row, name in enumerate(NAMES):
        found, start = network.head[-1].weight[row], network.head[-1].bias[row]
        if name == "unicorn":
            assert torch.equal(found, head["1.weight"][row])
            assert torch.equal(start, head["1.bias"][row])
        else:
            indices = ROWS[name]
            expected = sum(weight[index] for index in indices) / len(indices)
            torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)
            assert start.item() == pytest.approx(sum(bias[index].item() for index in indices) / len(indices), rel=1e-5)
    assert_backbone_is_the_file_s(network, state)


def assert_backbone_is_the_file_s(network: TransferNet, state: dict[str, Tensor]) -> None:
    assert_same_tensors(
        copy_of(network.backbone.state_dict()), {name: state[name] for name in network.backbone.state_dict()}
    )


@pytest.mark.parametrize(
    ("net", "num_classes", "names", "options"),
    [
        ("test_resnet", IMAGENET_CLASSES, NAMES, {"head": "dense"}),
        ("mobilenetv3_small_050", IMAGENET_CLASSES, NAMES, {"features": "pooled"}),
        ("test_resnet", 0, NAMES, {}),
        ("test_resnet", 10, NAMES, {}),
        ("test_resnet", 1001, NAMES, {}),
        ("test_resnet", IMAGENET_CLASSES, ("unicorn", "pegasus"), {}),
    ],
    ids=["dense", "pooled_mobilenet", "no_classifier", "ten_classes", "1001_classes", "unknown_animals"],
)
def test_the_head_stays_random_where_the_classifier_does_not_fit(
    tmp_path: Path, net: str, num_classes: int, names: tuple[str, ...], options: dict[str, str]
) -> None:
    network, state, head = start_head(net, tmp_path, num_classes, names, **options)
    assert_same_tensors(network.head.state_dict(), head)
    assert_backbone_is_the_file_s(network, state)


@pytest.mark.parametrize(
    ("net", "options", "named"),
    [
        (SMALL, {"features": "pooled"}, "model.features='pooled'.* set model.features=pre_logits"),
        ("test_resnet", {"head": "dense"}, "model.head='dense'.* set model.head=linear"),
    ],
)
def test_explicit_imagenet_head_is_refused_where_it_has_no_effect(
    tmp_path: Path, net: str, options: dict[str, str], named: str
) -> None:
    path = save(timm.create_model(net).state_dict(), tmp_path / "weights.safetensors")
    network = build_net(net, len(NAMES), 64, **options)
    before = copy_of(network.state_dict())
    with pytest.raises(UsageError, match=rf"model\.head_init='imagenet' has no effect with {named}"):
        network.load_weights(path, NAMES, "imagenet")
    assert_same_tensors(network.state_dict(), before)
    network.load_weights(path, NAMES)  # by default where possible


@pytest.mark.parametrize(
    ("num_classes", "names"), [(10, NAMES), (IMAGENET_CLASSES, ("unicorn", "pegasus"))], ids=["weights", "names"]
)
def test_explicit_imagenet_head_is_refused_without_rows_to_copy(
    tmp_path: Path, num_classes: int, names: tuple[str, ...]
) -> None:
    path = save(
        timm.create_model("test_resnet", num_classes=num_classes).state_dict(), tmp_path / "weights.safetensors"
    )
    with pytest.raises(UsageError, match=r"model\.head_init='imagenet' has no effect: model\.weights="):
        build_net("test_resnet", len(names), 64).load_weights(path, names, "imagenet")


def test_random_head_ignores_the_classifier(tmp_path: Path) -> None:
    path = save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    network = build_net("test_resnet", len(NAMES), 64)
    head = copy_of(network.head.state_dict())
    network.load_weights(path, NAMES, "random")
    assert_same_tensors(network.head.state_dict(), head)


def test_the_head_stays_random_where_no_names_are_given(tmp_path: Path) -> None:
    donor = save(timm.create_model("test_resnet").state_dict(), tmp_path / "weights.safetensors")
    network = build_net("test_resnet", 3, 64)
    head = copy_of(network.head.state_dict())
    network.load_weights(donor)
    assert_same_tensors(network.head.state_dict(), head)


def test_a_head_of_imagenet_s_own_names_gives_timm_s_logits(tmp_path: Path) -> None:
    """Classes of one synset each: the whole net is timm's, to rounding."""
    names = ("zebra", "red_panda", "crane")
    torch.manual_seed(3)
    donor = timm.create_model("test_resnet").eval()
    network = build_net("test_resnet", 3, 64).eval()
    network.load_weights(save(donor.state_dict(), tmp_path / "weights.safetensors"), names)
    pixels = (images().float() / 255 - 0.5) / 0.5
    with torch.no_grad():
        expected = donor(pixels)[:, [340, 387, 134]]
        torch.testing.assert_close(network(images()), expected, rtol=1e-4, atol=1e-5)


def test_a_file_of_imagenet_1k_serves_a_net_whose_own_weights_have_other_classes(tmp_path: Path) -> None:
    name = "vit_tiny_patch16_224.augreg_in21k"
    donor = timm.create_model("vit_tiny_patch16_224", img_size=32)
    network = build_net(name, 2, 32)
    network.load_weights(save(donor.state_dict(), tmp_path / "weights.safetensors"), ("zebra", "dog"))
    assert torch.equal(network.head[-1].weight[0], donor.head.weight[340])
    torch.testing.assert_close(network.head[-1].weight[1], donor.head.weight[151:269].mean(0))


# ---- frozen statistics and gradual unfreezing


def norms_of(net: nn.Module) -> dict[str, nn.Module]:
    return {name: module for name, module in net.named_modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)}


@pytest.mark.parametrize("net", ["mobilenetv3_small_050", "test_resnet"])
def test_frozen_norms_keep_their_statistics_while_all_weights_learn(net: str) -> None:
    network = build_net(net, 10, 64, freeze_norm=True)
    assert trainable(network) == sum(parameter.numel() for parameter in network.parameters())
    before = copy_of(network.state_dict())
    for _ in range(2):  # the first only moves factors that start at 0
        training_step(network)
    after = network.state_dict()
    still = {name for name, values in after.items() if torch.equal(values, before[name])}
    statistics = {name for name, _ in network.named_buffers()}
    kernels = {name for name, parameter in network.named_parameters() if parameter.ndim > 1}
    assert statistics <= still
    assert still & kernels == set()
    for mode in (True, False, True):
        network.train(mode)
        assert not any(module.training for module in norms_of(network).values())
        assert all(
            module.training is mode for module in network.modules() if isinstance(module, nn.Conv2d | nn.Dropout)
        )


def test_frozen_norms_normalise_with_their_statistics() -> None:
    """An image's logits then do not depend on the others of its batch, in training neither."""
    network = build_net("test_resnet", 10, 64, freeze_norm=True, dropout=0.0).train()
    plain = build_net("test_resnet", 10, 64, dropout=0.0).train()
    for some, alike in ((network, True), (plain, False)):
        with torch.no_grad():
            together, alone = some(images(count=4))[:1], some(torch.cat([images(count=4)[:1]] * 2))[:1]
        assert torch.allclose(together, alone, rtol=1e-4, atol=1e-5) is alike


BLOCKS = {
    "test_resnet": ["conv1 bn1", "layer1", "layer2", "layer3", "layer4"],
    "test_vit": ["cls_token pos_embed patch_embed", *(f"blocks.{i}" for i in range(5)), "blocks.5 norm"],
}
"""Blocks of a backbone, first to last."""


def learning(network: TransferNet, net: str) -> list[bool]:
    """Return which of :data:`BLOCKS` are trainable; each is so as a whole, and has every parameter in one of them."""
    found, seen = [], 0
    for prefixes in BLOCKS[net]:
        start = tuple(f"{prefix}." for prefix in prefixes.split())
        flags = [p.requires_grad for name, p in network.backbone.named_parameters() if f"{name}.".startswith(start)]
        assert len(set(flags)) == 1
        seen += len(flags)
        found.append(flags[0])
    assert seen == len(list(network.backbone.parameters()))
    return found


@pytest.mark.parametrize(
    ("net", "fraction", "learns"),
    [
        ("test_resnet", 0, 0),
        ("test_resnet", 0.1, 0),
        ("test_resnet", 0.2, 1),
        ("test_resnet", 0.5, 2),
        ("test_resnet", 0.6, 3),
        ("test_resnet", 1, 5),
        ("test_vit", 0, 0),
        ("test_vit", 0.5, 3),
        *(("test_vit", blocks / 7, blocks) for blocks in range(1, 8)),
    ],
)
def test_unfreeze_makes_the_last_blocks_trainable(net: str, fraction: float, learns: int) -> None:
    network = build_net(net, 10, 64)
    network.unfreeze(fraction)
    assert learning(network, net) == [False] * (len(BLOCKS[net]) - learns) + [True] * learns
    assert all(parameter.requires_grad for parameter in network.head.parameters())


@pytest.mark.parametrize("fraction", [0.5, 1.0], ids=["half", "all"])
def test_frozen_blocks_can_be_unfrozen_again(fraction: float) -> None:
    network = build_net("test_resnet", 10, 64)
    network.unfreeze(0)
    assert not any(module.training for module in network.backbone.modules())
    assert network.forward_features(images()).requires_grad is False
    network.unfreeze(fraction)
    assert learning(network, "test_resnet") == [fraction == 1] * 3 + [True] * 2
    assert network.backbone.training
    assert network.forward_features(images()).requires_grad is True


def test_norms_of_frozen_blocks_are_in_evaluation_mode() -> None:
    network = build_net("test_resnet", 10, 64)
    network.unfreeze(0.4)
    for mode in (True, False, True):
        network.train(mode)
        for name, module in norms_of(network.backbone).items():
            assert module.training is (mode and name.startswith(("layer3", "layer4"))), name
    before = copy_of(network.state_dict())
    training_step(network)
    moved = {name for name, values in network.state_dict().items() if not torch.equal(values, before[name])}
    assert {name.split(".")[1] for name in moved if name.startswith("backbone.")} == {"layer3", "layer4"}
    statistics = {name for name, _ in network.named_buffers() if ".layer3." in name or ".layer4." in name}
    assert statistics <= moved


def test_unfreeze_keeps_evaluation_mode_and_frozen_norms() -> None:
    network = build_net("test_resnet", 10, 64, freeze_norm=True).eval()
    network.unfreeze(1)
    assert not any(module.training for module in network.modules())
    network.train()
    network.unfreeze(0.5)
    assert not any(module.training for module in norms_of(network).values())
    assert network.head.training
