"""The dataset report in a browser (skipped where there is none)."""

from __future__ import annotations

import csv
import html
import re
import shutil
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from animals_pl.cli import main

SIZES = {"cane": (60, 40), "gatto & co": (40, 60), "ragno": (200, 180)}
"""Class → width and height of its images."""


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """The folder of a report on 3 classes of 6 images and a broken file."""
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    for name, (width, height) in SIZES.items():
        (folder / "my #1 images" / name).mkdir(parents=True)
        for number in range(6):
            pixels = rng.integers(0, 256, (height + number, width, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "my #1 images" / name / f"{number}, 50 %.jpg")
    (folder / "my #1 images" / "cane" / "broken.jpg").write_bytes(b"")
    source, output = folder / "my #1 images", folder / "report"
    assert main(["analyze", str(source), "--output", str(output)]) == 0
    return output


def rows(file: Path) -> list[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def draw_loop(browser: Chrome, left: float, top: float, right: float, bottom: float) -> None:
    """Draw a lasso with the mouse; bounds are fractions of the plot's width and height, from the top left."""
    area = browser.find_element(By.CSS_SELECTOR, "#size-plot .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", area)
    box = area.rect
    # Selenium counts from the middle of an element.
    points = [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    steps = [(round((x - 0.5) * box["width"]), round((y - 0.5) * box["height"])) for x, y in points]
    chain = ActionChains(browser).move_to_element_with_offset(area, *steps[0]).click_and_hold()
    for step in steps[1:]:
        chain.move_to_element_with_offset(area, *step)
    chain.release().perform()


def test_lasso_selects_images_and_downloads_exclude_csv(report, browser, tmp_path):
    browser.get((report / "report.html").as_uri())
    assert "6 images" not in browser.find_element(By.ID, "selected-count").text
    draw_loop(browser, 0.6, 0.01, 0.999, 0.4)  # wide and high: the spiders
    WebDriverWait(browser, 20).until(lambda page: "6 images" in page.find_element(By.ID, "selected-count").text)
    shown = browser.find_elements(By.CSS_SELECTOR, "#selected-images img")
    assert sorted(image.get_attribute("alt") for image in shown) == [f"ragno/{number}, 50 %.jpg" for number in range(6)]
    WebDriverWait(browser, 20).until(
        lambda page: all(page.execute_script("return arguments[0].naturalWidth", image) == 200 for image in shown)
    )
    browser.find_element(By.ID, "download-selected").click()
    WebDriverWait(browser, 20).until(lambda page: (tmp_path / "exclude.csv").exists())
    excluded = rows(tmp_path / "exclude.csv")
    assert sorted(row["path"] for row in excluded) == [f"ragno/{number}, 50 %.jpg" for number in range(6)]
    assert excluded[0]["reason"].startswith("size 200×18")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_missing_image_has_a_placeholder(report, browser, tmp_path):
    shutil.copytree(report, tmp_path / "elsewhere" / "report")
    browser.get((tmp_path / "elsewhere" / "report" / "report.html").as_uri())
    draw_loop(browser, 0.6, 0.01, 0.999, 0.4)
    captions = "#selected-images figcaption"
    WebDriverWait(browser, 20).until(
        lambda page: [part for part in page.find_elements(By.CSS_SELECTOR, captions) if "missing" in part.text]
    )


def test_every_link_is_an_existing_file(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    links = set(re.findall(r'<a href="([^"#]+)"', body))
    files = {(report / unquote(html.unescape(link))).resolve() for link in links}
    assert [file for file in files if not file.is_file()] == []
    images = {file for file in files if file.suffix == ".jpg"}
    assert images == {file.resolve() for file in (report.parent / "my #1 images").glob("*/*.jpg")}


def test_page_is_self_contained(report):
    page = (report / "report.html").read_text(encoding="utf-8")
    assert "<link" not in page
    assert "<script src" not in page
    assert 'src="http' not in page
    assert "Plotly" in page


def test_files_of_a_report(report):
    figures = {file.name for file in (report / "figures").iterdir()}
    assert figures == {
        f"{name}.png" for name in ("class_counts", "sizes", "aspect_ratios", "file_sizes", "contact_sheet")
    }
    assert {file.stem for file in (report / "tables").iterdir()} == {
        "classes",
        "sizes",
        "outliers",
        "broken",
        "duplicates",
    }
    assert [row["path"] for row in rows(report / "tables" / "broken.csv")] == ["cane/broken.jpg"]
    assert rows(report / "exclude.csv") == []
    manifest = rows(report / "manifest.csv")
    assert len(manifest) == 19
    assert all((report / row["path"]).is_file() for row in manifest)
