"""Plot training curves and confusion matrices; choose fonts for class names."""

from __future__ import annotations

import functools
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.figure import Figure
from matplotlib.text import Text
from scipy.sparse import coo_array, csr_array

MAX_LABELS, MAX_CELLS = 30, 200
"""Maximum number of class names and of cells on an axis of a confusion matrix; both bound its size and memory."""

MAX_CHARACTERS = 30
"""Maximum length of a name in a figure: longer ones would leave no room for the axes."""

TRAIN_COLOUR, VAL_COLOUR = "#4c72b0", "#dd8452"


@functools.cache
def _fonts(characters: frozenset[str]) -> tuple[list[str], set[str]]:
    """Font families for characters (default ones first), and the characters that no installed font has."""
    missing = set(map(ord, characters))
    missing -= font_manager.get_font(font_manager.findfont(font_manager.FontProperties())).get_charmap().keys()
    families = list(matplotlib.rcParams["font.family"])
    for font in _installed_fonts() if missing else ():
        if font.fname.startswith(matplotlib.get_data_path()):  # math symbols, and a placeholder for every character
            continue
        try:
            found = missing & font_manager.get_font(font.fname).get_charmap().keys()
        except (OSError, RuntimeError):  # removed since the list was made, or a bitmap font
            continue
        if found:
            families.append(font.name)
            missing -= found
    return families, set(map(chr, missing))


def _installed_fonts() -> list[font_manager.FontEntry]:
    """Matplotlib's fonts, and those that have been installed since Matplotlib cached its font list."""
    manager = font_manager.fontManager
    for file in set(font_manager.findSystemFonts()) - {font.fname for font in manager.ttflist}:
        with suppress(OSError, RuntimeError):  # damaged, or a bitmap font
            manager.addfont(file)
    return manager.ttflist


def drawable(names: Sequence[str]) -> list[str]:
    """Shorten names, and replace characters that no installed font has by their codes, with one warning.

    Names longer than MAX_CHARACTERS have an ellipsis in the middle.
    """
    names = _shortened(names)
    missing = sorted(_fonts(frozenset("".join(names)))[1])
    if letters := [character for character in missing if character.isprintable()]:
        more = f" and {len(letters) - 10} more" if len(letters) > 10 else ""
        warnings.warn(
            f"no installed font has the characters {' '.join(letters[:10])}{more}; figures show their codes. "
            "Install a font that has them, such as Noto Sans CJK.",
            stacklevel=2,
        )
    codes = str.maketrans({character: f"\\u{ord(character):04x}" for character in missing})
    return [name.translate(codes) for name in names]


def _shortened(names: Sequence[str]) -> list[str]:
    """Short names; those that would become the same are numbered."""
    half = MAX_CHARACTERS // 2
    short = [name if len(name) <= MAX_CHARACTERS else f"{name[:half]}…{name[1 - half :]}" for name in names]
    uses = Counter(short)
    return [name if uses[name] == 1 else f"{name} #{number}" for number, name in enumerate(short, 1)]


def draw_literally(figure: Figure) -> Figure:
    """Disable mathtext and set fallback fonts for all text of a figure."""
    texts = figure.findobj(Text)
    families, _ = _fonts(frozenset("".join(text.get_text() for text in texts)))
    for text in texts:
        text.set(parse_math=False, fontfamily=families)
    return figure


def curves(rows: Sequence[Mapping[str, float]]) -> Figure:
    """Plot training and validation loss and accuracy over epochs, and mark the best validation value of each.

    Args:
        rows: One mapping per epoch with ``epoch`` (from 0), ``loss/train``, ``loss/val``, ``acc/train`` and
            ``acc/val``. Missing values leave gaps.
    """
    figure = Figure(figsize=(10, 4), layout="constrained")
    epochs = np.array([row["epoch"] + 1 for row in rows])
    for axes, (metric, title) in zip(figure.subplots(1, 2), [("loss", "loss"), ("acc", "accuracy")], strict=True):
        for split, colour in (("train", TRAIN_COLOUR), ("val", VAL_COLOUR)):
            values = np.array([row.get(f"{metric}/{split}", np.nan) for row in rows], dtype=float)
            axes.plot(epochs, values, color=colour, marker="o", markersize=3, label=split)
            if split == "val" and not np.isnan(values).all():
                best = int(np.nanargmin(values) if metric == "loss" else np.nanargmax(values))
                axes.plot(epochs[best], values[best], "*", color=colour, markersize=13)
                axes.annotate(
                    f"{values[best]:.3f}",
                    (epochs[best], values[best]),
                    xytext=(0, -18 if metric == "loss" else 10),
                    textcoords="offset points",
                    ha="center",
                )
        axes.set(title=title, xlabel="epoch")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.08, y=0.15)
        axes.legend(frameon=False)
    return figure


def confusion_matrix(
    confusion: np.ndarray | csr_array, class_names: Sequence[str], *, max_labels: int = MAX_LABELS, shares: bool = False
) -> Figure:
    """Plot a confusion matrix: numbers are counts, colours are fractions of the row (true class).

    With more than ``max_labels`` classes there are no numbers and only some names; with more than MAX_CELLS, a cell is
    the sum over neighbouring classes.

    Args:
        confusion: (C, C) counts, dense or sparse; rows are true classes, columns predictions.
        class_names: C names.
        max_labels: Largest number of classes whose cells have numbers and names.
        shares: Write the share of the true class in percent instead of the count.
    """
    count = len(class_names)
    cells = min(count, MAX_CELLS)
    pairs = coo_array(confusion)
    counts = np.zeros((cells, cells), dtype=int)
    np.add.at(counts, (pairs.row * cells // count, pairs.col * cells // count), pairs.data)
    side = max(5, 2.5 + (0.55 if count <= MAX_LABELS else 0.27) * count) if count <= max_labels else 12
    figure = Figure(figsize=(side, side), layout="constrained")
    axes = figure.subplots()
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in zip(*np.nonzero(counts), strict=True) if count <= max_labels else ():
        text = f"{100 * share[row, column]:.0f}" if shares else str(counts[row, column])
        colour = "white" if share[row, column] > 0.7 else "black"
        axes.text(column, row, text, ha="center", va="center", color=colour, fontsize=9)
    labelled = range(0, count, -(-count // max_labels))
    ticks = [label * cells // count for label in labelled]
    names = drawable([class_names[label] for label in labelled])
    axes.set_xticks(ticks, names, rotation=45, ha="right")
    axes.set_yticks(ticks, names)
    axes.set(xlabel="predicted", ylabel="true")
    if cells < count:
        axes.set_title(f"{count:,} classes in {cells} × {cells} cells")
    return draw_literally(figure)
