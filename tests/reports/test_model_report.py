"""The page of an evaluation."""

from __future__ import annotations

import html
import re
import shutil
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from image_trees import write_tree
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.evaluation.calibration import reliability_bins
from animals_pl.evaluation.figures import confusion_matrix
from animals_pl.evaluation.report_figures import precision_recall, reliability, risk_coverage_curve
from animals_pl.evaluation.selective import risk_coverage
from animals_pl.reports.model_report import interval_text

COUNTS = {"cane": 30, "gatto": 20, "<script>alert(1)": 16}
FIGURES_IN_ORDER = ["confusion_counts", "confusion_shares", "reliability", "risk_coverage", "precision_recall"]
FIGURES = sorted(FIGURES_IN_ORDER)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of a test on the command line, for odd names."""
    root = tmp_path_factory.mktemp("page")
    tree = write_tree(root / "my images", COUNTS)
    for path in (tree / "cane").iterdir():
        shutil.move(path, path.with_name(f"ü #{path.stem} <b>&.jpg"))
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.4)
    options = {"default_root_dir": str(root / "runs"), "max_epochs": 1, "accelerator": "cpu"}
    run = fit(AnimalClassifier("shallownet"), data, **options)
    assert main(["test", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    folder = run.folder / "evaluation" / "test"
    return SimpleNamespace(folder=folder, run=run, text=(folder / "report.html").read_text(encoding="utf-8"))


def test_links_lead_to_the_images(page):
    links = re.findall(r'<a href="([^"]*jpg)" title', page.text)
    targets = {(page.folder / unquote(html.unescape(link))).resolve() for link in links}
    known = {(page.run.data.catalogs["test"].root / path).resolve() for path in page.run.data.catalogs["test"].paths}
    assert targets
    assert targets <= known


def test_names_are_escaped(page):
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert(1)" in page.text
    assert "<b>&.jpg" not in page.text


def test_the_page_is_self_contained_and_the_figures_are_files(page):
    sources = re.findall(r'src="([^"]{20})', page.text)
    assert sources
    assert all(source.startswith("data:image/") for source in sources)
    assert sorted(file.stem for file in (page.folder / "figures").iterdir()) == FIGURES
    for name in FIGURES:
        assert Image.open(page.folder / "figures" / f"{name}.png").format == "PNG"
    files = re.findall(r'href="((?:figures/|pred|metr)[^"]*)"', page.text)
    assert all((page.folder / file).is_file() for file in files)


def test_tensorboard_shows_the_figures_of_the_latest_evaluation(page):
    assert main(["test", "--ckpt_path", str(page.run.best_path), "--data.num_workers", "0"]) == 0
    assert len(list(page.folder.glob("events.out.tfevents.*"))) == 1
    events = EventAccumulator(str(page.folder)).Reload()
    assert events.Tags()["images"] == [f"evaluation/{name}" for name in FIGURES_IN_ORDER]
    encoded = events.Images("evaluation/reliability")[0].encoded_image_string
    assert encoded == (page.folder / "figures" / "reliability.png").read_bytes()


def test_mistakes_are_shown_with_truth_and_prediction(page):
    catalog = page.run.data.catalogs["test"]
    probabilities = page.run.best.probabilities(catalog, num_workers=0)
    wrong = np.flatnonzero(probabilities.argmax(1) != catalog.labels)
    first = wrong[probabilities[wrong].max(1).argmax()]
    section = page.text.partition("The most confident mistakes")[2]
    caption = re.search(r"<figcaption>(.*?)</figcaption>", section, re.DOTALL).group(1)
    english = {"cane": "dog", "gatto": "cat"}
    name = catalog.class_names[catalog.labels[first]]
    truth = f"true: {html.escape(english.get(name, name))} {probabilities[first, catalog.labels[first]]:.1%}"
    assert caption.startswith(truth)
    assert f"{probabilities[first].max():.1%}" in caption


def test_classes_have_english_names(page):
    assert "<td>dog</td>" in page.text
    assert "cane</td>" not in page.text


@pytest.mark.parametrize(
    ("values", "text"),
    [({"value": 0.934, "low": 0.85, "high": 1.0}, "0.93 (0.85–1.00)"), (None, "–")],
)
def test_interval_text(values, text):
    assert interval_text(values) == text


# ---------------------------------------------------------------- figures


def test_matrix_of_50_classes_has_all_names_and_shares():
    names = [f"animal {number}" for number in range(50)]
    counts = np.diag(np.full(50, 3)) + np.eye(50, k=1, dtype=int)
    (axes,) = confusion_matrix(counts, names, max_labels=60, shares=True).axes
    assert [label.get_text() for label in axes.get_yticklabels()] == names
    assert sorted({text.get_text() for text in axes.texts}) == ["100", "25", "75"]


def test_curves_show_the_numbers():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 200)
    probabilities = rng.dirichlet(np.ones(4), 200)
    names = ["a", "b", "c", "absent"]
    titles = [axes.get_title() for axes in precision_recall(probabilities, labels, names).axes]
    wanted = [
        f"{name}\nAP {average_precision_score(labels == k, probabilities[:, k]):.3f}" for k, name in enumerate("abc")
    ]
    assert [title for title in titles if title] == wanted
    curve = risk_coverage(probabilities.max(1), probabilities.argmax(1) == labels)
    (axes,) = risk_coverage_curve(curve).axes
    np.testing.assert_array_equal(axes.lines[0].get_ydata(), curve.risk)
    bins = reliability_bins(probabilities, labels)
    axes = reliability(bins, bins).axes
    assert sum(bar.get_height() for bar in axes[2].patches) == 200
