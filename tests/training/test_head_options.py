"""head_decay and imagenet_prior: their formulas, their way through checkpoints, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from animals_pl import AnimalClassifier, AnimalsDataModule, load_model
from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10
from animals_pl.errors import UsageError
from animals_pl.models.registry import build_net
from animals_pl.models.synsets import SYNSETS
from animals_pl.training.run import Run, fit

pytestmark = pytest.mark.usefixtures("small_figures")

FROZEN = {"net": "test_resnet", "features": "pre_logits", "freeze": True, "lr": 0.01}


def train(tree: Path, folder: Path, epochs: int = 2, ckpt_path: Path | None = None, **options: Any) -> Run:
    torch.manual_seed(0)
    data = AnimalsDataModule(str(tree), size=32, batch_size=16, num_workers=0)
    trainer = {"max_epochs": epochs, "default_root_dir": str(folder), "accelerator": "cpu"}
    return fit(AnimalClassifier(**FROZEN | options), data, ckpt_path=ckpt_path, **trainer)


def head(run: Run) -> torch.Tensor:
    return torch.load(run.last_path, weights_only=True)["state_dict"]["net.head.1.weight"]


def test_the_prior_is_the_log_sum_exp_of_an_animal_s_classes(weights):
    names = ["dog", "unicorn", "cow"]
    net: Any = build_net("test_resnet", 3, 32, features="pre_logits", freeze=True)
    net.add_prior(names, 0.5)
    net.load_weights(weights, names)
    features = 3 * torch.randn(5, net.head[-1].in_features, generator=torch.Generator().manual_seed(1))
    state = load_file(weights)
    logits = (features @ state["fc.weight"].T + state["fc.bias"]).double()
    dog, cow = logits[:, list(SYNSETS["dog"])].logsumexp(1), logits[:, 345]
    expected = torch.stack([dog, (dog + cow) / 2, cow], 1) / 2
    actual = net.eval().forward_head(features) - net.head(features)
    torch.testing.assert_close(actual.double(), expected, rtol=1e-3, atol=1e-3)
    with_flips = features.reshape(5, 1, -1).expand(-1, 2, -1)
    torch.testing.assert_close(net.forward_head(with_flips)[:, 1], net.forward_head(features))


def test_far_apart_classes_have_finite_scores(weights):
    net: Any = build_net("test_resnet", 2, 32, features="pre_logits", freeze=True)
    net.add_prior(["dog", "cow"], 1.0)
    net.load_weights(weights, ["dog", "cow"])
    assert net.prior(1e4 * torch.randn(50, net.head[-1].in_features)).isfinite().all()


def test_decay_keeps_the_head_at_its_initial_weights(tiny_tree, tmp_path, weights):
    start = head(train(tiny_tree, tmp_path / "start", weights=weights, lr=0.0))
    free, held, fixed = (
        (head(train(tiny_tree, tmp_path / str(decay), weights=weights, head_decay=decay)) - start).norm()
        for decay in (0.0, 0.1, 1000.0)
    )
    assert 0 < held < 0.95 * free
    assert fixed < held


def test_decay_is_towards_the_start_after_a_resume(tiny_tree, tmp_path, weights):
    options = {"weights": weights, "head_decay": 0.1}
    whole = train(tiny_tree, tmp_path / "whole", 3, **options)
    first = train(tiny_tree, tmp_path / "half", 1, **options)
    resumed = train(tiny_tree, tmp_path / "half", 3, ckpt_path=first.last_path, **options)
    torch.testing.assert_close(head(resumed), head(whole), rtol=0, atol=0)


def test_a_checkpoint_and_its_exported_file_have_the_prior(tiny_tree, tmp_path, weights):
    run = train(tiny_tree, tmp_path, weights=weights, imagenet_prior=1.0, head_decay=0.01)
    trained = load_model(run.last_path)
    state = load_file(weights)
    torch.testing.assert_close(trained.net.prior.classifier.weight[0], state["fc.weight"][151])
    assert main(["export", str(run.last_path), "--output", str(tmp_path / "model.onnx")]) == 0
    import onnxruntime

    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 32, 32), dtype=np.uint8)
    outputs = session.run(None, {session.get_inputs()[0].name: image})
    expected = trained.net(torch.from_numpy(image)).softmax(1).argmax(1).item()
    assert any(np.argmax(output) == expected for output in outputs if np.size(output) == len(ANIMALS10))


def test_the_prior_alone_predicts_what_imagenet_s_classifier_says(tiny_tree, tmp_path, weights):
    run = train(tiny_tree, tmp_path, weights=weights, imagenet_prior=1000.0, lr=0.0)
    net: Any = load_model(run.last_path).net
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
    plain = timm.create_model("test_resnet", pretrained=True, pretrained_cfg_overlay={"file": weights}).eval()
    logits = plain(net.normalize(images))
    scores = torch.stack([logits[:, list(SYNSETS[name])].logsumexp(1) for name in ANIMALS10.values()], 1)
    torch.testing.assert_close(net(images).argmax(1), scores.argmax(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"head_decay": -0.1}, r"model\.head_decay=-0\.1 is out of range"),
        ({"imagenet_prior": -1.0}, r"model\.imagenet_prior=-1\.0 is out of range"),
        ({"head_decay": 0.1, "head": "dense"}, r"model\.head_decay=0\.1 needs a timm model and model\.head=linear"),
        ({"head_decay": 0.1, "net": "lenet", "freeze": False}, r"model\.head_decay=0\.1 needs a timm model"),
        ({"imagenet_prior": 1.0}, "needs a frozen, pretrained backbone"),
        ({"imagenet_prior": 1.0, "weights": "imagenet", "freeze": False}, "needs a frozen, pretrained backbone"),
    ],
)
def test_options_without_effect_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        AnimalClassifier(**FROZEN | options)


def test_pooled_features_have_no_prior(tiny_tree, tmp_path):
    options = {"net": "mobilenetv3_small_050", "features": "pooled", "weights": "x", "imagenet_prior": 1.0}
    with pytest.raises(UsageError, match=r"imagenet_prior=1\.0 needs the features of ImageNet's classifier"):
        train(tiny_tree, tmp_path, **options)


def test_weights_without_a_classifier_have_no_prior(tiny_tree, tmp_path):
    file = tmp_path / "backbone.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    with pytest.raises(UsageError, match="needs a classifier for ImageNet-1k"):
        train(tiny_tree, tmp_path, weights=str(file), imagenet_prior=1.0)


def test_animals_that_imagenet_does_not_have_are_refused():
    net: Any = build_net("test_resnet", 2, 32, features="pre_logits", freeze=True)
    with pytest.raises(UsageError, match="none of the classes is in ImageNet"):
        net.add_prior(["unicorn", "pegasus"], 1.0)
