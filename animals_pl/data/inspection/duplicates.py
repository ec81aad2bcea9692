"""Find near-duplicates from perceptual hashes: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import combinations
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

MAX_EXHAUSTIVE = 32_768
"""Maximum number of images for which all pairs are compared. With more, pairs are looked up by their lowest
frequencies, see :func:`_indexed`."""

_BY_FREQUENCY = np.argsort(np.add.outer(np.arange(HASH_SIDE), np.arange(HASH_SIDE)).ravel(), kind="stable")
_BANDS = (_BY_FREQUENCY[1:49], _BY_FREQUENCY[49:97])
"""The 48 structure bits of the lowest frequencies, without the constant one, and the next 48. In duplicates, 1 to 4 %
of them differ; in other pairs, half of them."""

_BLOCKS, _SAME_BLOCKS = 9, 3
"""Number of blocks of a band, and how many of them must be equal for the index to find a pair."""

_MAX_KEY = 2 ** (_SAME_BLOCKS * -(-len(_BANDS[0]) // _BLOCKS))
"""Exclusive upper bound of the keys of three blocks."""

_MAX_CANDIDATES = 2**22
"""Pairs looked up at a time; bounds the memory."""

MAX_LINKAGE = 10_000
"""Components with more images than this are not split: complete linkage needs quadratic memory."""


class _Hashes(NamedTuple):
    """Perceptual hashes: packed structure bits (N, 32) and mean colours (N, 4, 4, 3), uint8."""

    structure: np.ndarray
    colours: np.ndarray

    @classmethod
    def parse(cls, hashes: Iterable[str]) -> _Hashes:
        """Unpack hexadecimal hashes."""
        packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(-1, _HASH_BYTES)
        structure, colours = np.split(packed, [_STRUCTURE_BYTES], axis=1)
        return cls(np.ascontiguousarray(structure), colours.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 3))

    def flipped(self) -> _Hashes:
        """Hashes of the horizontally flipped images: every odd column of coefficients changes its sign."""
        return _Hashes(self.structure ^ np.uint8(0b01010101), self.colours[:, :, ::-1])

    def signs(self) -> np.ndarray:
        """Structure bits as -1 or 1 (N, 256) float32."""
        return np.unpackbits(self.structure, axis=1).astype(np.float32) * 2 - 1

    def block_keys(self, band: np.ndarray) -> np.ndarray:
        """Value (N, 9) uint32 of each block of the bits of a band. Every block has low and high frequencies."""
        bits = np.unpackbits(self.structure, axis=1)[:, band].astype(np.uint32)
        blocks = [bits[:, start::_BLOCKS] for start in range(_BLOCKS)]
        return np.stack([block @ (1 << np.arange(block.shape[1], dtype=np.uint32)) for block in blocks], axis=1)


def near_pairs(
    hashes: Sequence[str],
    centre_hashes: Sequence[str],
    same_picture: Callable[[int, int], bool],
    distance: int = MAX_DISTANCE,
) -> np.ndarray:
    """Pairs of near-duplicates: resized, re-encoded, slightly cropped or flipped.

    Two images are compared as they are, flipped, and each with the central part of the other. With more than
    :data:`MAX_EXHAUSTIVE` images, a few pairs close to the limit may be missed.

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
    orders = ((whole, whole), (whole, centre), (centre, whole))
    found = [np.empty((0, 4))]
    compared = [(view, second) for first, second in orders for view in (first, first.flipped())]
    if len(whole.structure) <= MAX_EXHAUSTIVE:
        found += [rows for first, second in compared for rows in _near(first, second, distance)]
    else:
        near = [rows[:, :2] for first, second in compared for rows in _indexed(first, second, distance)]
        i, j = np.unique(np.concatenate(near), axis=0).astype(np.int64).T
        found += [_compare(first, second, i, j, distance) for first, second in compared]
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
    all_rows, all_columns = first.signs(), second.signs()
    bits = all_rows.shape[1]
    for start in range(0, len(all_rows), _CHUNK):
        # A product of ±1 vectors is the number of equal bits minus the number of differing bits.
        agreement = all_rows[start : start + _CHUNK] @ all_columns[start:].T
        i, j = np.nonzero(agreement >= bits - 2 * distance)
        i, j = i[i < j], j[i < j]
        colours = _colour_difference(first.colours[i + start], second.colours[j + start])
        yield np.stack([i + start, j + start, (bits - agreement[i, j]) / 2, colours], axis=1)


def _indexed(first: _Hashes, second: _Hashes, distance: int) -> Iterator[np.ndarray]:
    """As :func:`_near`, but only for pairs that have 3 of the 9 blocks of a band in common.

    Multi-index hashing (Norouzi et al. 2012) on the lower frequencies: one lookup table for each choice of 3 blocks. A
    pair may be found several times.
    """
    for band in _BANDS:
        left, right = first.block_keys(band), second.block_keys(band)
        for blocks in combinations(range(_BLOCKS), _SAME_BLOCKS):
            for i, j in _equal_pairs(*(_join(keys[:, blocks]) for keys in (left, right))):
                yield _compare(first, second, i, j, distance)


def _compare(first: _Hashes, second: _Hashes, i: np.ndarray, j: np.ndarray, distance: int) -> np.ndarray:
    """Those of the image pairs i and j (P,) that have a similar structure, with the columns of :func:`_near`."""
    differing = np.bitwise_count(first.structure.view(np.uint64)[i] ^ second.structure.view(np.uint64)[j]).sum(axis=1)
    near = differing <= distance
    i, j = i[near], j[near]
    return np.stack([i, j, differing[near], _colour_difference(first.colours[i], second.colours[j])], axis=1)


def _join(keys: np.ndarray) -> np.ndarray:
    """One key (N,) uint32 from several (N, K), each below 2⁶."""
    return np.bitwise_or.reduce(keys << (6 * np.arange(keys.shape[1], dtype=np.uint32)), axis=1)


def _equal_pairs(left: np.ndarray, right: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield chunks of all pairs i < j with ``left[i] == right[j]``."""
    order = np.argsort(right, kind="stable")
    bounds = np.concatenate([[0], np.cumsum(np.bincount(right, minlength=_MAX_KEY))])
    starts, ends = bounds[left], bounds[left + 1]
    total = np.cumsum(ends - starts)
    first = 0
    while first < len(left):
        done = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, done + _MAX_CANDIDATES, "right")))
        counts = (ends - starts)[first:last]
        i = np.repeat(np.arange(first, last), counts)
        within = np.arange(len(i)) - np.repeat(np.cumsum(counts) - counts, counts)
        j = order[np.repeat(starts[first:last], counts) + within]
        yield i[i < j], j[i < j]
        first = last


def _colour_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Root mean square difference (P,) of colours (P, 4, 4, 3) after normalising brightness and contrast."""
    fields = (1, 2, 3)
    first, second = first.astype(np.float32), second.astype(np.float32)
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
    images, so components of more than :data:`MAX_COMPONENT` different files, up to :data:`MAX_LINKAGE`, are split by
    complete linkage: all pairs in a group are then within :data:`MAX_DISTANCE`.

    Args:
        sha256: N content hashes; empty for files that cannot be read.
        hashes: N perceptual hashes; empty for images without near-duplicates.
        centre_hashes: N perceptual hashes of the central parts.
        same_picture: See :func:`near_pairs`.
    """
    unique = np.array([(digest or f"unreadable {index}").encode() for index, digest in enumerate(sha256)], dtype="S")
    _, first, picture_of = np.unique(unique, return_index=True, return_inverse=True)
    hashed = [index for index in first if hashes[index]]
    pairs = near_pairs(
        [hashes[i] for i in hashed],
        [centre_hashes[i] for i in hashed],
        lambda i, j: same_picture(hashed[i], hashed[j]),
    )
    chain = components(len(hashed), pairs[:, :2])
    numbers, sizes = np.unique(chain, return_counts=True)
    for number in numbers[(sizes > MAX_COMPONENT) & (sizes <= MAX_LINKAGE)]:
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
