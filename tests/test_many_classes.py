"""What fit, test and analyze show of more classes than fit on a screen."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from animals_pl.cli import main
from animals_pl.data.catalog import MAX_CLASSES, match_classes
from animals_pl.errors import UsageError
from animals_pl.reports import dataset_figures, dataset_report
from animals_pl.reports.findings import Findings

CLASSES = 40


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of noise per class; the last class has more."""
    root = tmp_path_factory.mktemp("many") / "images"
    rng = np.random.default_rng(0)
    for label in range(CLASSES):
        (root / f"class_{label:02}").mkdir(parents=True)
        for number in range(9 if label == CLASSES - 1 else 3):
            pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / f"class_{label:02}" / f"{number}.png")
    return root


def shown(text: str) -> list[int]:
    """The classes in a printed table."""
    return [int(label) for label in re.findall(r"^ *class_(\d\d) ", text, re.MULTILINE)]


@pytest.mark.usefixtures("wide_screen")
def test_tables_and_matrices_are_bounded(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fit = ["--data.root", tree, "--data.size", 16, "--data.num_workers", 0, "--data.test_fraction", 0.33]
    fit += ["--model.net", "shallownet", "--trainer.max_epochs", 1, "--trainer.default_root_dir", tmp_path]
    assert main(["fit", *map(str, fit)]) == 0
    text = capsys.readouterr().out
    assert shown(text) == list(range(MAX_CLASSES))
    assert f"the {MAX_CLASSES} of {CLASSES} classes with the fewest training images" in text

    run = tmp_path / "run" / "version_0"
    events = EventAccumulator(str(run), size_guidance={"images": 0}).Reload()
    for image in events.Images("confusion matrix/val"):
        with Image.open(io.BytesIO(image.encoded_image_string)) as picture:
            assert max(picture.size) <= 2000

    assert main(["test", "--ckpt_path", str(run / "best.ckpt")]) == 0
    text = capsys.readouterr().out
    assert f"the {MAX_CLASSES} of {CLASSES} classes with the lowest recall" in text
    recalls = [float(recall) for recall in re.findall(r"^ *class_\d\d +\d+ +([\d.]+)", text, re.MULTILINE)]
    assert len(recalls) == MAX_CLASSES
    assert recalls == sorted(recalls)


@pytest.mark.usefixtures("wide_screen")
def test_prepare_prints_the_smallest_classes(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", str(tree), "--output", str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert shown(text) == list(range(MAX_CLASSES))
    assert f"the {MAX_CLASSES} of {CLASSES} classes with the fewest images" in text
    assert re.search(rf"^ *total +{3 * CLASSES + 6} *$", text, re.MULTILINE)


def test_analyze_counts_the_classes_that_it_does_not_show(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Findings, "notes", [f"class {label} has a fault" for label in range(CLASSES)])
    monkeypatch.setattr(dataset_report, "SAMPLE_CLASSES", MAX_CLASSES)
    for slow in ("contact_sheet", "histograms"):
        monkeypatch.setattr(dataset_figures, slow, lambda *args: Figure((1, 1)))
    assert main(["analyze", str(tree), "--output", str(tmp_path / "report")]) == 0
    page = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    assert len(re.findall(r"<h3>class_\d\d</h3>", page)) == MAX_CLASSES
    assert f"{CLASSES - MAX_CLASSES} more classes are not shown." in page
    assert page.count("has a fault") == CLASSES
    text = capsys.readouterr().out
    assert text.count("has a fault") == MAX_CLASSES
    assert f"and {CLASSES - MAX_CLASSES} more such classes; the report lists all" in text


def test_messages_name_some_of_the_classes(tree: Path) -> None:
    names = [folder.name for folder in sorted(tree.iterdir())]
    with pytest.raises(UsageError, match=r"class_09, …\)\.") as caught:
        match_classes(["lynx"], names)
    assert "class_10" not in str(caught.value)
