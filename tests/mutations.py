"""Random damage to the content of files."""

from __future__ import annotations

import numpy as np


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content with one kind of damage: changed bytes, often in the header; a part cut out, repeated or zeroed."""
    data = bytearray(content)
    kind, end = rng.integers(5), len(data) if rng.random() < 0.5 else min(200, len(data))
    start, length = int(rng.integers(end)), int(rng.integers(1, 2000))
    part = slice(start, start + length)
    if kind == 0:
        for position in rng.integers(0, end, rng.integers(1, 30)):
            data[position] = rng.integers(256)
    elif kind == 1:
        del data[start:]
    elif kind == 2:
        del data[part]
    elif kind == 3:
        data[start:start] = data[part]
    else:
        data[part] = bytes(len(data[part]))
    return bytes(data)
