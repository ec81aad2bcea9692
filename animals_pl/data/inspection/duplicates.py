"""Find near-duplicates from perceptual hashes: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from animals_pl.data.inspection.image_facts import COLOUR_SIDE, HASH_SIDE

MAX_DISTANCE = 68
"""Maximum Hamming distance of duplicates, of 256 structure bits. Measured by ``scripts/bench/duplicates.py``."""

MAX_COLOUR_RMSE = 6.0
"""Maximum RMSE of the 4 × 4 mean colours of duplicates, on a scale of 0…255, after normalising brightness and contrast.
Above it, the images themselves are compared."""

MAX_COMPONENT = 10
"""Connected components with more images than this are split by complete linkage."""

_STRUCTURE_BYTES = HASH_SIDE * HASH_SIDE // 8
_HASH_BYTES = _STRUCTURE_BYTES + 3 * COLOUR_SIDE * COLOUR_SIDE

_CHUNK = 512
"""Rows per matrix product; bounds the memory."""


class _Hashes(NamedTuple):
    """Perceptual hashes: structure bits as -1 or 1 (N, 256), and mean colours (N, 4, 4, 3) in 0…255, float32."""

    structure: np.ndarray
    colours: np.ndarray

    @classmethod
    def parse(cls, hashes: Sequence[str]) -> _Hashes:
        """Unpack hexadecimal hashes."""
        packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
        bits, colours = np.split(packed.reshape(len(hashes), _HASH_BYTES), [_STRUCTURE_BYTES], axis=1)
        fields = colours.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 3)
        return cls(np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1, fields.astype(np.float32))

    def flipped(self) -> _Hashes:
        """Hashes of the horizontally flipped images: every odd column of coefficients changes its sign."""
        structure = self.structure.reshape(-1, HASH_SIDE, HASH_SIDE).copy()
        structure[:, :, 1::2] *= -1
        return _Hashes(structure.reshape(self.structure.shape), self.colours[:, :, ::-1])


def near_pairs(
    hashes: Sequence[str],
    centre_hashes: Sequence[str],
    same_picture: Callable[[int, int], bool],
    distance: int = MAX_DISTANCE,
) -> np.ndarray:
    """Pairs of near-duplicates: resized, re-encoded, slightly cropped or flipped.

    Two images are compared as they are, flipped, and each with the central part of the other.

    Args:
        hashes: N perceptual hashes (:func:`~animals_pl.data.inspection.image_facts.perceptual_hash`).
        centre_hashes: N perceptual hashes of the central part of the same images.
        same_picture: Called with the indices of two images of similar structure whose colours differ. Returns whether
            they are duplicates.
        distance: Maximum number of differing structure bits.

    Returns:
        int64 array (P, 3): indices i < j and the number of differing bits, sorted.
    """
    whole, centre = _Hashes.parse(hashes), _Hashes.parse(centre_hashes)
    found = [np.empty((0, 4))]
    for first, second in ((whole, whole), (whole, centre), (centre, whole)):
        for view in (first, first.flipped()):
            found += _near(view, second, distance)
    views = np.concatenate(found)
    views = views[np.lexsort(views.T[[1, 0]])]
    pairs, starts = np.unique(views[:, :2].astype(np.int64), axis=0, return_index=True)
    if not len(pairs):
        return np.empty((0, 3), dtype=np.int64)
    bits, colours = np.minimum.reduceat(views[:, 2:], starts).T
    same = [
        colour <= MAX_COLOUR_RMSE or same_picture(i, j) for (i, j), colour in zip(pairs.tolist(), colours, strict=True)
    ]
    return np.column_stack([pairs, bits.astype(np.int64)])[np.array(same, dtype=bool)]


def _near(first: _Hashes, second: _Hashes, distance: int) -> Iterator[np.ndarray]:
    """Yield chunks of pairs of similar structure (P, 4): indices i < j, differing bits, colour difference."""
    bits = first.structure.shape[1]
    for start in range(0, len(first.structure), _CHUNK):
        # A product of ±1 vectors is the number of equal bits minus the number of differing bits.
        agreement = first.structure[start : start + _CHUNK] @ second.structure[start:].T
        i, j = np.nonzero(agreement >= bits - 2 * distance)
        i, j = i[i < j], j[i < j]
        colours = _colour_difference(first.colours[i + start], second.colours[j + start])
        yield np.stack([i + start, j + start, (bits - agreement[i, j]) / 2, colours], axis=1)


def _colour_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference (P,) of colours (P, 4, 4, 3) after normalising brightness and contrast."""
    fields = (1, 2, 3)
    first = first - first.mean(fields, keepdims=True)
    second = second - second.mean(fields, keepdims=True)
    spread = first.std(fields) * second.std(fields)
    return np.sqrt(np.maximum(0, 2 * (spread - (first * second).mean(fields))))


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Connected component (N,) int64 of each node of a graph with ``count`` nodes and edges ``pairs`` (P, 2)."""
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def duplicate_groups(
    sha256: Sequence[str],
    hashes: Sequence[str],
    centre_hashes: Sequence[str],
    same_picture: Callable[[int, int], bool],
) -> np.ndarray:
    """Group numbers (N,) of images that have duplicates, and -1 for the others.

    Groups are the connected components of identical files and near-duplicates. A long chain can connect quite different
    images, so components with more than :data:`MAX_COMPONENT` different files are split by complete linkage: all pairs
    in a group are then within :data:`MAX_DISTANCE`.

    Args:
        sha256: N content hashes; empty for files that cannot be read.
        hashes: N perceptual hashes; empty for images without near-duplicates.
        centre_hashes: N perceptual hashes of the central parts.
        same_picture: See :func:`near_pairs`.
    """
    unique = [digest or f"unreadable {index}" for index, digest in enumerate(sha256)]
    _, first, picture_of = np.unique(unique, return_index=True, return_inverse=True)
    hashed = [index for index in first if hashes[index]]
    pairs = near_pairs(
        [hashes[i] for i in hashed],
        [centre_hashes[i] for i in hashed],
        lambda i, j: same_picture(hashed[i], hashed[j]),
    )
    chain = components(len(hashed), pairs[:, :2])
    numbers, sizes = np.unique(chain, return_counts=True)
    for number in numbers[sizes > MAX_COMPONENT]:
        members = np.flatnonzero(chain == number)
        inside = pairs[chain[pairs[:, 0]] == number]
        inside[:, :2] = np.searchsorted(members, inside[:, :2])
        chain[members] = chain.max() + _complete_linkage(len(members), inside)
    group_of_picture = -1 - np.arange(len(first))  # without a hash: a group of its own
    group_of_picture[picture_of[hashed]] = chain
    groups = pd.Series(group_of_picture[picture_of])
    shared = groups.duplicated(keep=False)
    result = np.full(len(groups), -1, dtype=np.int64)
    result[shared] = pd.factorize(groups[shared])[0]  # in order of first members
    return result


def _complete_linkage(count: int, pairs: np.ndarray) -> np.ndarray:
    """Complete-linkage cluster labels (count,), from 1: all pairs in a cluster are within MAX_DISTANCE."""
    distances = np.full((count, count), float(HASH_SIDE * HASH_SIDE))
    np.fill_diagonal(distances, 0)
    i, j, differing = pairs.T
    distances[i, j] = distances[j, i] = differing
    return fcluster(linkage(squareform(distances), "complete"), MAX_DISTANCE, "distance")
