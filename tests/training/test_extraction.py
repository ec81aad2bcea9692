"""Features by OpenVINO and torch agree, in order, and OpenVINO's telemetry is off."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from torch import nn

from animals_pl.models import openvino, registry
from animals_pl.models.openvino_package import openvino_version
from animals_pl.training import extraction
from animals_pl.training.extraction import Extractor

needs_openvino = pytest.mark.skipif(not openvino_version(), reason="OpenVINO is not installed")

BATCHES = [
    torch.randint(0, 256, (count, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))
    for count in (5, 5, 1, 7, 3)
]


def backbone(name: str = "tf_mobilenetv3_small_100", size: int = 64, **options: object) -> nn.Module:
    """A frozen net whose BatchNorms have other statistics and weights than those of a new net."""
    net = registry.build_net(name, 4, size, freeze=True, **options)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.5, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return net.train()


@torch.no_grad()
def expected(net: nn.Module, batches: list[torch.Tensor] = BATCHES) -> torch.Tensor:
    net.eval()
    return torch.cat([net.forward_features(images) for images in batches])


@needs_openvino
@pytest.mark.parametrize(
    ("name", "size", "options"),
    [
        ("tf_mobilenetv3_small_100", 64, {}),  # padding that depends on the size
        ("tf_mobilenetv3_small_100", 64, {"features": "pre_logits"}),
        ("resnetv2_50", 64, {}),
        ("mobilenetv4_conv_small", 64, {}),
        ("convnext_atto", 64, {}),
        ("test_vit", 160, {}),
    ],
)
def test_openvino_computes_the_features_of_torch(name, size, options):
    net = backbone(name, size, **options)
    batches = [nn.functional.interpolate(images, size) for images in BATCHES]
    extractor = Extractor(net)
    found = list(extractor(batches))
    assert extractor.uses_openvino
    assert [len(features) for features in found] == [5, 5, 1, 7, 3]
    assert net.training
    reference = expected(net, batches)
    torch.testing.assert_close(torch.cat(found), reference, rtol=0, atol=1e-4 * reference.abs().max().item())


@needs_openvino
@pytest.mark.skipif(not openvino.computes_in_bf16(), reason="the CPU has no bfloat16 instructions")
def test_bf16_is_close_but_not_equal():
    net = backbone()
    found = torch.cat(list(Extractor(net, precision="bf16")(BATCHES)))
    reference = expected(net)
    assert torch.nn.functional.cosine_similarity(found, reference).min() > 0.99
    assert not torch.allclose(found, reference, rtol=1e-5)


def test_torch_computes_them_where_openvino_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # importing it raises ImportError
    net = backbone()
    extractor = Extractor(net)
    assert extractor.engine == f"torch {torch.__version__}"
    torch.testing.assert_close(torch.cat(list(extractor(BATCHES))), expected(net))


def test_torch_computes_them_in_mixed_precision():
    extractor = Extractor(backbone(), context=lambda: torch.autocast("cpu", torch.bfloat16))
    assert extractor.engine.startswith("torch")
    assert next(extractor(BATCHES)).dtype == torch.float32


@needs_openvino
@pytest.mark.parametrize("fault", ["another result", "no conversion"])
def test_torch_computes_them_where_openvino_is_wrong(monkeypatch, fault):
    class Wrong:
        def __init__(self, *args):
            if fault == "no conversion":
                raise RuntimeError("no rule for\naten::odd")

        def __call__(self, batches):
            yield from (torch.ones(len(images), 576) for images in batches)

    monkeypatch.setattr(extraction, "OpenVinoFeatures", Wrong)
    net = backbone()
    extractor = Extractor(net)
    reason = "no rule for aten::odd" if fault == "no conversion" else "features differ by"
    with pytest.warns(UserWarning, match=f"OpenVINO is not used for tf_mobilenetv3_small_100: {reason}"):
        found = torch.cat(list(extractor(BATCHES)))
    assert extractor.engine.startswith("torch")
    torch.testing.assert_close(found, expected(net))


def test_no_batches_give_no_features():
    assert list(Extractor(backbone())([])) == []


@needs_openvino
def test_openvino_writes_nothing_into_home(tmp_path):
    """Its telemetry would write a client id there and send statistics."""
    script = """
import sys, torch
from animals_pl.models import registry
from animals_pl.training.extraction import Extractor
list(Extractor(registry.build_net("tf_mobilenetv3_small_100", 4, 32, freeze=True))([torch.zeros(2, 3, 32, 32).byte()]))
assert "openvino" in sys.modules
assert sys.modules["openvino_telemetry"] is None
"""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    assert list(home.rglob("*")) == []


@needs_openvino
def test_signals_are_handled_after_nets_were_freed():
    """Two nets, in the order of their creation. With a core each, the signal stack would be freed memory."""
    script = """
import signal, torch
from animals_pl.models import registry
from animals_pl.training.extraction import Extractor
net = registry.build_net("tf_mobilenetv3_small_100", 4, 32, freeze=True)
first, second = Extractor(net), Extractor(net)
for extractor in (first, second):
    list(extractor([torch.zeros(2, 3, 32, 32).byte()]))
assert first.uses_openvino and second.uses_openvino
del extractor, first
del second
signal.signal(signal.SIGTERM, lambda number, frame: print("handled"))
signal.raise_signal(signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", script], check=False, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "handled\n")
