"""Hashes → which photographs show the same picture: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from animals_pl.data.inspection import HASH_SIDE

NEAR = 68
"""Bits of 256 in which the hashes of near-duplicates differ at most: ``scripts/measure_duplicates.py`` shows why."""

LARGE = 10
"""Near-duplicates chained to a group of more than this many are taken apart until each is near to each other."""

_CHUNK = 512


def _signs(hashes: Sequence[str]) -> np.ndarray:
    """Return the bits of hexadecimal hashes as -1 and 1: (N, 256) float32."""
    packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8).reshape(len(hashes), -1)
    return np.unpackbits(packed, axis=1).astype(np.float32) * 2 - 1


def _mirrored(signs: np.ndarray) -> np.ndarray:
    """Return the hashes of the mirrored pictures: every odd column of coefficients changes its sign."""
    mirrored = signs.reshape(-1, HASH_SIDE, HASH_SIDE).copy()
    mirrored[:, :, 1::2] *= -1
    return mirrored.reshape(signs.shape)


def _distance_rows(whole: np.ndarray, centre: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (start, bits in which pictures start… differ at least from pictures start…), a chunk of rows at a time.

    Two pictures are compared as they are, as mirror images, and each with the middle of the other. For signs,
    a matrix product counts the bits that agree less those that differ.
    """
    bits = whole.shape[1]
    for start in range(0, len(whole), _CHUNK):
        rows = slice(start, start + _CHUNK)
        agreement = np.full((len(whole[rows]), len(whole) - start), -bits, dtype=np.float32)
        for mine, others in ((whole, whole), (whole, centre), (centre, whole)):
            for view in (mine[rows], _mirrored(mine[rows])):
                np.maximum(agreement, view @ others[start:].T, out=agreement)
        yield start, (bits - agreement) / 2


def near_pairs(hashes: Sequence[str], centre_hashes: Sequence[str], distance: int = NEAR) -> np.ndarray:
    """Return the pairs of pictures that are copies of each other, resized, encoded anew, slightly cut or mirrored.

    Args:
        hashes: N hashes of 256 bits, hexadecimal.
        centre_hashes: N hashes of the middles of the same pictures.
        distance: Bits that may differ.

    Returns:
        (P, 3) int64: indices i < j and the bits in which they differ, sorted.
    """
    if not hashes:
        return np.empty((0, 3), dtype=np.int64)
    found = []
    for start, rows in _distance_rows(_signs(hashes), _signs(centre_hashes)):
        i, j = np.nonzero(rows <= distance)
        pairs = np.stack([i + start, j + start, rows[i, j].astype(np.int64)], axis=1)
        found.append(pairs[pairs[:, 0] < pairs[:, 1]])
    return np.concatenate(found)


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the number (N,) of the connected part of a graph that each of its ``count`` nodes belongs to.

    Args:
        count: N.
        pairs: (P, 2) node indices.
    """
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def duplicate_groups(contents: Sequence[str], hashes: Sequence[str], centre_hashes: Sequence[str]) -> np.ndarray:
    """Return a group number (N,) for every photograph that has a duplicate, and -1 for the others.

    Photographs with the same content always share a group; near-duplicates do where a chain of them connects
    the two. A long chain may lead from one picture to quite another, so a group of more than ten different
    pictures is divided by complete linkage: each of a group is then near to each other.

    Args:
        contents: N content hashes; an empty one belongs to a file that could not be read.
        hashes: N perceptual hashes; an empty one has no near-duplicates.
        centre_hashes: N perceptual hashes of the middles.
    """
    texts = [text or f"unread {index}" for index, text in enumerate(contents)]
    _, first, picture_of = np.unique(texts, return_index=True, return_inverse=True)
    hashed = [index for index in first if hashes[index]]
    wholes, centres = [hashes[i] for i in hashed], [centre_hashes[i] for i in hashed]
    pairs = near_pairs(wholes, centres)
    chain = components(len(hashed), pairs[:, :2])
    numbers, sizes = np.unique(chain, return_counts=True)
    for number in numbers[sizes > LARGE]:
        members = np.flatnonzero(chain == number)
        parts = _compact_parts([wholes[i] for i in members], [centres[i] for i in members])
        chain[members] = chain.max() + parts
    group_of_picture = -1 - np.arange(len(first))  # a group of its own for what has no hash
    group_of_picture[picture_of[hashed]] = chain
    groups = group_of_picture[picture_of]
    _, leader, number, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    shared = size[number] > 1
    result = np.full(len(groups), -1, dtype=np.int64)
    result[shared] = np.unique(leader[number[shared]], return_inverse=True)[1]  # in the order of their first member
    return result


def _compact_parts(hashes: Sequence[str], centre_hashes: Sequence[str]) -> np.ndarray:
    """Return part numbers from 1 for pictures, in each of which every two are near."""
    upper = np.zeros((len(hashes), len(hashes)))
    for start, rows in _distance_rows(_signs(hashes), _signs(centre_hashes)):
        upper[start : start + len(rows), start:] = rows
    upper = np.triu(upper, 1)
    return fcluster(linkage(squareform(upper + upper.T), "complete"), NEAR, "distance")
