"""Tables as columns: what is read is what was written, and a damaged file is an error of the announced kinds."""

from __future__ import annotations

import numpy as np
import pytest

from animals_pl.data.inspection.columns import (
    READ_ERRORS,
    columns_of,
    concatenate,
    read_columns,
    take,
    write_columns,
)

TYPES = {"path": str, "bytes": int, "contrast": float}
ROWS = [("a/1.jpg", 3, 0.5), ("a/\udcff.jpg", 2**62, 0.1), ("", -1, 1 / 3)]


def test_columns_survive_a_file(tmp_path):
    file = tmp_path / "new" / "table.npz"
    write_columns(columns_of(ROWS, TYPES), file)
    read = read_columns(file, TYPES)
    assert list(zip(*read.values(), strict=True)) == ROWS
    assert read_columns(file, {"bytes": int})["bytes"].tolist() == [3, 2**62, -1]


def test_rows_are_joined_and_chosen():
    empty, some = columns_of([], TYPES), columns_of(ROWS, TYPES)
    chosen = take(concatenate([empty, some, some]), np.array([4, 0]))
    assert list(zip(*chosen.values(), strict=True)) == [ROWS[1], ROWS[0]]


@pytest.mark.parametrize(
    "types", [{"path": str, "other": int}, {"bytes": float}, {"bytes": str}, {"path": int}], ids=repr
)
def test_other_columns_are_refused(tmp_path, types):
    write_columns(columns_of(ROWS, TYPES), tmp_path / "table.npz")
    with pytest.raises(READ_ERRORS):
        read_columns(tmp_path / "table.npz", types)


def test_a_changed_bit_is_noticed_or_harmless(tmp_path):
    file = tmp_path / "table.npz"
    write_columns(columns_of(ROWS, TYPES), file)
    content = file.read_bytes()
    noticed = 0
    for place in range(8 * len(content)):
        changed = bytearray(content)
        changed[place // 8] ^= 1 << place % 8
        file.write_bytes(changed)
        try:
            read = read_columns(file, TYPES)
        except READ_ERRORS:
            noticed += 1
        else:
            assert list(zip(*read.values(), strict=True)) == ROWS
    assert noticed > 0.5 * 8 * len(content)
