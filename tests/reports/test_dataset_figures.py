"""Dataset figures: their bars, dots and images are read back from the figure."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from animals_pl.data.catalog import scan_folder
from animals_pl.data.inspection.manifest import scan
from animals_pl.reports.dataset_figures import (
    CELL,
    GAP,
    all_figures,
    class_counts,
    contact_sheet,
    histograms,
    sizes,
    spread,
)
from animals_pl.reports.findings import readable


def drawn(figure: Figure) -> Figure:
    """Lay out and draw a figure."""
    figure.draw_without_rendering()
    return figure


# ---------------------------------------------------------------- counts


def test_class_counts_are_labelled_bars_with_the_largest_on_top():
    counts = {"cane (dog)": 1200, "gatto (cat)": 480, "zebra": 900}
    figure = drawn(class_counts(pd.DataFrame({"class": list(counts), "images": counts.values()})))
    (axes,) = figure.axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["gatto (cat)", "zebra", "cane (dog)"]  # from the bottom up
    assert [bar.get_width() for bar in axes.patches] == [480, 900, 1200]
    heights = [bar.get_y() for bar in axes.patches]
    assert heights == sorted(heights)
    assert [text.get_text() for text in axes.texts] == ["480", "900", "1,200"]
    assert axes.get_title() == "images per class (imbalance 2.50 : 1)"


def test_class_counts_of_many_classes_show_the_largest_and_the_smallest():
    counts = pd.DataFrame({"class": [f"class {number}" for number in range(1000)], "images": np.arange(1, 1001)})
    figure = class_counts(counts)
    (axes,) = figure.axes
    assert [bar.get_width() for bar in axes.patches] == [*range(1, 16), *range(986, 1001)]
    assert figure.get_size_inches()[1] < 12
    assert axes.get_title().endswith("(imbalance 1000.00 : 1), the 15 largest and smallest of 1,000 classes")


# ---------------------------------------------------------------- sizes


def of_sizes(width: list[int], height: list[int]) -> pd.DataFrame:
    return pd.DataFrame({"width": width, "height": height})


def dots(figure: Figure) -> list[int]:
    return [len(axes.collections[0].get_offsets()) for axes in figure.axes]


def limits_of(figure: Figure) -> list[float]:
    return [axes.get_xlim()[1] / 1.03 for axes in figure.axes]


def test_size_panels_show_all_98_percent_and_the_densest_part():
    long_side = np.r_[np.arange(101, 191), np.arange(300, 309), 5000]
    figure = drawn(sizes(of_sizes(long_side.tolist(), [90] * 100)))
    expected = [5000, np.quantile(long_side, 0.98), 1.2 * np.median(long_side)]
    assert limits_of(figure) == pytest.approx(expected)
    assert [axes.get_ylim()[1] / 1.03 for axes in figure.axes] == pytest.approx(expected)
    assert dots(figure) == [100, 98, int((long_side <= expected[2]).sum())]
    assert [axes.get_title() for axes in figure.axes[:2]] == [
        "up to 5,000 px: 100% of the images",
        f"up to {expected[1]:,.0f} px: 98% of the images",
    ]
    assert (figure.axes[0].get_xlabel(), figure.axes[0].get_ylabel()) == ("width (px)", "height (px)")


def test_equal_limits_share_a_panel():
    figure = drawn(sizes(of_sizes([100] * 90 + [200] * 10, [80] * 100)))
    assert limits_of(figure) == pytest.approx([200, 120])
    assert dots(figure) == [100, 90]


def test_dots_are_at_width_and_height_and_grow_with_elongation():
    width, height = [200, 100, 300], [100, 200, 300]
    cloud = sizes(of_sizes(width, height)).axes[0].collections[0]
    found = {tuple(place): size for place, size in zip(cloud.get_offsets().tolist(), cloud.get_sizes(), strict=True)}
    assert found.keys() == set(zip(width, height, strict=True))
    assert found[200, 100] == found[100, 200] > found[300, 300]


# ---------------------------------------------------------------- histograms


def bars(axes) -> list[float]:
    return [bar.get_height() for bar in axes.patches]


def shown(figure: Figure) -> list:
    return [axes for axes in figure.axes if axes.get_visible()]


def test_histograms_include_values_outside_the_bins():
    labels = pd.Series(["cane"] * 6 + ["zebra"] * 3, index=range(50, 59))
    values = pd.Series([0.001, 1.5, 1.6, 3.0, 99.0, 4.0, 8.0, 500.0, 8.0], index=range(50, 59))
    figure = drawn(histograms(labels, values, "kB", np.array([1.0, 2.0, 4.0, 8.0])))
    first, second = shown(figure)
    assert (first.get_title(), second.get_title()) == ("cane (dog)", "zebra")
    assert bars(first) == [3, 1, 2]  # the first and the last bin hold what is outside
    assert bars(second) == [0, 0, 3]
    (line,) = first.lines
    assert line.get_xdata()[0] == pytest.approx(np.median([1.0, 1.5, 1.6, 3.0, 4.0, 8.0]))
    assert first.get_xscale() == "log"
    assert figure.get_supxlabel() == "kB"


@settings(max_examples=8, deadline=None)
@given(values=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), chance=st.randoms(use_true_random=False))
def test_histograms_count_as_numpy_does(values, chance):
    labels = pd.Series([chance.choice(["a", "b", "c"]) for _ in values])
    bins = np.geomspace(0.1, 10, 8)
    figure = histograms(labels, pd.Series(values), "kB", bins)
    for axes, name in zip(shown(figure), sorted(set(labels)), strict=True):
        own = [value for value, label in zip(values, labels, strict=True) if label == name]
        assert bars(axes) == np.histogram(np.clip(own, bins[0], bins[-1]), bins)[0].tolist()
        assert sum(bars(axes)) == len(own)


@pytest.mark.parametrize(("classes", "panels"), [(1, 1), (7, 7), (37, 30)])
def test_histograms_show_the_thirty_largest_classes(classes, panels):
    names = [f"class {number:02}" for number in range(classes)]
    labels = pd.Series([name for number, name in enumerate(names) for _ in range(1 + number % 9 * (number > 4))])
    figure = histograms(labels, pd.Series(np.ones(len(labels))), "kB", np.geomspace(0.5, 2, 4))
    found = [axes.get_title() for axes in shown(figure)]
    assert len(found) == panels and found == sorted(found)
    counts = labels.value_counts()
    left_out = counts.drop(found)
    assert left_out.empty or left_out.max() <= counts[found].min()


# ---------------------------------------------------------------- contact sheet


COLOURS = {"cane": (200, 30, 30), "gatto": (30, 160, 30), "ragno": (30, 30, 200)}


@pytest.fixture
def plain(tmp_path) -> Path:
    """13 images of one colour, 4 of another and 1 of a third, broader than high."""
    for (name, colour), count in zip(COLOURS.items(), (13, 4, 1), strict=True):
        (tmp_path / name).mkdir()
        for number in range(count):
            # Each has its own share of white, by which it is told apart.
            picture = Image.new("RGB", (200, 100), colour)
            picture.paste((255, 255, 255), (0, 0, 10 * number, 100))
            picture.save(tmp_path / name / f"{number:02}.png")
    return tmp_path


def usable_of(root: Path) -> pd.DataFrame:
    paths = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.png"))
    return pd.DataFrame({"path": paths, "label": [path.split("/")[0] for path in paths]})


def rows_of(figure: Figure) -> list[tuple[str, list[np.ndarray]]]:
    """Return the title and the cells with an image of each row of a contact sheet."""
    found = []
    for axes in figure.axes:
        (image,) = axes.images
        cells = np.split(np.asarray(image.get_array()), 10, axis=1)
        found.append((axes.get_title(loc="left"), [cell for cell in cells if (cell < 255).any()]))
    return found


def white_columns(picture: np.ndarray) -> float:
    """Return the white fraction of the middle line of the image in a cell."""
    margin = GAP // 2
    return float((picture[len(picture) // 2, margin:-margin] > 240).all(axis=1).mean())


def test_contact_sheet_shows_ten_images_per_class_from_first_to_last(plain):
    rows = rows_of(drawn(contact_sheet(usable_of(plain), plain)))
    assert [(title, len(pictures)) for title, pictures in rows] == [
        ("cane (dog)", 10),
        ("gatto (cat)", 4),
        ("ragno (spider)", 1),
    ]
    white = [white_columns(picture) for picture in rows[0][1]]
    assert white == sorted(white) and len(set(white)) == 10
    assert (white[0], white[-1]) == (0.0, pytest.approx(0.6, abs=0.03))
    for (_, pictures), colour in zip(rows, COLOURS.values(), strict=True):
        for picture in pictures:
            assert picture.shape[0] == picture.shape[1] == CELL
            middle = picture[len(picture) // 2]
            assert np.abs(middle[-GAP].astype(int) - colour).max() < 12
            assert (picture[0] == 255).all() and (picture[-1] == 255).all()


def test_missing_and_broken_images_have_a_placeholder(plain):
    usable = usable_of(plain)
    whole = rows_of(contact_sheet(usable, plain))
    (plain / "gatto" / "02.png").unlink()
    (plain / "ragno" / "00.png").write_bytes(b"damaged")
    rows = rows_of(drawn(contact_sheet(usable, plain)))
    assert [len(pictures) for _, pictures in rows] == [10, 4, 1]
    cross, other = rows[1][1][2], rows[2][1][0]
    assert (cross == other).all()
    inner = cross[(cross != 255).any(axis=2)].reshape(-1, 3)
    assert {tuple(pixel) for pixel in inner.tolist()} == {(238, 238, 238), (187, 187, 187)}
    for number in (0, 1, 3):
        assert (rows[1][1][number] == whole[1][1][number]).all()


@settings(max_examples=100, deadline=None)
@given(length=st.integers(0, 200), count=st.integers(2, 20))
def test_spread_is_even_and_includes_first_and_last(length, count):
    items = [f"{number}" for number in range(length)]
    chosen = [int(item) for item in spread(items, count)]
    if length <= count:
        assert chosen == list(range(length))
        return
    assert len(chosen) == count
    assert (chosen[0], chosen[-1]) == (0, length - 1)
    steps = np.diff(chosen)
    assert steps.min() >= 1
    assert steps.max() - steps.min() <= 1


# ---------------------------------------------------------------- all of them


def test_all_figures_are_drawn_without_broken_images(tiny_tree, make_tree):
    root = make_tree("own", {"cane": 5, "gatto": 3, "zebra": 1})
    (root / "cane" / "broken.jpg").write_bytes(b"")
    manifest = scan(scan_folder(root)).manifest
    figures = {name: drawn(figure) for name, figure in all_figures(manifest, root).items()}
    assert list(figures) == ["class_counts", "sizes", "aspect_ratios", "file_sizes", "contact_sheet"]
    assert [bar.get_width() for bar in figures["class_counts"].axes[0].patches] == [1, 3, 5]
    assert re.search(r"imbalance 5\.00 : 1", figures["class_counts"].axes[0].get_title())
    assert max(dots(figures["sizes"])) == 9
    for name in ("aspect_ratios", "file_sizes"):
        assert [sum(bars(axes)) for axes in shown(figures[name])] == [5, 3, 1]
    assert [len(pictures) for _, pictures in rows_of(figures["contact_sheet"])] == [5, 3, 1]
    usable = readable(manifest)
    own = (usable["width"] / usable["height"])[usable["label"] == "cane"]
    assert shown(figures["aspect_ratios"])[0].lines[0].get_xdata()[0] == pytest.approx(own.median())
    own = usable.loc[usable["label"] == "cane", "bytes"] / 1000
    assert shown(figures["file_sizes"])[0].lines[0].get_xdata()[0] == pytest.approx(own.median(), rel=0.05)
    assert figures["file_sizes"].get_supxlabel() == "kB"


def test_a_single_image_has_histograms(make_tree):
    root = make_tree("own", {"zebra": 1})
    figures = all_figures(scan(scan_folder(root)).manifest, root)
    for name in ("aspect_ratios", "file_sizes"):
        assert [sum(bars(axes)) for axes in shown(drawn(figures[name]))] == [1]


def test_names_of_the_bars_are_text_before_the_fonts_are_chosen() -> None:
    classes = pd.DataFrame({"class": ["狗", "$$"], "images": [2, 1]})
    texts = [text.get_text() for text in class_counts(classes).findobj(Text)]
    assert {"狗", "$$"} <= set(texts)
