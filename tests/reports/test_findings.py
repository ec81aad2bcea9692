"""Tables of findings, against values worked out by hand and by scikit-learn."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.utils.class_weight import compute_class_weight

from animals_pl.data.inspection.manifest import COLUMNS
from animals_pl.reports import findings
from animals_pl.reports.label_errors import LabelErrors

PLAIN = {
    "label": "cane",
    "sha256": "",
    "perceptual_hash": "",
    "centre_hash": "",
    "width": 300,
    "height": 200,
    "mode": "RGB",
    "bytes": 1000,
    "modified": 0,
    "orientation": 1,
    "brightness": 100.0,
    "contrast": 50.0,
    "detail": 10.0,
    "problem": "",
    "duplicate_group": -1,
}


def manifest(*rows: dict[str, object]) -> pd.DataFrame:
    """Return a manifest of plain images with the given differences."""
    whole = [
        {"path": f"{number:03}.jpg", **PLAIN, "sha256": f"content {number}", **row} for number, row in enumerate(rows)
    ]
    return pd.DataFrame(whole, columns=list(COLUMNS))


# ---------------------------------------------------------------- classes


def test_class_table_has_counts_weights_and_median_sizes():
    table = findings.class_table(
        manifest(
            *[{"label": "ragno", "width": width, "height": 90, "bytes": 400_000} for width in (10, 40, 30)],
            {"label": "cane", "width": 500, "height": 300, "bytes": 100_000},
            {"label": "cane", "width": 501, "height": 401, "bytes": 150_000},
            {"label": "unicorn", "bytes": 2_000},
            {"label": "cane", "problem": "cut short", "width": 9_999, "bytes": 10**9},
        )
    )
    assert table["class"].tolist() == ["cane (dog)", "ragno (spider)", "unicorn"]
    assert table["images"].tolist() == [2, 3, 1]
    assert table["share"].tolist() == pytest.approx([2 / 6, 3 / 6, 1 / 6])
    assert table["median width"].tolist() == [500, 30, 300]
    assert table["median height"].tolist() == [350, 90, 200]
    assert table["megabytes"].tolist() == pytest.approx([0.25, 1.2, 0.002])
    assert table["reference"].tolist() == [1.5, 1.0, 3.0]


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.sampled_from(["cane", "gatto", "ragno", "zebra"]), min_size=1, max_size=40))
def test_class_weights_equal_scikit_learn_and_the_reference(labels):
    table = findings.class_table(manifest(*({"label": label} for label in labels)))
    names = sorted(set(labels))
    balanced = compute_class_weight("balanced", classes=np.array(names), y=np.array(labels))
    assert table["balanced"].tolist() == pytest.approx(balanced.tolist())
    counts = Counter(labels)
    assert table["reference"].tolist() == [round(max(counts.values()) / counts[name], 3) for name in names]
    assert table["images"].tolist() == [counts[name] for name in names]


# ---------------------------------------------------------------- broken


def test_broken_images_are_listed_with_their_reason():
    table = findings.broken_table(
        manifest({}, {"problem": "cut short: x", "bytes": 7, "label": "gatto"}, {}, {"problem": "empty", "bytes": 0})
    )
    assert table.to_dict("records") == [
        {"path": "001.jpg", "label": "gatto", "bytes": 7, "problem": "cut short: x"},
        {"path": "003.jpg", "label": "cane", "bytes": 0, "problem": "empty"},
    ]
    assert table.index.tolist() == [0, 1]


def test_without_broken_images_the_table_is_empty():
    table = findings.broken_table(manifest({}, {}))
    assert table.empty and list(table) == ["path", "label", "bytes", "problem"]


# ---------------------------------------------------------------- outliers

KINDS = ["smallest", "largest", "most elongated", "near-empty", "low-contrast"]


def outliers(table: pd.DataFrame, kind: str) -> list[str]:
    return table.loc[table["kind"] == kind, "path"].tolist()


def test_outliers_start_with_the_most_extreme():
    rows = [
        {"width": 100, "height": 100, "detail": 3.04, "contrast": 40.0},
        {"width": 20, "height": 200, "detail": 9.0, "contrast": 2.06},
        {"width": 900, "height": 300, "detail": 1.0, "contrast": 60.0, "label": "ragno"},
        {"width": 50, "height": 40, "detail": 20.0, "contrast": 30.0},
        {"width": 1, "height": 9000, "detail": 0.0, "contrast": 0.0, "problem": "damaged"},
    ]
    table = findings.outlier_table(manifest(*rows), count=2)
    assert list(table) == ["kind", "value", "path", "label"]
    assert table["kind"].drop_duplicates().tolist() == KINDS
    assert outliers(table, "smallest") == ["003.jpg", "001.jpg"]
    assert outliers(table, "largest") == ["002.jpg", "000.jpg"]
    assert outliers(table, "most elongated") == ["001.jpg", "002.jpg"]
    assert outliers(table, "near-empty") == ["002.jpg", "000.jpg"]
    assert outliers(table, "low-contrast") == ["001.jpg", "003.jpg"]
    values = dict(zip(zip(table["kind"], table["path"], strict=True), table["value"], strict=True))
    assert values["smallest", "003.jpg"] == "50×40"
    assert values["most elongated", "001.jpg"] == "10.00 : 1"
    assert values["near-empty", "000.jpg"] == "detail 3.0"
    assert values["low-contrast", "001.jpg"] == "contrast 2.1"
    assert table.loc[table["path"] == "002.jpg", "label"].unique().tolist() == ["ragno"]


@pytest.mark.parametrize("seed", range(3))
def test_ties_keep_the_order_of_the_manifest(seed):
    rng = np.random.default_rng(seed)
    widths = rng.choice([100, 120], 80)
    rows = [{"width": width, "height": 100, "detail": float(width), "contrast": 5.0} for width in widths.tolist()]
    table = findings.outlier_table(manifest(*rows), count=60)
    narrow = [f"{index:03}.jpg" for index in np.flatnonzero(widths == 100)]
    broad = [f"{index:03}.jpg" for index in np.flatnonzero(widths == 120)]
    for kind in ("smallest", "near-empty"):
        assert outliers(table, kind) == (narrow + broad)[:60]
    for kind in ("largest", "most elongated"):
        assert outliers(table, kind) == (broad + narrow)[:60]
    assert outliers(table, "low-contrast") == [f"{index:03}.jpg" for index in range(60)]


@pytest.mark.parametrize(("images", "listed"), [(40, 12), (5, 5)])
def test_each_kind_has_at_most_twelve_outliers(images, listed):
    counts = findings.outlier_table(manifest(*[{}] * images))["kind"].value_counts()
    assert counts.to_dict() == dict.fromkeys(KINDS, listed)


# ---------------------------------------------------------------- duplicates


def member(group: int, label: str = "cane", content: str | None = None) -> dict[str, object]:
    return {"duplicate_group": group, "label": label, **({} if content is None else {"sha256": content})}


GROUPS = [
    member(0, content="same"),  # 0: an exact pair in one split
    {},
    member(1),  # 2: three near ones in one split
    member(0, content="same"),
    member(1),
    member(2, "gatto", "contested"),  # 5: an exact pair with conflicting labels
    member(1),
    member(3),  # 7: a pair of near ones in two splits
    member(2, "ragno", "contested"),
    member(3),
    member(4, content="twice"),  # 10: three near ones in two splits, two of them identical
    member(4, content="twice"),
    member(4),
    member(5, content="late"),  # 13: another exact pair in one split
    member(5, content="late"),
]
SPLITS = {f"{index:03}.jpg": "train" for index in range(15)} | {"009.jpg": "val", "012.jpg": "test", "011.jpg": "val"}


def by_group(table: pd.DataFrame) -> list[tuple]:
    """Return kind, images, labels, splits and paths of each group, in the order of the table."""
    assert table["group"].tolist() == sorted(table["group"])
    assert table["group"].unique().tolist() == list(range(1, table["group"].nunique() + 1))
    found = []
    for _, rows in table.groupby("group"):
        facts = rows[["kind", "images", "labels", "splits"]].drop_duplicates()
        assert len(facts) == 1
        found.append((*facts.iloc[0].tolist(), [int(path[:3]) for path in rows["path"]]))
    return found


def test_conflicting_labels_come_first_then_several_splits_then_large_groups():
    table = findings.duplicate_table(manifest(*GROUPS), SPLITS)
    assert list(table) == ["group", "kind", "images", "labels", "splits", "split", "path", "label"]
    assert by_group(table) == [
        ("exact", 2, 2, 1, [5, 8]),
        ("near", 3, 1, 3, [10, 11, 12]),
        ("near", 2, 1, 2, [7, 9]),
        ("near", 3, 1, 1, [2, 4, 6]),
        ("exact", 2, 1, 1, [0, 3]),
        ("exact", 2, 1, 1, [13, 14]),
    ]
    assert dict(zip(table["path"], table["split"], strict=True)) == {path: SPLITS[path] for path in table["path"]}
    assert table["label"].tolist()[:2] == ["gatto", "ragno"]
    assert table.index.tolist() == list(range(len(table)))


def test_without_a_split_file_no_group_is_in_a_split():
    table = findings.duplicate_table(manifest(*GROUPS))
    assert set(table["split"]) == {""} and set(table["splits"]) == {0}
    assert [group[4] for group in by_group(table)] == [[5, 8], [2, 4, 6], [10, 11, 12], [0, 3], [7, 9], [13, 14]]


def test_excluded_images_are_in_no_split():
    splits = SPLITS | {"009.jpg": "left out"}
    del splits["012.jpg"]
    found = {tuple(group[4]): group[3] for group in by_group(findings.duplicate_table(manifest(*GROUPS), splits))}
    assert found[7, 9] == 1
    assert found[10, 11, 12] == 2


@pytest.mark.parametrize("rows", [[{}, {}], [{}]])
def test_without_duplicates_the_table_is_empty(rows):
    for splits in (None, SPLITS):
        table = findings.duplicate_table(manifest(*rows), splits)
        assert table.empty
        assert list(table) == ["group", "kind", "images", "labels", "splits", "split", "path", "label"]


# ---------------------------------------------------------------- images to exclude


def test_identical_files_with_conflicting_labels_are_excluded_but_not_their_near_duplicates():
    rows = [member(0, "cane", "same"), member(0, "gatto", "same"), member(0, "cane"), member(1), member(1)]
    found = findings.Findings(Path(), manifest(*rows))
    assert found.exclude.to_dict("records") == [
        {"path": path, "reason": "identical files with the labels cane and gatto"} for path in ("000.jpg", "001.jpg")
    ]
    assert (found.exact_groups, found.near_groups) == (1, 2)


def test_suspected_labels_are_excluded_with_the_reason():
    row = {"path": "001.jpg", "label": "cane", "suggested": "gatto", "self_confidence": 0.1, "probability": 0.9}
    found = findings.Findings(Path(), manifest({}, {}), label_errors=LabelErrors(pd.DataFrame([row])))
    assert found.exclude.to_dict("records") == [
        {"path": "001.jpg", "reason": "label cane, looks like gatto (0.90 against 0.10)"}
    ]


# ---------------------------------------------------------------- sizes


def of_sizes(*sizes: tuple[int, int]) -> pd.DataFrame:
    return manifest(*({"width": width, "height": height} for width, height in sizes))


def test_frequent_sizes_come_first():
    shapes = [(300, 225)] * 3 + [(225, 300)] * 2 + [(640, 480)] + [(300, 200)] * 4
    table = findings.size_table(of_sizes(*shapes), 3)
    assert table.to_dict("records") == [
        {"width": 300, "height": 200, "images": 4, "share": pytest.approx(0.4)},
        {"width": 300, "height": 225, "images": 3, "share": pytest.approx(0.3)},
        {"width": 225, "height": 300, "images": 2, "share": pytest.approx(0.2)},
    ]


def test_broken_images_have_no_size():
    rows = of_sizes((300, 200), (300, 200), (0, 0), (7, 7))
    rows.loc[2:, "problem"] = "damaged"
    assert findings.size_table(rows).to_dict("records") == [{"width": 300, "height": 200, "images": 2, "share": 1.0}]


@pytest.mark.parametrize(
    ("shapes", "sizes"),
    [
        ([(300, 225), (225, 640), (400, 230), (100, 90), (226, 226)], [128, 160, 192, 224]),  # shorter sides: 225
        ([(224, 300)], [128, 160, 192, 224]),
        ([(223, 300)], [96, 128, 160, 192]),
        ([(33, 33)], [32]),
        ([(5, 400)], [32]),
        ([(64, 64)], [32, 64]),
        ([(9000, 6000)], [256, 320, 384, 448]),
        ([(300, 225)] * 5 + [(20, 20)] * 4, [128, 160, 192, 224]),
        ([(300, 225)] * 4 + [(40, 40)] * 5, [32]),
    ],
)
def test_largest_training_size_enlarges_at_most_half_of_the_images(shapes, sizes):
    assert findings.suggest_sizes(of_sizes(*shapes))[0] == sizes


@settings(max_examples=100, deadline=None)
@given(shapes=st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 3000)), min_size=1, max_size=30))
def test_training_sizes_are_multiples_of_32_and_their_cost_is_stated(shapes):
    sizes, reason = findings.suggest_sizes(of_sizes(*shapes))
    assert sizes == sorted(set(sizes)) and 1 <= len(sizes) <= 4
    assert all(isinstance(size, int) and size % 32 == 0 for size in sizes)
    assert sizes[0] >= 32 and sizes[-1] <= 448
    short = sorted(min(shape) for shape in shapes)
    last = sizes[-1]
    if last > 32:  # no more than half of the images are enlarged
        assert sum(side < last for side in short) <= len(short) / 2
    if last < 448:  # and of the next size it would be more
        assert np.median(short) < last + 32
    assert f"{sum(side < last for side in short) / len(short):.0%} of the images are enlarged" in reason
    stated = re.search(r"Training at (\d) sizes from (\d+) px, .* processes (\d+)% of", reason)
    assert (stated is None) == (len(sizes) == 1)
    if stated:
        cost = sum((size / last) ** 2 for size in sizes) / len(sizes)
        assert [int(number) for number in stated.groups()] == [len(sizes), sizes[0], int(f"{100 * cost:.0f}")]
        assert 0.25 < cost < 1
        assert 0.5 * last <= sizes[0] < last
