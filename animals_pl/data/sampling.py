"""Order, repetition and size of training samples: pure functions of (seed, epoch, rank)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

Sampling = Literal["shuffle", "weighted", "weighted_sqrt"]


class SampleKey(NamedTuple):
    """Everything that a training sample depends on, except the seed of the run.

    Attributes:
        index: Index of the image.
        epoch: The epoch.
        repeat: Number of earlier draws of this image in the epoch. Always 0 with ``shuffle``.
        size: Side of the image, in pixels.
    """

    index: int  # type: ignore[assignment]  # hides tuple.index
    epoch: int
    repeat: int
    size: int


def shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """Permutation of ``range(count)``, different in each epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)


def weighted(labels: np.ndarray, seed: int, epoch: int, power: float = 1.0) -> np.ndarray:
    """Draw ``len(labels)`` indices with replacement, images of rare classes more often.

    Args:
        labels: Class index of every image (N,).
        seed: Seed of the run.
        epoch: The epoch.
        power: A class is drawn in proportion to count^(1 - power). 1 makes all classes equally likely, 0.5 is
            square-root sampling (Mahajan et al. 2018), 0 keeps the class frequencies.
    """
    weight = np.bincount(labels)[labels] ** -power
    return np.random.default_rng([seed, epoch]).choice(len(labels), size=len(labels), p=weight / weight.sum())


def repeats(indices: np.ndarray) -> np.ndarray:
    """For every position (N,), the number of earlier positions with the same index."""
    return pd.Series(indices).groupby(indices).cumcount().to_numpy()


def batch_bounds(count: int, batch_size: int, world_size: int = 1) -> list[tuple[int, int]]:
    """(Start, end) of every global batch of ``batch_size * world_size`` samples in an epoch of ``count``.

    The last batch is smaller. If it would leave a rank with fewer than two samples (BatchNorm needs two, and an
    empty rank blocks the others), it is merged into the previous batch. So no sample is dropped and every rank has the
    same number of batches.
    """
    step = batch_size * world_size
    smallest = min(2 * world_size, step)
    starts = list(range(0, count, step))
    if len(starts) > 1 and count - starts[-1] < smallest:
        starts.pop()
    return list(zip(starts, [*starts[1:], count], strict=True))


@dataclass(eq=False, repr=False)
class KeyBatchSampler(Sampler[list[SampleKey]]):
    """Batches of :class:`SampleKey` for one rank, starting at the current position in training.

    Args:
        labels: Class index of every image (N,).
        batch_size: Samples per batch and rank.
        sampling: ``shuffle`` (every image once per epoch), ``weighted`` (classes equally likely) or
            ``weighted_sqrt`` (in proportion to the square root of their count).
        seed: Seed of the order.
        size_at: Epoch → side of the images in pixels.
        position: Returns (epoch, completed batches). Called when an iteration starts.
        rank: Rank of this process.
        world_size: Number of processes.
    """

    labels: np.ndarray
    batch_size: int
    sampling: Sampling
    seed: int
    size_at: Callable[[int], int]
    position: Callable[[], tuple[int, int]]
    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        """Compute the batches."""
        self.bounds = batch_bounds(len(self.labels), self.batch_size, self.world_size)

    def __len__(self) -> int:
        """Number of batches of a full epoch, regardless of the position."""
        return len(self.bounds)

    def __iter__(self) -> Iterator[list[SampleKey]]:
        """Yield this rank's share of the remaining global batches of the epoch."""
        epoch, done = self.position()
        if self.sampling == "shuffle":
            order = shuffled(len(self.labels), self.seed, epoch)
        else:
            order = weighted(self.labels, self.seed, epoch, power=1.0 if self.sampling == "weighted" else 0.5)
        size = self.size_at(epoch)
        earlier = repeats(order)
        for start, end in self.bounds[done:]:
            mine = slice(start + self.rank, end, self.world_size)
            yield [
                SampleKey(index, epoch, repeat, size)
                for index, repeat in zip(order[mine].tolist(), earlier[mine].tolist(), strict=True)
            ]
