"""The page of an evaluation."""

from __future__ import annotations

import base64
import html
import io
import re
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from image_trees import write_tree
from PIL import Image
from sklearn.metrics import average_precision_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.data.resize import Resize
from animals_pl.evaluation.calibration import reliability_bins
from animals_pl.evaluation.contract import Contract, Promise, Refusal
from animals_pl.evaluation.figures import confusion_matrix
from animals_pl.evaluation.intervals import images_needed
from animals_pl.evaluation.report_figures import precision_recall, reliability, risk_coverage_curve
from animals_pl.evaluation.selective import risk_coverage
from animals_pl.models.grad_cam import grad_cam
from animals_pl.reports.heat_maps import heat_maps, overlay
from animals_pl.reports.model_report import interval_text
from animals_pl.reports.review_contract import ReviewContract, contract_lines, contract_rows, review_contract
from animals_pl.reports.saved_evaluations import read_evaluation

COUNTS = {"cane": 30, "gatto": 20, "<script>alert(1)": 16}
FIGURES_IN_ORDER = ["confusion_counts", "confusion_shares", "reliability", "risk_coverage", "precision_recall"]
FIGURES = sorted(FIGURES_IN_ORDER)


def train_and_test(root: Path, epochs: int) -> Any:
    """A run with odd names, its folder of the test on the command line, and the text of the page."""
    tree = write_tree(root / "my images", COUNTS)
    for path in (tree / "cane").iterdir():
        shutil.move(path, path.with_name(f"ü #{path.stem} <b>&.jpg"))
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.4)
    options = {"default_root_dir": str(root / "runs"), "max_epochs": epochs, "accelerator": "cpu"}
    run = fit(AnimalClassifier("shallownet"), data, **options)
    assert main(["test", "--ckpt_path", str(run.best_path), "--data.num_workers", "0"]) == 0
    folder = run.folder / "evaluation" / "test"
    return SimpleNamespace(folder=folder, run=run, text=(folder / "report.html").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The page of a model that has learned little and makes mistakes."""
    return train_and_test(tmp_path_factory.mktemp("page"), epochs=1)


def image_of(uri: str) -> np.ndarray:
    """Pixels (H, W, 3) of a data URI."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).convert("RGB"), dtype=float)


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


def test_every_photograph_has_an_overlay_of_its_own(page):
    tiles = re.findall(r'<img src="(data:image/jpeg[^"]*)"[^>]*><img class="overlay" src="([^"]*)"', page.text)
    assert len(tiles) == page.text.count("<figcaption>")
    for photo, explained in tiles:
        assert photo != explained
        assert image_of(photo).shape == image_of(explained).shape
    assert len({explained for _, explained in tiles}) > 1
    assert 'type="checkbox" id="overlays"' in page.text
    assert "cropped away" not in page.text  # the whole image is stretched


def test_overlays_explain_the_predicted_class(page):
    module, data = page.run.best, page.run.data
    dataset = data.dataset("test")
    images = torch.stack([dataset[index][0] for index in range(20)])
    predicted = module.net(images).argmax(1)
    expected = grad_cam(module.net, images, predicted).numpy()
    found = heat_maps(module.net, dataset, list(range(20)), predicted.numpy())
    assert list(found) == list(range(20))
    np.testing.assert_allclose(np.stack(list(found.values())), expected, atol=1e-5)


def test_an_overlay_colours_the_hot_region_and_greys_what_is_cropped():
    photo = Image.new("RGB", (100, 60), (0, 200, 0))
    heat = np.zeros((4, 4), np.float32)
    heat[:2, :2] = 1
    drawn = np.asarray(overlay(photo, heat, Resize("crop").box(photo.size, 64)), dtype=int)
    assert drawn.shape == (60, 100, 3)
    red, green, blue = drawn[10, 30]
    assert red > green > blue
    np.testing.assert_allclose(drawn[55, 75], (0, 200, 0), atol=3)
    assert len(set(drawn[30, 5])) == 1
    assert len(set(drawn[30, 95])) == 1


def test_the_contract_needs_the_validation_images(page):
    assert (
        "evaluation/val/predictions.csv&#39; is missing. Run &#39;python -m animals_pl validate --ckpt_path"
        in page.text
    )


@pytest.fixture(scope="module")
def contracts(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pages of validate and test of a model that has learned enough for some promises."""
    page = train_and_test(tmp_path_factory.mktemp("contracts"), epochs=8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("animals_pl.reports.review_contract.RECALL", 0.1)
        patch.setattr("animals_pl.reports.review_contract.PRECISION", 0.05)
        texts = {}
        for verb, split in (("validate", "val"), ("test", "test")):
            assert main([verb, "--ckpt_path", str(page.run.best_path), "--data.num_workers", "0"]) == 0
            text = (page.folder.parent / split / "report.html").read_text(encoding="utf-8")
            texts[split] = text.partition('<h2 id="contract">')[2].partition("<h2")[0]
        yield SimpleNamespace(run=page.run.folder, **texts)


def test_the_contract_is_chosen_on_validation_and_stated_on_test(contracts):
    lines = list(contract_lines(contracts.run, "0.1", 0.05))
    assert lines[0].startswith("Accept labels with a score of")
    for line in (lines[0], lines[1]):
        english = html.escape(line.replace("cane (dog)", "dog").replace("gatto (cat)", "cat"))
        assert f"<p>{english}</p>" in contracts.test
    assert "<p>Accept labels" in contracts.val
    assert "test images" not in contracts.val
    assert f"python -m animals_pl report --contract {contracts.run}" in contracts.test


def test_a_table_says_for_which_class_the_promise_is_made(contracts):
    rows = [re.findall("<t[dh].*?>(.*?)</t[dh]>", row) for row in contracts.test.split("<tr>")[1:]]
    assert [row[0] for row in rows] == ["class", "&lt;script&gt;alert(1)", "dog", "cat", "all accepted labels"]
    val, test = (read_evaluation(contracts.run, split) for split in ("val", "test"))
    assert [row[2] for row in rows[1:]] == [*map(str, np.bincount(val.labels)), str(len(val.labels))]
    found = review_contract(val, test, "0.1", 0.05)
    for row, result in zip(rows[1:], found.result.results, strict=True):
        bound = result.promise.bound
        assert row[1] == f"at most {100 * bound:.0f} % {result.promise.kind}"
        assert row[3:] == [str(images_needed(bound)), "yes", f"{result.errors} of {result.images}"]


def test_the_table_says_why_a_promise_is_not_made():
    few, many, wrong = Promise("missed", 0.03, 1), Promise("missed", 0.03, 0), Promise("wrong", 0.01)
    refused = (Refusal(few, 4, 99), Refusal(many, 120, 99, reached=0.051), Refusal(wrong, 400, 299, reached=0.009))
    contract = Contract(None, (), refused, 0.95, 1.0)
    rows = contract_rows(ReviewContract(contract, None, ["cane", "gatto"]), ["dog", "cat"])
    assert [list(row.values()) for row in rows] == [
        ["dog", "at most 3 % missed", "120", "99", "no: the images show 5.1 % at best", "–"],
        ["cat", "at most 3 % missed", "4", "99", "no: too few images", "–"],
        ["all accepted labels", "at most 1 % wrong", "400", "299", "no: not together with the other promises", "–"],
    ]


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
