"""Names of the nets and how to build them. Net modules are imported when a net is built."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

from animals_pl.errors import UsageError, did_you_mean

if TYPE_CHECKING:
    from torch import nn

FROM_SCRATCH = {"shallownet": "ShallowNet", "lenet": "LeNet", "minivggnet": "MiniVGGNet"}
"""Nets trained from scratch: name → class in ``from_scratch.py``. Every other name is a timm model."""


def build_net(name: str, num_classes: int, input_size: int, **options: Any) -> nn.Module:
    """Build a net with random weights.

    Args:
        name: A key of :data:`FROM_SCRATCH`, or any timm model name.
        num_classes: Number of logits C.
        input_size: Side S of the images, in pixels.
        **options: Arguments of :class:`~animals_pl.models.transfer.TransferNet`; for other nets, default values only.

    Raises:
        UsageError: The name is unknown, the size does not suit the net, or an option does not apply to it.
    """
    from animals_pl.models import from_scratch
    from animals_pl.models.transfer import TransferNet

    if name not in FROM_SCRATCH:
        _require_timm_model(name)
        return TransferNet(name, num_classes, input_size, **options)
    defaults = inspect.signature(TransferNet).parameters
    for key, value in options.items():
        if value != defaults[key].default:
            raise UsageError(
                f"model.{key}={value!r} only applies to timm models, not to model.net={name!r}. "
                f"Remove it, or set model.net to a timm model."
            )
    net_class = getattr(from_scratch, FROM_SCRATCH[name])
    if input_size < net_class.smallest_size:
        raise UsageError(
            f"data.size={input_size} is too small for model.net={name!r}. Choose {net_class.smallest_size} or more."
        )
    return net_class(num_classes, input_size)


def _require_timm_model(name: str) -> None:
    import timm

    architecture = name.partition(".")[0]
    if not timm.is_model(architecture):
        hint = did_you_mean(architecture.lower(), [*FROM_SCRATCH, *timm.list_models()])
        raise UsageError(
            f"model.net={name!r} is unknown. {hint}Choose {', '.join(FROM_SCRATCH)} or a timm model "
            "(see timm.list_models())."
        )
    if "." in name and name not in timm.list_pretrained(f"{architecture}*"):
        tags = ", ".join(timm.list_pretrained(f"{architecture}.*")) or "none"
        raise UsageError(f"model.net={name!r}: unknown weights tag. Choose one of {tags}, or remove the tag.")
