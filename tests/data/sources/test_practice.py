"""The practice set: layout, proportions, determinism, and that it is learnable but not trivial."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from animals_pl.data.catalog import ANIMALS10, ANIMALS10_COUNTS, scan_folder
from animals_pl.data.sources.practice import practice_set as practice
from animals_pl.data.sources.practice.practice_set import draw_animal, draw_practice_set, practice_counts
from animals_pl.errors import UsageError

COUNT = 250


@dataclass(frozen=True)
class Drawn:
    """A practice set and what the probes look at."""

    root: Path
    labels: np.ndarray
    thumbnails: np.ndarray
    properties: np.ndarray


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    catalog = scan_folder(draw_practice_set(tmp_path_factory.mktemp("practice") / "set", COUNT))
    thumbnails, properties = [], []
    for path in catalog.paths:
        with Image.open(catalog.root / path) as picture:
            thumbnails.append(np.asarray(picture.resize((8, 8), Image.Resampling.BOX)).ravel() / 255)
            means = np.asarray(picture).reshape(-1, 3).mean(axis=0)
            properties.append([*picture.size, (catalog.root / path).stat().st_size, *means])
    return Drawn(catalog.root, catalog.labels, np.array(thumbnails), np.array(properties))


def probe_accuracy(features: np.ndarray, labels: np.ndarray) -> float:
    """Return a linear model's validation accuracy, averaged over three stratified splits."""
    scores = []
    for seed in range(3):
        split = train_test_split(features, labels, test_size=0.3, stratify=labels, random_state=seed)
        train, validation, train_labels, validation_labels = split
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, train_labels)
        scores.append(model.score(validation, validation_labels))
    return float(np.mean(scores))


def relative_bytes(root: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.jpg")}


def test_layout_and_counts(drawn: Drawn) -> None:
    expected = {
        f"{name}/{name}_{number:04d}.jpg"
        for name, count in practice_counts(COUNT).items()
        for number in range(1, count + 1)
    }
    files = [path for path in drawn.root.rglob("*") if path.is_file()]
    assert {path.relative_to(drawn.root).as_posix() for path in files} == expected
    with Image.open(files[0]) as picture:
        assert (picture.format, picture.mode) == ("JPEG", "RGB")
    assert [path.name for path in drawn.root.parent.iterdir()] == ["set"]


@pytest.mark.parametrize("count", [20, 21, 37, 300, 1000, 26179])
def test_counts_keep_the_proportions(count: int) -> None:
    counts = practice_counts(count)
    assert list(counts) == list(ANIMALS10_COUNTS)
    assert sum(counts.values()) == count
    assert min(counts.values()) >= 2
    total = sum(ANIMALS10_COUNTS.values())
    if count >= 300:
        assert all(abs(counts[name] - count * full / total) < 1 for name, full in ANIMALS10_COUNTS.items())
    if count == total:
        assert counts == ANIMALS10_COUNTS


def test_too_few_pictures_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"count=19 .*Pass 20 or more"):
        draw_practice_set(tmp_path / "set", 19)
    assert list(tmp_path.iterdir()) == []


def test_pictures_depend_on_seed_class_and_number_only(drawn: Drawn, tmp_path: Path) -> None:
    full = relative_bytes(drawn.root)
    small = relative_bytes(draw_practice_set(tmp_path / "small", 24, seed=0))
    other = relative_bytes(draw_practice_set(tmp_path / "other", 24, seed=1))
    assert len(small) == 24
    assert all(full[path] == content for path, content in small.items())
    assert small.keys() == other.keys()
    assert all(small[path] != content for path, content in other.items())


def test_sizes_vary_alike_in_every_class(drawn: Drawn) -> None:
    widths, heights = drawn.properties[:, 0], drawn.properties[:, 1]
    assert min(widths.min(), heights.min()) >= 120
    assert max(widths.max(), heights.max()) <= 400
    assert (widths > heights).any()
    assert (widths < heights).any()
    for label in range(len(ANIMALS10)):
        own = drawn.labels == label
        standard_error = np.sqrt(widths.var() / own.sum())
        assert len(set(widths[own])) > 5
        assert abs(widths[own].mean() - widths.mean()) < 4 * standard_error


def test_thumbnails_tell_some_but_not_all(drawn: Drawn) -> None:
    majority = np.bincount(drawn.labels).max() / len(drawn.labels)
    assert majority < probe_accuracy(drawn.thumbnails, drawn.labels) < 0.60


def test_size_bytes_and_mean_colour_tell_next_to_nothing(drawn: Drawn) -> None:
    assert probe_accuracy(drawn.properties, drawn.labels) < 0.30


@pytest.mark.parametrize("name", ANIMALS10)
def test_every_class_is_drawn_in_rgb(name: str) -> None:
    assert draw_animal(name, np.random.default_rng(0)).mode == "RGB"


def test_folder_in_use_is_refused(tmp_path: Path) -> None:
    root = tmp_path / "images"
    root.mkdir()
    (root / "mine.txt").write_text("keep")
    with pytest.raises(UsageError, match=r"output='.*images'.*Choose another folder"):
        draw_practice_set(root, 20)
    assert [path.name for path in root.iterdir()] == ["mine.txt"]


def test_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "set").write_text("keep")
    with pytest.raises(UsageError, match=r"output="):
        draw_practice_set(tmp_path / "set", 20)


def test_empty_folder_is_filled(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    assert len(relative_bytes(draw_practice_set(str(tmp_path / "set"), 20))) == 20


@pytest.mark.parametrize("interruption", [RuntimeError, KeyboardInterrupt])
def test_interrupted_drawing_leaves_nothing(
    interruption: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn_so_far = []

    def draw_five(name: str, rng: np.random.Generator) -> Image.Image:
        if len(drawn_so_far) == 5:
            raise interruption
        drawn_so_far.append(name)
        return draw_animal(name, rng)

    monkeypatch.setattr(practice, "draw_animal", draw_five)
    with pytest.raises(interruption):
        draw_practice_set(tmp_path / "set", 20)
    assert len(drawn_so_far) == 5
    assert list(tmp_path.iterdir()) == []
