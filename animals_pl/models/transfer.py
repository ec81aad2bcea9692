"""Any timm backbone with a head of our own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from animals_pl.errors import UsageError, did_you_mean
from animals_pl.models.fusion import fuse_conv_bn
from animals_pl.models.layers import Normalize, keras_init
from animals_pl.models.registry import FROM_SCRATCH
from animals_pl.models.synsets import IMAGENET_CLASSES, imagenet_indices

Head = Literal["linear", "dense"]
Features = Literal["pooled", "pre_logits"]
LINEAR_LAYERS = 2
"""Layers of a linear head: dropout and dense."""


class TransferNet(nn.Module):
    """timm backbone → features (B, F) → head → logits (B, C).

    The backbone starts with random weights; :meth:`load_weights` brings pretrained ones.

    Args:
        name: A timm model, with or without a weights tag (``mobilenetv3_large_100.ra_in1k``).
        num_classes: Number of logits.
        input_size: Side of the images in pixels.
        head: ``linear`` (dropout → dense) or ``dense`` (dense 128 → ReLU → dropout → dense).
        features: ``pooled``: the mean over the last feature map where timm's classifier has a wider input
            from a ``conv_head`` after that map (MobileNetV3: 576 or 960 against 1024 or 1280; the unused layers are
            removed). ``pre_logits``, and ``pooled`` for every other net: what timm's own classifier would see.
        freeze: The backbone does not learn, BatchNorm statistics included.
        freeze_norm: The BatchNorm statistics of a backbone that learns stay as they are; those of a few small batches
            would be worse than those of ImageNet.
        dropout: Probability before the last layer, in [0, 1).

    Raises:
        UsageError: timm does not know the name, or the net cannot take the size.
    """

    backbone: Any  # a timm model: nn.Module with forward_features and forward_head

    def __init__(
        self,
        name: str,
        num_classes: int,
        input_size: int,
        head: Head = "linear",
        features: Features = "pooled",
        freeze: bool = False,
        freeze_norm: bool = False,
        dropout: float = 0.2,
    ) -> None:
        super().__init__()
        self.name = name
        self.input_size = input_size
        self.freeze = freeze
        self.freeze_norm = freeze_norm
        _require_known(name)
        config = timm.get_pretrained_cfg(name) or PretrainedCfg()
        self.fixed_size = bool(config.fixed_input_size)
        self.normalize = Normalize(config.mean, config.std)
        try:
            self.backbone, self.pooled = self._build_backbone(features)
            num_features = self._count_features()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"data.size={input_size} does not suit model.net={name!r} ({_in_short(error)}); "
                "choose a larger size or the one that the net was made for"
            ) from error
        self.head = _build_head(head, num_features, num_classes, dropout)
        self.backbone.requires_grad_(not freeze)
        self.train()

    def _build_backbone(self, features: Features) -> tuple[nn.Module, bool]:
        """Return the backbone without its classifier, and whether its last map is to be averaged."""
        size: dict[str, Any] = {"img_size": self.input_size} if self.fixed_size else {}
        backbone = timm.create_model(self.name, num_classes=0, **size)
        # EfficientNets have a conv_head too, but before the last map; theirs does not change the width.
        pooled = (
            features == "pooled"
            and hasattr(backbone, "conv_head")
            and backbone.head_hidden_size != backbone.num_features
        )
        if pooled:  # what stands between the map and timm's classifier would only be dead weight
            backbone.conv_head = nn.Identity()
            backbone.norm_head = nn.Identity()
        return backbone, pooled

    @torch.no_grad()
    def _count_features(self) -> int:
        """Return F by a trial run, which fails where the net cannot take the size."""
        self.backbone.eval()
        return self.forward_features(torch.zeros(1, 3, self.input_size, self.input_size)).shape[1]

    def load_weights(self, weights: str, class_names: Sequence[str] = ()) -> None:
        """Replace the random backbone by a pretrained one, and the head's rows by what it knows of the classes.

        A class that ImageNet has starts with the mean of the classifier rows of its synsets, where the weights come
        with ImageNet's classifier, the head is linear and its features are what that classifier sees.

        Args:
            weights: ``imagenet`` (timm's own, downloaded once) or a .safetensors or .pth file in timm's key layout.
            class_names: English names of the classes, C of them; empty: the head stays as it is.

        Raises:
            UsageError: There is no such file, it does not fit the net, or the download failed.
        """
        if weights != "imagenet" and not Path(weights).is_file():
            raise UsageError(
                f"model.weights={weights!r} is not a file; pass a .safetensors or .pth file, 'imagenet', or null"
            )
        try:
            pretrained = self._pretrained(weights)
            state = pretrained.state_dict()
            self.backbone.load_state_dict({key: state[key] for key in self.backbone.state_dict()})
        except Exception as error:  # timm, safetensors, torch and the hub each raise their own
            raise UsageError(
                f"model.weights={weights!r} could not be loaded into {self.name!r} ({_in_short(error)}); "
                "pass a file that fits, connect to the network once, or start from random weights with null"
            ) from error
        self._start_head(pretrained.get_classifier(), class_names)

    def _pretrained(self, weights: str) -> Any:
        """Return timm's net with pretrained weights, and with its classifier where the weights come with one."""
        options: dict[str, Any] = {"img_size": self.input_size} if self.fixed_size else {}
        if weights != "imagenet":
            state = timm.models.load_state_dict(weights)
            needed = [key for key in self.backbone.state_dict() if not key.endswith("num_batches_tracked")]
            absent = [key for key in needed if key not in state]  # timm passes over what is missing
            if absent:
                raise ValueError(f"it lacks {len(absent)} of {len(needed)} tensors, {absent[0]} for one")
            options["pretrained_cfg_overlay"] = {"state_dict": state}
            classifier = (timm.get_pretrained_cfg(self.name) or PretrainedCfg()).classifier
            if isinstance(classifier, str) and len(state.get(f"{classifier}.weight", ())) == IMAGENET_CLASSES:
                options["pretrained_cfg_overlay"]["num_classes"] = IMAGENET_CLASSES  # the tag may stand for others
            else:
                options["num_classes"] = 0
        return timm.create_model(self.name, pretrained=True, **options)

    @torch.no_grad()
    def _start_head(self, classifier: Any, class_names: Sequence[str]) -> None:
        last: Any = self.head[-1]
        fits = isinstance(classifier, nn.Linear) and classifier.weight.shape == (IMAGENET_CLASSES, last.in_features)
        if self.pooled or len(self.head) > LINEAR_LAYERS or not fits:
            return
        for row, name in enumerate(class_names):
            indices = imagenet_indices(name)
            if indices:
                last.weight[row] = classifier.weight[indices].mean(0)
                last.bias[row] = classifier.bias[indices].mean()

    def train(self, mode: bool = True) -> TransferNet:
        """Set training mode; what is frozen stays in evaluation mode, so its statistics do not move."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm) and (self.freeze_norm or not module.weight.requires_grad):
                module.eval()
        return self

    def unfreeze(self, fraction: float) -> None:
        """Make the last ``fraction`` of the backbone's blocks trainable, in [0, 1]; freeze the others."""
        block_of = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        first = round((1 - fraction) * (1 + max(block_of.values())), 6)  # 1/3 is not exact
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(block_of[name] >= first)
        self.freeze = fraction == 0
        self.train(self.training)

    def forward_features(self, images: Tensor) -> Tensor:
        """Turn (B, 3, S, S) pixels in 0…255 into (B, F) features."""
        feature_map = self.backbone.forward_features(self.normalize(images))
        if self.pooled:
            return feature_map.mean((2, 3))
        return self.backbone.forward_head(feature_map, pre_logits=True)

    @torch.no_grad()
    def for_inference(self, images: Tensor) -> TransferNet:
        """Return a copy whose ``forward_features`` is quicker and, to float32 accuracy, the same.

        Args:
            images: (B, 3, S, S) pixels in 0…255 to check that with; a few are enough.
        """
        return fuse_conv_bn(self, lambda net: net.forward_features(images))

    def forward_head(self, features: Tensor) -> Tensor:
        """Turn (B, F) features into (B, C) logits."""
        return self.head(features)

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, S, S) pixels in 0…255, uint8 or float, into (B, C) logits."""
        return self.forward_head(self.forward_features(images))


def _build_head(head: Head, num_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if head == "dense":
        layers = [nn.Linear(num_features, 128), nn.ReLU()]
        num_features = 128
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(num_features, num_classes)).apply(keras_init)


def _require_known(name: str) -> None:
    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture.lower(), [*FROM_SCRATCH, *timm.list_models()])
        raise UsageError(
            f"model.net={name!r} is unknown; {hint}choose {', '.join(FROM_SCRATCH)} or a timm model "
            "(see timm.list_models())"
        )
    if "." in name and name not in timm.list_pretrained(f"{architecture}*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise UsageError(f"model.net={name!r}: timm has no such tag; choose one of {tags}, or leave it out")


def _in_short(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
