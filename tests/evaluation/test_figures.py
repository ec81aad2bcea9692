"""Figures hold exactly the numbers they were given."""

from __future__ import annotations

import dataclasses
import io
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from scipy.sparse import csr_array

from animals_pl.evaluation import figures
from animals_pl.evaluation.figures import MAX_CELLS, MAX_LABELS, confusion_matrix, curves, drawable

NAN = float("nan")
ROWS = [
    {"epoch": 0, "loss/train": 2.0, "loss/val": 1.5, "acc/train": 0.3, "acc/val": 0.41},
    {"epoch": 1, "loss/train": 1.2, "loss/val": 0.9, "acc/train": 0.5, "acc/val": 0.62},
    {"epoch": 2, "loss/train": 0.8, "loss/val": 1.1, "acc/train": 0.7, "acc/val": 0.68},
    {"epoch": 3, "loss/train": 0.5, "loss/val": 1.3, "acc/train": 0.8, "acc/val": 0.66},
]
CONFUSION = np.array([[8, 2, 0], [0, 30, 1], [4, 0, 5]])
NAMES = ["cane (dog)", "ragno (spider)", "gatto (cat)"]


def lines(axes: Axes) -> dict[str, tuple[list[float], list[float]]]:
    """Return what each named line of a panel holds."""
    return {
        line.get_label(): (line.get_xdata().tolist(), line.get_ydata().tolist())
        for line in axes.lines
        if not line.get_label().startswith("_")
    }


def stars(axes: Axes) -> list[tuple[float, float]]:
    return [
        (float(np.ravel(line.get_xdata())[0]), float(np.ravel(line.get_ydata())[0]))
        for line in axes.lines
        if line.get_marker() == "*"
    ]


def notes(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


@pytest.mark.parametrize(
    ("draw", "given"),
    [(curves, (ROWS,)), (curves, (ROWS[:1],)), (confusion_matrix, (CONFUSION, NAMES))],
    ids=["curves", "one epoch", "matrix"],
)
def test_a_figure_is_saved_as_a_picture(draw: Callable[..., Figure], given: tuple, tmp_path: Path) -> None:
    figure = draw(*given)
    assert isinstance(figure, Figure)
    path = tmp_path / "figure.png"
    figure.savefig(path, dpi=50)
    picture = matplotlib.image.imread(path)
    assert picture.shape[:2] == tuple((figure.get_size_inches()[::-1] * 50).astype(int))
    assert picture[..., :3].std() > 0.01  # something is drawn


def test_each_panel_holds_the_training_and_validation_numbers_over_epochs_from_one() -> None:
    loss, accuracy = curves(ROWS).axes
    for axes, metric in ((loss, "loss"), (accuracy, "acc")):
        assert lines(axes) == {
            fold: ([1, 2, 3, 4], [row[f"{metric}/{fold}"] for row in ROWS]) for fold in ("train", "val")
        }
    assert [axes.get_title() for axes in (loss, accuracy)] == ["loss", "accuracy"]
    assert [axes.get_xlabel() for axes in (loss, accuracy)] == ["epoch", "epoch"]
    assert [text.get_text() for text in loss.get_legend().get_texts()] == ["train", "val"]


def test_training_and_validation_have_the_same_two_colours_in_both_panels() -> None:
    colours = [[line.get_color() for line in axes.lines[:2]] for axes in curves(ROWS).axes]
    assert colours[0] == colours[1]
    assert len(set(colours[0])) == 2


def test_the_lowest_validation_loss_and_the_highest_validation_accuracy_are_marked() -> None:
    loss, accuracy = curves(ROWS).axes
    assert (stars(loss), notes(loss)) == ([(2, 0.9)], ["0.900"])
    assert (stars(accuracy), notes(accuracy)) == ([(3, 0.68)], ["0.680"])


def test_the_mark_stands_at_its_epoch_where_a_run_starts_late() -> None:
    loss, _ = curves([{**row, "epoch": row["epoch"] + 10} for row in ROWS]).axes
    assert lines(loss)["val"][0] == [11, 12, 13, 14]
    assert stars(loss) == [(12, 0.9)]


@pytest.mark.parametrize("absent", [{}, {"loss/val": NAN, "acc/val": NAN}])
def test_an_epoch_without_validation_leaves_a_gap_and_is_never_the_best(absent: dict[str, float]) -> None:
    first = {"epoch": 0, "loss/train": 2.0, "acc/train": 0.3, **absent}
    loss, accuracy = curves([first, *ROWS[1:]]).axes
    np.testing.assert_array_equal(lines(loss)["val"][1], [NAN, 0.9, 1.1, 1.3])
    np.testing.assert_array_equal(lines(accuracy)["val"][1], [NAN, 0.62, 0.68, 0.66])
    assert lines(loss)["train"][1] == [2.0, 1.2, 0.8, 0.5]
    assert (stars(loss), stars(accuracy)) == ([(2, 0.9)], [(3, 0.68)])


def test_a_run_without_validation_has_no_mark() -> None:
    for axes in curves([{key: row[key] for key in ("epoch", "loss/train", "acc/train")} for row in ROWS]).axes:
        assert (stars(axes), notes(axes)) == ([], [])


def test_an_evaluation_before_training_has_only_its_validation_point() -> None:
    loss, accuracy = curves([{"epoch": 0, "loss/val": 0.7, "acc/val": 0.5}]).axes
    np.testing.assert_array_equal(lines(loss)["train"][1], [NAN])
    assert (stars(loss), stars(accuracy)) == ([(1, 0.7)], [(1, 0.5)])
    assert (notes(loss), notes(accuracy)) == (["0.700"], ["0.500"])


@pytest.mark.parametrize("epochs", [1, 2, 3, 12, 100])
def test_epochs_are_whole_numbers_on_the_axis(epochs: int) -> None:
    figure = curves([{**ROWS[0], "epoch": epoch} for epoch in range(epochs)])
    figure.draw_without_rendering()
    for axes in figure.axes:
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks
        assert all(float(tick).is_integer() for tick in ticks)


def test_the_numbers_in_the_matrix_are_the_counts_with_the_truth_in_rows() -> None:
    (axes,) = confusion_matrix(CONFUSION, NAMES).axes
    texts = {(int(text.get_position()[1]), int(text.get_position()[0])): text.get_text() for text in axes.texts}
    assert texts == {(0, 0): "8", (0, 1): "2", (1, 1): "30", (1, 2): "1", (2, 0): "4", (2, 2): "5"}


def test_the_axes_of_the_matrix_are_named() -> None:
    (axes,) = confusion_matrix(CONFUSION, NAMES).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == NAMES
    assert [label.get_text() for label in axes.get_yticklabels()] == NAMES
    assert (axes.get_xticks().tolist(), axes.get_yticks().tolist()) == ([0, 1, 2], [0, 1, 2])
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("predicted", "true")


@pytest.fixture
def bundled_fonts(monkeypatch: pytest.MonkeyPatch) -> Iterator[font_manager.FontManager]:
    """The font manager of a machine without any other fonts than matplotlib's own."""
    manager = font_manager.fontManager
    own = [font for font in manager.ttflist if font.fname.startswith(matplotlib.get_data_path())]
    monkeypatch.setattr(manager, "ttflist", own)
    monkeypatch.setattr(font_manager, "findSystemFonts", list)
    figures._fonts.cache_clear()
    yield manager
    figures._fonts.cache_clear()


@pytest.mark.filterwarnings("error")
def test_names_are_drawn_as_they_are() -> None:
    names = ["$$", "$x^2$", r"\$a_b\$", "lynx [male]", ":cat:", "<b>"]
    figure = confusion_matrix(np.eye(6, dtype=int), names)
    figure.savefig(io.BytesIO())
    (axes,) = figure.axes
    for labels in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [label.get_text() for label in labels] == names
        assert not any(label.get_parse_math() for label in labels)


@pytest.mark.filterwarnings("error")
def test_long_names_are_short_in_figures_and_stay_different() -> None:
    names = ["cane (dog)", "a" * 255, "b" * 100 + "1" * 14, "b" * 99 + "c" + "1" * 14, "d" * 30]
    assert drawable(names) == [
        *("cane (dog)", "a" * 15 + "…" + "a" * 14),
        *("b" * 15 + "…" + "1" * 14 + " #3", "b" * 15 + "…" + "1" * 14 + " #4", "d" * 30),
    ]
    figure = confusion_matrix(np.eye(2, dtype=int), ["a" * 255, "b"])
    figure.savefig(io.BytesIO())  # warns if the names leave no place
    assert figure.axes[0].get_tightbbox().x0 >= 0


def test_characters_that_no_font_has_are_codes_with_one_note(bundled_fonts: font_manager.FontManager) -> None:
    with pytest.warns(UserWarning) as noted:
        figure = confusion_matrix(np.eye(4, dtype=int), ["猫", "狗 (dog)", "a\nb", "\udcfcber"])
    assert [str(note.message) for note in noted] == [
        "no installed font has the characters 狗 猫; figures show their codes. Install a font that has them, such as "
        "Noto Sans CJK."
    ]
    figure.savefig(io.BytesIO())
    labels = [label.get_text() for label in figure.axes[0].get_xticklabels()]
    assert labels == [r"\u732b", r"\u72d7 (dog)", r"a\u000ab", r"\udcfcber"]


@pytest.mark.filterwarnings("error")
def test_an_installed_font_that_has_the_characters_is_used(
    bundled_fonts: font_manager.FontManager, tmp_path: Path
) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    damaged = dataclasses.replace(bundled_fonts.ttflist[0], fname=str(tmp_path / "damaged.ttf"))
    bundled_fonts.ttflist.append(damaged)
    installed = shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/STIXGeneral.ttf", tmp_path)
    bundled_fonts.addfont(installed)
    figure = confusion_matrix(np.eye(2, dtype=int), ["ℊ", "a"])
    figure.savefig(io.BytesIO())
    label = figure.axes[0].get_xticklabels()[0]
    assert label.get_text() == "ℊ"
    assert label.get_fontfamily() == [*matplotlib.rcParams["font.family"], "STIXGeneral"]


@pytest.mark.filterwarnings("error")
def test_a_font_installed_after_matplotlib_made_its_list_is_used(
    bundled_fonts: font_manager.FontManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    shutil.copy(Path(matplotlib.get_data_path()) / "fonts/ttf/STIXGeneral.ttf", tmp_path)
    monkeypatch.setattr(font_manager, "findSystemFonts", lambda: [str(file) for file in tmp_path.iterdir()])
    assert drawable(["ℊ"]) == ["ℊ"]
    assert str(tmp_path / "STIXGeneral.ttf") in [font.fname for font in bundled_fonts.ttflist]


def test_the_colour_is_the_part_of_the_true_class_on_a_scale_from_none_to_all() -> None:
    (axes,) = confusion_matrix(np.vstack([CONFUSION[:2], [0, 0, 0]]), NAMES).axes
    (image,) = axes.images
    np.testing.assert_allclose(image.get_array(), [[0.8, 0.2, 0], [0, 30 / 31, 1 / 31], [0, 0, 0]])
    assert image.get_clim() == (0, 1)


@pytest.mark.parametrize("count", [MAX_LABELS, MAX_LABELS + 1, MAX_CELLS, 10_000])
def test_a_matrix_of_many_classes_is_no_larger_than_one_of_few(count: int) -> None:
    """Every class is taken for the next one, ten times."""
    labels = np.arange(count)
    confusion = csr_array((np.full(count, 10), (labels, (labels + 1) % count)), shape=(count, count))
    figure = confusion_matrix(confusion, [f"class {label}" for label in labels])
    (axes,) = figure.axes
    share = np.asarray(axes.images[0].get_array())
    assert max(figure.get_size_inches()) <= 20
    assert share.shape == 2 * (min(count, MAX_CELLS),)
    np.testing.assert_allclose(share.sum(1), 1)
    per_cell = count / len(share)
    np.testing.assert_allclose([share[0, 0], share[0, 1], share[-1, 0]], [1 - 1 / per_cell, 1 / per_cell, 1 / per_cell])
    assert len(axes.texts) == (count if count == MAX_LABELS else 0)
    named = [int(label.get_text().split()[1]) for label in axes.get_yticklabels()]
    assert MAX_LABELS / 2 <= len(named) <= MAX_LABELS
    assert axes.get_yticks().tolist() == [int(label / per_cell) for label in named]
    assert ("classes in" in axes.get_title()) == (count > MAX_CELLS)


def luminance(colour: object) -> float:
    """Relative luminance of the Web Content Accessibility Guidelines."""
    channels = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in to_rgb(colour)]
    return float(np.dot(channels, [0.2126, 0.7152, 0.0722]))


@pytest.mark.parametrize("hits", range(1, 101, 3))
def test_a_number_can_be_read_on_its_colour(hits: int) -> None:
    """Large text needs a contrast of 3 : 1 (Web Content Accessibility Guidelines 2, 1.4.3)."""
    (axes,) = confusion_matrix(np.array([[hits, 100 - hits], [0, 1]]), ["a", "b"]).axes
    (image,) = axes.images
    ground = luminance(image.to_rgba(image.get_array())[0, 0, :3])
    ink = luminance(axes.texts[0].get_color())
    assert (max(ground, ink) + 0.05) / (min(ground, ink) + 0.05) >= 3
