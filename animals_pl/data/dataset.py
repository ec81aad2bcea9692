"""Dataset of uint8 images, and DataLoader workers."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from animals_pl.data.augmentation import Augmentation
from animals_pl.data.catalog import Catalog
from animals_pl.data.cores import available_cores
from animals_pl.data.decode import decode
from animals_pl.data.resize import Resize
from animals_pl.data.sampling import SampleKey

MAX_WORKERS = 16

LIMITS = {"size": (8, 4096), "batch_size": (1, 2**16), "num_workers": (0, 1024), "seed": (0, 2**32 - 1)}
"""Setting → minimum and maximum. Larger images, batches or numbers of workers would exhaust the memory."""

WORKER_NICENESS = 10
"""Niceness of workers, 0 to 19. With 10, fine-tuning at 128 pixels took 15 % less time on 2 cores."""


@dataclass(eq=False, repr=False)
class AnimalsDataset(Dataset[tuple[Tensor, int]]):
    """The images of a catalog as uint8 tensors.

    Args:
        catalog: The images.
        resize: Resizes images to squares.
        size: Side in pixels of samples requested by a plain index.
        augmentation: Applied to samples requested by a :class:`SampleKey`.
        seed: Seed of the run.
    """

    catalog: Catalog
    resize: Resize
    size: int
    augmentation: Augmentation | None = None
    seed: int = 0

    def __len__(self) -> int:
        """Number of images."""
        return len(self.catalog.paths)

    def __getitem__(self, key: SampleKey | int) -> tuple[Tensor, int]:
        """Image (3, S, S) uint8 and its label.

        A :class:`SampleKey` gives the augmented training sample, a plain index the image as in validation (in
        ``predict``, Lightning replaces the sampler by one that yields plain indices).
        """
        index = key.index if isinstance(key, SampleKey) else key
        path = self.catalog.root / self.catalog.paths[index]
        if isinstance(key, SampleKey) and self.augmentation is not None:
            # Decode for the final size even in smaller stages, so that only the resizing differs between stages.
            image = decode(path, max(self.size, key.size))
            seed = np.random.SeedSequence([self.seed, key.epoch, key.index, key.repeat])
            image = self.augmentation(image, key.size, seed)
        else:
            image = self.resize(decode(path, self.size), self.size)
        return torch.from_numpy(image.transpose(2, 0, 1).copy()), int(self.catalog.labels[index])


class LazyDataLoader(DataLoader[Any]):
    """A DataLoader that starts loading at the first ``next()``.

    On resume, Lightning creates the first iterator before it restores the counters that the batch sampler reads.
    A plain DataLoader with workers would prefetch the wrong batches.
    """

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]
        """Yield the batches of one epoch."""
        yield from super().__iter__()


def start_worker(worker: int) -> None:
    """Worker init function: single-threaded OpenCV, lower priority, malloc_trim to return unused heap to the OS.

    Workers compete with the net's threads, and every operation waits for its slowest thread. Without ``malloc_trim``, a
    forked worker keeps the activations of earlier batches (0.8 GB in fine-tuning). Signals to the whole process group
    (Ctrl-C, ``timeout``, systemd) are left to the main process, which may need further batches.
    """
    cv2.setNumThreads(0)
    if hasattr(os, "nice"):
        os.nice(WORKER_NICENESS)
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_on_sigterm_of_parent, daemon=True).start()


def _end_on_sigterm_of_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)


def default_num_workers() -> int:
    """CPUs available to this process (affinity and container limit), at most :data:`MAX_WORKERS`."""
    return min(available_cores(), MAX_WORKERS)
