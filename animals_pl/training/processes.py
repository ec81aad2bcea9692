"""Communication between the processes of a distributed run. Also works with a single process."""

from __future__ import annotations

from typing import TypeVar

import torch
from torch import distributed

Item = TypeVar("Item")


def is_distributed() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized()


def gather(mine: Item) -> list[Item]:
    """The objects of all processes, in the order of their ranks. Call it on every process."""
    parts = [mine]
    if is_distributed():
        parts = parts * distributed.get_world_size()
        distributed.all_gather_object(parts, mine)
    return parts


def share_of_batch(images: int, device: torch.device) -> float:
    """Factor for the mean loss of this process's part of a batch.

    Processes average their gradients. With the factor, the result is the gradient of the mean over the whole batch,
    even if the last batch of an epoch gives them different numbers of images.
    """
    if not is_distributed():
        return 1.0
    total = torch.tensor(float(images), device=device)
    distributed.all_reduce(total)
    return images * distributed.get_world_size() / total.item()
