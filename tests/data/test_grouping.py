"""Which images belong together: by their names, by a table, by either of two groupings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from animals_pl.data.catalog import Catalog
from animals_pl.data.grouping import group_by, join_groups
from animals_pl.errors import UsageError

PATHS = [
    "cane/cam1_day1_0.jpg",
    "cane/cam1_day2_1.jpg",
    "cane/cam2_day1_2.jpg",
    "cane/portrait.jpg",
    "gatto/cam1_day1_3.jpg",
    "gatto/cam12_day1_4.jpg",
]


def catalog(paths: list[str] = PATHS) -> Catalog:
    return Catalog(Path("images"), ["cane", "gatto"], paths, np.array([path[0] == "g" for path in paths], int))


def together(numbers: np.ndarray, names: list[str] = PATHS) -> list[list[str]]:
    """Return the groups as sorted lists of names; who is in none is left out."""
    assert len(numbers) == len(names)
    found: dict[int, list[str]] = {}
    for number, name in zip(numbers.tolist(), names, strict=True):
        assert number >= -1
        if number >= 0:
            found.setdefault(number, []).append(name)
    return sorted(found.values())


def picked(*indices: int) -> list[str]:
    return [PATHS[index] for index in indices]


def refusal(rule: str, paths: list[str] = PATHS) -> str:
    with pytest.raises(UsageError) as caught:
        group_by(rule, catalog(paths))
    assert "\n" not in str(caught.value)
    return str(caught.value)


# ---------------------------------------------------------------- file names


@pytest.mark.parametrize(
    ("rule", "groups"),
    [
        (r"cam\d+", [(0, 1, 4), (2,), (5,)]),  # the whole match
        (r"cam(\d)", [(0, 1, 4, 5), (2,)]),  # the part, so that cam1 and cam12 begin alike
        (r"(cam\d+)_(day\d)", [(0, 4), (1,), (2,), (5,)]),  # both parts
        (r"cam(\d+)_day\d_(\d)", [(0,), (1,), (2,), (4,), (5,)]),
        (r"^cane/(cam1)_", [(0, 1)]),  # a match of the path, and no group for the others
        (r"(?:cam)\d+_(?P<day>day\d)", [(0, 2, 4, 5), (1,)]),  # named and silent parentheses
        (r"day1", [(0, 2, 4, 5)]),
        (r"^(cane|gatto)/", [(0, 1, 2, 3), (4, 5)]),
    ],
)
def test_the_same_match_is_a_group_and_no_match_is_in_none(rule, groups):
    assert together(group_by(rule, catalog())) == sorted(picked(*group) for group in groups)


def test_parts_are_told_apart_by_their_places():
    paths = ["1_23.jpg", "12_3.jpg", "1_23.png"]
    assert together(group_by(r"(\d+)_(\d+)", catalog(paths)), paths) == [["12_3.jpg"], ["1_23.jpg", "1_23.png"]]


def test_a_part_that_takes_no_part_in_the_match_is_empty():
    paths = ["cam1_2.jpg", "cam1.jpg", "cam1.png"]
    assert together(group_by(r"(cam\d)(_\d)?", catalog(paths)), paths) == [["cam1.jpg", "cam1.png"], ["cam1_2.jpg"]]


@pytest.mark.parametrize("rule", ["burst", r"x*", r"(x*)", "images/"])
def test_a_rule_that_says_nothing_is_refused(rule):
    message = refusal(rule)
    assert f"data.group_by={rule!r} matches no image in 'images'" in message
    assert f"whose paths look like {PATHS[0]!r}" in message


@pytest.mark.parametrize("rule", ["cam(", "[", "*", r"(?P<a>x)(?P<a>y)"])
def test_a_broken_regular_expression_is_refused(rule):
    message = refusal(rule)
    assert f"data.group_by={rule!r} is neither a regular expression (" in message
    assert "TABLE.csv:COLUMN" in message


# ---------------------------------------------------------------- tables


@pytest.fixture
def table(tmp_path) -> Path:
    """Places of some images, and of one that is not there; one cell is empty, one row is cut short."""
    file = tmp_path / "my: places.csv"
    rows = [(PATHS[0], "lake"), (PATHS[2], "hill"), (PATHS[4], "lake"), (PATHS[3], ""), ("gone.jpg", "lake")]
    lines = ["note,path,place", *(f"x,{path},{place}" for path, place in rows), f"x,{PATHS[1]}"]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def test_the_same_cell_is_a_group_and_no_cell_is_in_none(table):
    assert together(group_by(f"{table}:place", catalog())) == sorted([picked(0, 4), picked(2)])


def test_any_column_can_be_named(table):
    assert together(group_by(f"{table}:note", catalog())) == [picked(0, 1, 2, 3, 4)]


@pytest.mark.parametrize("delimiter", [",", ";"])
@pytest.mark.parametrize("name", ["places.csv", "PLACES.CSV"])
def test_a_table_saved_by_a_spreadsheet_is_read(tmp_path, name, delimiter):
    file = tmp_path / name
    cells = [("\ufeffpath", "place"), (PATHS[5].replace("/", "\\"), '"lake, south"'), (PATHS[0], '"lake, south"')]
    rows = [*map(delimiter.join, cells), ""]
    file.write_bytes("\r\n".join(rows).encode())
    assert together(group_by(f"{file}:place", catalog())) == [picked(0, 5)]


def test_a_missing_column_of_a_table_with_semicolons_is_named(tmp_path):
    (tmp_path / "places.csv").write_text(f"path;place\n{PATHS[0]};lake\n")
    assert "has no column 'site'. It has path, place." in refusal(f"{tmp_path}/places.csv:site")


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ("plaec", "has no column 'plaec'. Did you mean 'place'? It has note, path, place."),
        ("", "has no column ''. It has note, path, place."),
    ],
)
def test_a_missing_column_is_named_with_the_nearest(table, column, says):
    rule = f"{table}:{column}"
    assert refusal(rule) == f"data.group_by={str(table)!r} {says}"


def test_a_table_without_paths_is_refused(tmp_path):
    (tmp_path / "places.csv").write_text(f"paths,place\n{PATHS[0]},lake\n", encoding="utf-8")
    rule = f"{tmp_path}/places.csv:place"
    table = str(tmp_path / "places.csv")
    assert refusal(rule) == f"data.group_by={table!r} has no column 'path'. Did you mean 'paths'? It has paths, place."


def test_a_table_without_a_column_is_refused(table):
    rule = str(table)
    assert refusal(rule) == f"data.group_by={rule!r} names no column. Pass {rule}:COLUMN, one of note, path, place."


def test_a_column_is_found_in_any_case(table):
    assert together(group_by(f"{table}:Place", catalog())) == sorted([picked(0, 4), picked(2)])


def test_a_missing_table_is_named(tmp_path):
    file = tmp_path / "absent.csv"
    assert refusal(f"{file}:place").startswith(f"data.group_by={str(file)!r} is not a file")


@pytest.mark.parametrize("content", [b"", b"path,place\n"])
def test_a_table_without_rows_is_refused(tmp_path, content):
    (tmp_path / "places.csv").write_bytes(content)
    assert f"data.group_by='{tmp_path}/places.csv" in refusal(f"{tmp_path}/places.csv:place")


@pytest.mark.parametrize("rows", ["other/1.jpg,lake\n", f"{PATHS[0]},\n"])
def test_a_table_that_says_nothing_is_refused(tmp_path, rows):
    (tmp_path / "places.csv").write_text("path,place\n" + rows, encoding="utf-8")
    rule = f"{tmp_path}/places.csv:place"
    assert f"data.group_by={rule!r} matches no image in 'images'" in refusal(rule)


# ---------------------------------------------------------------- two groupings


def merged(count: int, *groupings: list[int]) -> list[list[int]]:
    """Return the sets of nodes that are left when those of each group are merged, pair by pair."""
    leader = list(range(count))

    def find(node: int) -> int:
        while leader[node] != node:
            node = leader[node]
        return node

    for groups in groupings:
        for i in range(count):
            for j in range(i):
                if groups[i] == groups[j] >= 0:
                    leader[find(i)] = find(j)
    sets: dict[int, list[int]] = {}
    for node in range(count):
        if any(groups[node] >= 0 for groups in groupings):
            sets.setdefault(find(node), []).append(node)
    return sorted(sets.values())


@settings(max_examples=75, deadline=None)
@given(pairs=st.lists(st.tuples(st.integers(-1, 12), st.integers(-1, 12)), max_size=25))
def test_joined_groups_are_what_merging_pair_by_pair_gives(pairs):
    first, second = (np.array([pair[which] for pair in pairs], dtype=np.int64) for which in (0, 1))
    joined = join_groups(first, second)
    assert together(joined, list(range(len(pairs)))) == merged(len(pairs), first.tolist(), second.tolist())
    assert ((joined == -1) == ((first == -1) & (second == -1))).all()


def test_numbers_of_one_grouping_are_not_those_of_the_other():
    first, second = np.array([0, 0, -1, -1, -1]), np.array([-1, -1, 0, 0, -1])
    assert together(join_groups(first, second), list("abcde")) == [["a", "b"], ["c", "d"]]


def test_a_chain_through_both_groupings_is_one_group():
    first, second = np.array([5, 5, 9, 9, -1]), np.array([-1, 3, 3, 8, 8])
    assert together(join_groups(first, second), list("abcde")) == [list("abcde")]


def test_parts_that_a_pattern_leaves_out_are_no_group():
    pattern = r"(cam[0-9]+)?(loc[0-9]+)?"
    assert (group_by(pattern, catalog(["a/x.jpg", "a/y.jpg", "cam1.jpg"])) == -1).tolist() == [True, True, False]


def test_parts_are_not_run_together():
    numbers = group_by(r"^(.+)_(.+)\.", catalog(["a/b_c.jpg", "a_b/c.jpg"]))
    assert numbers[0] != numbers[1]
