"""Many strings in one byte array."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_CHUNK = 2**16
"""Strings encoded, decoded or copied at a time; bounds the memory."""


class Strings(Sequence[str]):
    """Immutable sequence of strings in one array: 8 bytes per string, besides its UTF-8 bytes.

    A list has an object of at least 50 bytes per string. Reading one changes its reference count, so that every
    forked worker of a DataLoader gradually copies the whole list. All strings are kept exactly, including
    surrogates (bytes of a file name that are not UTF-8).

    Args:
        content: Bytes of all strings (B,) uint8, UTF-8 with surrogates.
        offsets: Start of each string, and the end of the last one (N + 1,) int64.

    Raises:
        ValueError: The arrays do not match.

    Example:
        >>> names = Strings.of(["cat", "dog", "elephant"])
        >>> names[1], len(names), names.take([2, 0])[0], names == ["cat", "dog", "elephant"]
        ('dog', 3, 'elephant', True)
    """

    def __init__(self, content: np.ndarray, offsets: np.ndarray) -> None:
        fits = len(offsets) and offsets[0] == 0 and offsets[-1] == len(content) and (np.diff(offsets) >= 0).all()
        if content.dtype != np.uint8 or offsets.dtype != np.int64 or not fits:
            raise ValueError("content and offsets do not match")
        self.content, self.offsets = content, offsets

    @classmethod
    def of(cls, strings: Iterable[str]) -> Strings:
        """Encode strings. A :class:`Strings` is returned unchanged."""
        if isinstance(strings, Strings):
            return strings
        content, lengths = bytearray(), []
        for string in strings:
            encoded = string.encode(errors="surrogatepass")
            content += encoded
            lengths.append(len(encoded))
        offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        return cls(np.frombuffer(bytes(content), dtype=np.uint8), offsets)

    @classmethod
    def concatenate(cls, parts: Sequence[Strings]) -> Strings:
        """The strings of all parts."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        return cls(np.concatenate([part.content for part in parts]), offsets)

    def take(self, indices: Sequence[int] | np.ndarray) -> Strings:
        """The strings at the given indices (K,), which are not negative."""
        chosen = np.asarray(indices, dtype=np.int64)
        starts, lengths = self.offsets[chosen], self.lengths[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        content = np.empty(offsets[-1], dtype=np.uint8)
        for first in range(0, len(chosen), _CHUNK):
            part = slice(first, first + _CHUNK)
            begin, end = offsets[first], offsets[min(first + _CHUNK, len(chosen))]
            shift = np.repeat(starts[part] - offsets[first : first + len(starts[part])], lengths[part])
            content[begin:end] = self.content[np.arange(begin, end) + shift]
        return Strings(content, offsets)

    def index_of(self, strings: Iterable[str]) -> np.ndarray:
        """Index of each string (K,) int64 in this sequence, which has no duplicates; -1 for unknown ones."""
        if isinstance(strings, Strings) and strings == self:
            return np.arange(len(self))
        known = {string: index for index, string in enumerate(self)}
        return np.fromiter((known.get(string, -1) for string in strings), dtype=np.int64)

    def __add__(self, other: Strings) -> Strings:
        """The strings of both."""
        return self.concatenate([self, other])

    @property
    def lengths(self) -> np.ndarray:
        """Bytes of each string (N,)."""
        return np.diff(self.offsets)

    def __len__(self) -> int:
        """Number of strings."""
        return len(self.offsets) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> Strings: ...

    def __getitem__(self, index: int | slice) -> str | Strings:
        """A string, or the strings of a slice."""
        if isinstance(index, slice):
            return self.take(np.arange(len(self))[index])
        place = range(len(self))[index]
        return self.content[self.offsets[place] : self.offsets[place + 1]].tobytes().decode(errors="surrogatepass")

    def __iter__(self) -> Iterator[str]:
        """Yield the strings."""
        for first in range(0, len(self), _CHUNK):
            offsets = self.offsets[first : first + _CHUNK + 1].tolist()
            content = self.content[offsets[0] : offsets[-1]].tobytes()
            for start, end in itertools.pairwise(offsets):
                yield content[start - offsets[0] : end - offsets[0]].decode(errors="surrogatepass")

    def __eq__(self, other: object) -> bool:
        """Whether a sequence, such as a list, has the same strings."""
        if isinstance(other, Strings):
            return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.content, other.content)
        if isinstance(other, Sequence) and not isinstance(other, str | bytes):
            return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))
        return NotImplemented

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        """The first strings, and how many there are."""
        shown = ", ".join(map(repr, self[:3]))
        return f"<{len(self):,} strings: {shown}{', …' if len(self) > 3 else ''}>"
