"""Transfer learning: a timm backbone with a new head.

Mean and std are those of the timm weights; interpolation and crop are not read from timm (see ``data/resize.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from timm.models import PretrainedCfg, group_parameters
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from animals_pl.errors import UsageError
from animals_pl.models.layers import Normalize, keras_init
from animals_pl.models.synset_prior import SynsetPrior
from animals_pl.models.synsets import IMAGENET_CLASSES, imagenet_indices

Head = Literal["linear", "dense"]
Features = Literal["pooled", "pre_logits"]
HeadInit = Literal["imagenet", "random"]


class TransferNet(nn.Module):
    """timm backbone → features (B, F) → head → logits (B, C), with random weights (see :meth:`load_weights`).

    Args:
        name: A timm model, with or without a weights tag (``mobilenetv3_large_100.ra_in1k``).
        num_classes: Number of logits C.
        input_size: Side S of the images, in pixels.
        head: ``linear`` (dropout → linear) or ``dense`` (linear 128 → ReLU → dropout → linear).
        features: Input of the head. ``pre_logits``: the input of timm's own classifier. ``pooled``: the mean of the
            last feature map, without the ``conv_head`` that widens it (MobileNetV3: 576 or 960 features instead of 1024
            or 1280). The same as ``pre_logits`` for nets without such a ``conv_head``.
        freeze: Keep the backbone fixed, including its BatchNorm statistics.
        freeze_norm: Keep the BatchNorm statistics of a trainable backbone fixed.
        dropout: Dropout probability before the last layer, in [0, 1).

    Raises:
        UsageError: timm does not know the name, or the net does not accept the image size.
    """

    backbone: Any  # a timm model: nn.Module with forward_features and forward_head
    initial: Tensor | None  # weights of a linear head before training, for head_decay

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
        config = timm.get_pretrained_cfg(name) or PretrainedCfg()
        self.fixed_size = bool(config.fixed_input_size)
        self.normalize = Normalize(config.mean, config.std)
        self.feature_map = nn.Identity()  # hook point of Grad-CAM
        try:
            self._build_backbone(pooled=features == "pooled")
            num_features = self._count_features()
        except (RuntimeError, AssertionError, ValueError) as error:
            raise UsageError(
                f"data.size={input_size} does not suit model.net={name!r} ({_summary(error)}). "
                "Choose a larger size, or the size of the pretrained net."
            ) from error
        self.head_fits_classifier = head == "linear" and not self.pooled
        self.head = _build_head(head, num_features, num_classes, dropout)
        self.prior: SynsetPrior | None = None
        self.register_buffer("initial", None)
        self.backbone.requires_grad_(not freeze)
        self.train()

    def size_option(self) -> dict[str, Any]:
        """Argument of ``timm.create_model`` for the size of the images, where a net is built for one size."""
        return {"img_size": self.input_size} if self.fixed_size else {}

    def _build_backbone(self, pooled: bool) -> None:
        backbone: Any = timm.create_model(self.name, num_classes=0, **self.size_option())
        # EfficientNets have a conv_head too, but inside forward_features, and it does not change the width.
        widens = hasattr(backbone, "conv_head") and backbone.head_hidden_size != backbone.num_features
        self.backbone, self.pooled = backbone, pooled and widens
        if self.pooled:
            backbone.conv_head = nn.Identity()
            backbone.norm_head = nn.Identity()

    @torch.no_grad()
    def _count_features(self) -> int:
        """Number of features F, from a forward pass that fails if the net does not accept the size."""
        self.backbone.eval()
        return self.forward_features(torch.zeros(1, 3, self.input_size, self.input_size)).shape[1]

    def add_prior(self, class_names: Sequence[str], strength: float) -> None:
        """Add the scores of ImageNet's classifier to the logits; :meth:`load_weights` loads its weights.

        Raises:
            UsageError: The features are not those of ImageNet's classifier, or ImageNet has none of the classes.
        """
        if not self.head_fits_classifier:
            raise UsageError(
                f"model.imagenet_prior={strength} needs the features of ImageNet's classifier and a linear head. "
                "Set model.features=pre_logits and model.head=linear, or remove it."
            )
        if not any(map(imagenet_indices, class_names)):
            raise UsageError(
                f"model.imagenet_prior={strength} has no effect: none of the classes is in ImageNet. Set it to 0, and "
                "model.head_init to null."
            )
        last: Any = self.head[-1]
        self.prior = SynsetPrior(last.in_features, class_names, strength)

    def keep_initial_head(self) -> None:
        """Store the current weights of the head for :meth:`head_distance`."""
        last: Any = self.head[-1]
        self.initial = last.weight.detach().clone()

    def head_distance(self) -> Tensor:
        """Squared distance of the head's weights from the initial ones."""
        last: Any = self.head[-1]
        assert self.initial is not None
        distance: Tensor = ((last.weight - self.initial) ** 2).sum()
        return distance

    def load_weights(self, weights: str, class_names: Sequence[str] = (), head_init: HeadInit | None = None) -> None:
        """Load pretrained weights into the backbone, and initialise the head from ImageNet's classifier if possible.

        With ``head_init="imagenet"``, each class's row of the head is the mean of the classifier's rows for its
        ImageNet classes (see :func:`~animals_pl.models.synsets.imagenet_indices`). Other rows stay random.

        Args:
            weights: ``imagenet`` (timm's weights, downloaded once), or a .safetensors or .pth file in timm's layout.
            class_names: C English class names. Empty: the head stays random.
            head_init: ``None``: ``imagenet`` where possible, else ``random``.

        Raises:
            UsageError: The weights are missing or do not fit, the download failed, or ``head_init="imagenet"`` was
                given and is not possible.
        """
        if head_init == "imagenet" and not self.head_fits_classifier:
            key, value, other = ("features", "pooled", "pre_logits") if self.pooled else ("head", "dense", "linear")
            raise UsageError(
                f"model.head_init='imagenet' has no effect with model.{key}={value!r} and model.net={self.name!r}. "
                f"Remove it (null), or set model.{key}={other}."
            )
        if weights != "imagenet" and not Path(weights).is_file():
            raise UsageError(
                f"model.weights={weights!r} is not a file. Pass a .safetensors or .pth file, 'imagenet', or null."
            )
        try:
            pretrained = self._pretrained(weights)
            state = pretrained.state_dict()
            self.backbone.load_state_dict({key: state[key] for key in self.backbone.state_dict()})
        except Exception as error:  # timm and the hub may raise any exception
            raise UsageError(
                f"model.weights={weights!r} could not be loaded into {self.name!r} ({_summary(error)}). Pass a file "
                "that fits, connect to the network for the first download, or set null for random weights."
            ) from error
        classifier = pretrained.get_classifier()
        if self.prior is not None:
            if not self._is_imagenet(classifier):
                raise UsageError(
                    f"model.imagenet_prior={self.prior.strength} needs a classifier for ImageNet-1k, which "
                    f"model.weights={weights!r} does not have. Remove it, or use other weights."
                )
            self.prior.load(classifier)
        if head_init != "random":
            initialised = self._init_head(classifier, class_names)
            if head_init == "imagenet" and not initialised:
                raise UsageError(
                    f"model.head_init='imagenet' has no effect: model.weights={weights!r} has no classifier for "
                    "ImageNet-1k, or none of the classes is in ImageNet. Remove it (null), or use other weights."
                )
        if self.initial is not None:
            self.keep_initial_head()

    def _pretrained(self, weights: str) -> Any:
        """Pretrained timm net, with its classifier if the weights have one."""
        options = self.size_option()
        if weights != "imagenet":
            state = timm.models.load_state_dict(weights)
            needed = [key for key in self.backbone.state_dict() if not key.endswith("num_batches_tracked")]
            absent = [key for key in needed if key not in state]  # timm ignores missing keys
            if absent:
                raise ValueError(f"it lacks {len(absent)} of {len(needed)} tensors, e.g. {absent[0]}")
            options["pretrained_cfg_overlay"] = {"state_dict": state}
            classifier = (timm.get_pretrained_cfg(self.name) or PretrainedCfg()).classifier
            if isinstance(classifier, str) and len(state.get(f"{classifier}.weight", ())) == IMAGENET_CLASSES:
                # The weights tag may have a different number of classes.
                options["pretrained_cfg_overlay"]["num_classes"] = IMAGENET_CLASSES
            else:
                options["num_classes"] = 0
        return timm.create_model(self.name, pretrained=True, **options)

    def _is_imagenet(self, classifier: Any) -> bool:
        """Whether a classifier of the features is that of ImageNet-1k."""
        shape = (IMAGENET_CLASSES, self.head[-1].in_features)
        return isinstance(classifier, nn.Linear) and classifier.weight.shape == shape

    @torch.no_grad()
    def _init_head(self, classifier: Any, class_names: Sequence[str]) -> bool:
        """Copy rows of ImageNet's classifier to the head; return whether any were copied."""
        last: Any = self.head[-1]
        if not self.head_fits_classifier or not self._is_imagenet(classifier):
            return False
        indices = {row: imagenet_indices(name) for row, name in enumerate(class_names)}
        for row, found in indices.items():
            if found:
                last.weight[row] = classifier.weight[found].mean(0)
                last.bias[row] = classifier.bias[found].mean()
        return any(indices.values())

    def train(self, mode: bool = True) -> TransferNet:
        """Set training mode. Frozen parts stay in evaluation mode, so that their statistics do not change."""
        super().train(mode)
        if self.freeze:
            self.backbone.eval()
        for module in self.backbone.modules():
            if isinstance(module, _BatchNorm) and (self.freeze_norm or not module.weight.requires_grad):
                module.eval()
        return self

    def unfreeze(self, fraction: float) -> None:
        """Make the last blocks of the backbone, a ``fraction`` in [0, 1], trainable and freeze the others."""
        block_of = group_parameters(self.backbone, self.backbone.group_matcher(coarse=False), reverse=True)
        first = round((1 - fraction) * (1 + max(block_of.values())), 6)  # fractions such as 1/3 are inexact
        for name, parameter in self.backbone.named_parameters():
            parameter.requires_grad_(block_of[name] >= first)
        self.freeze = fraction == 0
        self.train(self.training)

    def forward_features(self, images: Tensor) -> Tensor:
        """Return the features (B, F) of (B, 3, S, S) pixels in 0…255."""
        feature_map = self.feature_map(self.backbone.forward_features(self.normalize(images)))
        if self.pooled:
            return feature_map.mean((2, 3))
        return self.backbone.forward_head(feature_map, pre_logits=True)

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits (B, C) of features (B, F)."""
        logits = self.head(features)
        return logits if self.prior is None else logits + self.prior(features)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (B, C) of (B, 3, S, S) pixels in 0…255, uint8 or float."""
        return self.forward_head(self.forward_features(images))


def _build_head(head: Head, num_features: int, num_classes: int, dropout: float) -> nn.Sequential:
    layers: list[nn.Module] = []
    if head == "dense":
        layers = [nn.Linear(num_features, 128), nn.ReLU()]
        num_features = 128
    return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(num_features, num_classes)).apply(keras_init)


def _summary(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
