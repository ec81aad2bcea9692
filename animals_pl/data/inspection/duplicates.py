"""Hashes → which images show the same picture: pure functions of arrays."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import squareform

from animals_pl.data.inspection.facts import COLOUR_SIDE, HASH_SIDE

NEAR = 68
"""Bits of 256 in which the structures of copies differ at most; ``scripts/measure_duplicates.py`` shows why."""

SAME_COLOURS = 6.0
"""Colours agree up to this root mean square difference over 4 × 4 fields, in levels of 255, brightness and contrast
made equal: a resized or re-encoded copy, or a frame of the same burst."""

LARGE = 10
"""Near-duplicates chained to a group of more than this many are taken apart until each is near to each other."""

STRUCTURE_BYTES = HASH_SIDE * HASH_SIDE // 8
BYTES = STRUCTURE_BYTES + 3 * COLOUR_SIDE * COLOUR_SIDE

_CHUNK = 512


class _Pictures(NamedTuple):
    """Hashes unpacked.

    Attributes:
        structure: (N, 256) float32, each bit as -1 or 1.
        colours: (N, 4, 4, 3) float32, in 0…255.
    """

    structure: np.ndarray
    colours: np.ndarray

    @classmethod
    def of(cls, hashes: Sequence[str]) -> _Pictures:
        """Unpack perceptual hashes."""
        packed = np.frombuffer(bytes.fromhex("".join(hashes)), dtype=np.uint8)
        bits, colours = np.split(packed.reshape(len(hashes), BYTES), [STRUCTURE_BYTES], axis=1)
        fields = colours.reshape(-1, COLOUR_SIDE, COLOUR_SIDE, 3)
        return cls(np.unpackbits(bits, axis=1).astype(np.float32) * 2 - 1, fields.astype(np.float32))

    def mirrored(self) -> _Pictures:
        """Return the hashes of the mirror images: every odd column of coefficients changes its sign."""
        structure = self.structure.reshape(-1, HASH_SIDE, HASH_SIDE).copy()
        structure[:, :, 1::2] *= -1
        return _Pictures(structure.reshape(self.structure.shape), self.colours[:, :, ::-1])


def near_pairs(
    hashes: Sequence[str], centre_hashes: Sequence[str], same_picture: Callable[[int, int], bool], distance: int = NEAR
) -> np.ndarray:
    """Return the pairs of pictures that are copies of each other, resized, encoded anew, slightly cut or mirrored.

    Two pictures are compared as they are, as mirror images, and each with the middle of the other.

    Args:
        hashes: N perceptual hashes (:func:`~animals_pl.data.inspection.facts.perceptual_hash`).
        centre_hashes: N hashes of the middles of the same pictures.
        same_picture: Is asked of two pictures of near structure whose colours do not agree, by their indices.
        distance: Bits in which their structures may differ.

    Returns:
        (P, 3) int64: indices i < j and the bits in which they differ, sorted.
    """
    whole, centre = _Pictures.of(hashes), _Pictures.of(centre_hashes)
    found = [np.empty((0, 4))]
    for first, second in ((whole, whole), (whole, centre), (centre, whole)):
        for view in (first, first.mirrored()):
            found += _near(view, second, distance)
    views = np.concatenate(found)
    views = views[np.lexsort(views.T[[1, 0]])]
    pairs, starts = np.unique(views[:, :2].astype(np.int64), axis=0, return_index=True)
    if not len(pairs):
        return np.empty((0, 3), dtype=np.int64)
    bits, colours = np.minimum.reduceat(views[:, 2:], starts).T
    same = [
        colour <= SAME_COLOURS or same_picture(i, j) for (i, j), colour in zip(pairs.tolist(), colours, strict=True)
    ]
    return np.column_stack([pairs, bits.astype(np.int64)])[np.array(same, dtype=bool)]


def _near(first: _Pictures, second: _Pictures, distance: int) -> Iterator[np.ndarray]:
    """Yield pairs of near structure (P, 4), some rows at a time: indices i < j, and how bits and colours differ."""
    bits = first.structure.shape[1]
    for start in range(0, len(first.structure), _CHUNK):
        # Of signs, a product counts the bits that agree less those that differ.
        agreement = first.structure[start : start + _CHUNK] @ second.structure[start:].T
        i, j = np.nonzero(agreement >= bits - 2 * distance)
        i, j = i[i < j], j[i < j]
        colours = _colour_difference(first.colours[i + start], second.colours[j + start])
        yield np.stack([i + start, j + start, (bits - agreement[i, j]) / 2, colours], axis=1)


def _colour_difference(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return the root mean square difference (P,) of fields (P, 4, 4, 3) made equally bright and rich in contrast."""
    fields = (1, 2, 3)
    first = first - first.mean(fields, keepdims=True)
    second = second - second.mean(fields, keepdims=True)
    spread = first.std(fields) * second.std(fields)
    return np.sqrt(np.maximum(0, 2 * (spread - (first * second).mean(fields))))


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return the number (N,) of the connected part of a graph that each of its ``count`` nodes belongs to.

    Args:
        count: N.
        pairs: (P, 2) node indices.
    """
    ones = np.ones(len(pairs), dtype=bool)
    graph = coo_array((ones, (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(graph, directed=False)[1].astype(np.int64)


def duplicate_groups(
    contents: Sequence[str],
    hashes: Sequence[str],
    centre_hashes: Sequence[str],
    same_picture: Callable[[int, int], bool],
) -> np.ndarray:
    """Return a group number (N,) for every image that has a duplicate, and -1 for the others.

    Images with the same content always share a group; near-duplicates do where a chain of them connects
    the two. A long chain may lead from one picture to quite another, so a group of more than ten different
    pictures is divided by complete linkage: each of a group is then near to each other.

    Args:
        contents: N content hashes; an empty one belongs to a file that could not be read.
        hashes: N perceptual hashes; an empty one has no near-duplicates.
        centre_hashes: N perceptual hashes of the middles.
        same_picture: See :func:`near_pairs`; takes indices of images.
    """
    texts = [text or f"unread {index}" for index, text in enumerate(contents)]
    _, first, picture_of = np.unique(texts, return_index=True, return_inverse=True)
    hashed = [index for index in first if hashes[index]]
    pairs = near_pairs(
        [hashes[i] for i in hashed],
        [centre_hashes[i] for i in hashed],
        lambda i, j: same_picture(hashed[i], hashed[j]),
    )
    chain = components(len(hashed), pairs[:, :2])
    numbers, sizes = np.unique(chain, return_counts=True)
    for number in numbers[sizes > LARGE]:
        members = np.flatnonzero(chain == number)
        inside = pairs[chain[pairs[:, 0]] == number]
        inside[:, :2] = np.searchsorted(members, inside[:, :2])
        chain[members] = chain.max() + _compact_parts(len(members), inside)
    group_of_picture = -1 - np.arange(len(first))  # a group of its own for what has no hash
    group_of_picture[picture_of[hashed]] = chain
    groups = group_of_picture[picture_of]
    _, leader, number, size = np.unique(groups, return_index=True, return_inverse=True, return_counts=True)
    shared = size[number] > 1
    result = np.full(len(groups), -1, dtype=np.int64)
    result[shared] = np.unique(leader[number[shared]], return_inverse=True)[1]  # in the order of their first member
    return result


def _compact_parts(count: int, pairs: np.ndarray) -> np.ndarray:
    """Return part numbers (count,) from 1, in each of which every two pictures are near.

    Args:
        count: Number of pictures.
        pairs: (P, 3) which are near, and by how many bits they differ.
    """
    distances = np.full((count, count), float(HASH_SIDE * HASH_SIDE))
    np.fill_diagonal(distances, 0)
    i, j, differing = pairs.T
    distances[i, j] = distances[j, i] = differing
    return fcluster(linkage(squareform(distances), "complete"), NEAR, "distance")
