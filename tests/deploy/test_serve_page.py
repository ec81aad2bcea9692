"""The page of the server in a real browser; skipped without one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from selenium.webdriver import ActionChains, Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait
from serving import running_server
from test_classify import with_threshold

from animals_pl import Identifier
from animals_pl.data.catalog import ANIMALS10

TOKEN = "a-token_of.24-characters"


@pytest.fixture
def photo(tiny_tree) -> Path:
    return sorted(tiny_tree.rglob("*.jpg"))[5]


@pytest.fixture
def known(model) -> Path:
    """The model with a threshold that no image exceeds."""
    return with_threshold(model, "known.onnx", 1e9)


@pytest.fixture
def page(browser: Chrome, known: Path, tmp_path: Path) -> Iterator[Chrome]:
    """The page of the server, in English."""
    with running_server(known, "--max_mb", "1", log=tmp_path / "log") as server:
        open_page(browser, server.url)
        yield browser
        messages = [entry["message"] for entry in browser.get_log("browser")]
        assert [message for message in messages if "status of 415" not in message] == []


def open_page(browser: Chrome, url: str) -> None:
    browser.get(url)
    wait(browser, lambda: browser.find_elements(By.CSS_SELECTOR, "#classes li"))
    browser.find_element(By.CSS_SELECTOR, "[data-language=en]").click()


def wait(browser: Chrome, condition: Callable[[], object]) -> None:
    WebDriverWait(browser, 30).until(lambda _: condition())


def choose(browser: Chrome, file: Path, element: str = "choose") -> None:
    """Choose a file and wait for the outcome."""
    browser.find_element(By.ID, element).send_keys(str(file))
    wait(browser, lambda: has_class(browser, "prediction") or has_class(browser, "problem"))


def has_class(browser: Chrome, name: str) -> bool:
    return name in (browser.find_element(By.ID, "result").get_attribute("class") or "").split()


def text(browser: Chrome, element: str) -> str:
    return browser.find_element(By.ID, element).get_attribute("textContent") or ""


def top(browser: Chrome, selector: str) -> float:
    return browser.find_element(By.CSS_SELECTOR, selector).rect["y"]


@pytest.mark.parametrize("element", ["choose", "capture"])
def test_a_photo_is_identified_in_both_languages(page, known, photo, element):
    if element == "capture":
        page.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": True})
        assert not page.find_element(By.ID, "webcam").is_displayed()
    expected = Identifier(known).predict(photo, top_k=5)[0]
    places = [top(page, selector) for selector in ("#note", "#bars", ".meaning")]
    choose(page, photo, element)
    assert text(page, "label") == ANIMALS10[expected.label]
    names = [row.text.splitlines()[0] for row in page.find_elements(By.CSS_SELECTOR, "#bars li")]
    assert names == [ANIMALS10[name] for name, _ in expected.top]
    assert text(page, "announcement").startswith(f"{ANIMALS10[expected.label]}, ")
    assert page.find_element(By.ID, "announcement").get_attribute("role") == "status"
    assert [top(page, selector) for selector in ("#note", "#bars", ".meaning")] == places  # nothing moved
    page.find_element(By.CSS_SELECTOR, "[data-language=it]").click()
    assert text(page, "label") == expected.label
    assert page.title == "Che animale è?"
    assert page.find_element(By.TAG_NAME, "html").get_attribute("lang") == "it"
    page.refresh()
    wait(page, lambda: text(page, "tested"))
    assert text(page, "photo-heading") == "Foto"


def test_a_photo_after_a_file_that_is_not_an_image(page, photo, tmp_path):
    bad = tmp_path / "<b>bad & co.jpg"
    bad.write_text("not an image")
    choose(page, bad)
    assert text(page, "note") == text(page, "announcement") == "This is not an image in a supported format."
    assert (text(page, "label"), text(page, "hint")) == ("", bad.name)
    choose_again(page, photo)
    assert text(page, "label") in ANIMALS10.values()


def choose_again(browser: Chrome, file: Path) -> None:
    browser.find_element(By.ID, "choose").send_keys(str(file))
    wait(browser, lambda: has_class(browser, "prediction"))


def test_a_large_file_is_refused_before_it_is_sent(page, tmp_path):
    (tmp_path / "large.jpg").write_bytes(bytes(1_000_001))
    choose(page, tmp_path / "large.jpg")
    assert text(page, "note") == "The file is too large."


def test_a_photo_is_dropped_and_pasted(page):
    page.execute_script(
        """
        const canvas = Object.assign(document.createElement("canvas"), {width: 60, height: 40});
        canvas.toBlob((blob) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([blob], "drawn.png", {type: "image/png"}));
          window.transfer = transfer;
        });
        """
    )
    wait(page, lambda: page.execute_script("return Boolean(window.transfer)"))
    page.execute_script("dispatchEvent(new DragEvent('drop', {dataTransfer: transfer}))")
    wait(page, lambda: has_class(page, "prediction"))
    page.execute_script("document.getElementById('result').className = ''")
    page.execute_script(
        "document.body.dispatchEvent(new ClipboardEvent('paste', {clipboardData: transfer, bubbles: true}))"
    )
    wait(page, lambda: has_class(page, "prediction"))


def test_an_unknown_animal(browser, model, photo, tmp_path):
    with running_server(with_threshold(model, "unknown.onnx", -1e9), log=tmp_path / "log") as server:
        open_page(browser, server.url)
        choose(browser, photo)
        assert (text(browser, "label"), text(browser, "percent")) == ("Unknown", "")
        assert text(browser, "announcement").startswith("Unknown. It resembles none")
        assert len(browser.find_elements(By.CSS_SELECTOR, "#bars li")) == 5


def test_a_model_without_threshold_says_so(browser, model, tmp_path):
    with running_server(with_threshold(model, "none.onnx", None), log=tmp_path / "log") as server:
        open_page(browser, server.url)
        assert text(browser, "unknown-meaning").startswith("This model cannot tell")


def test_a_stopped_server_is_reported(browser, known, photo, tmp_path):
    with running_server(known, log=tmp_path / "log") as server:
        open_page(browser, server.url)
    choose(browser, photo)
    assert text(browser, "note") == "The server does not answer. Try again later."


def test_the_token_is_asked_for_or_taken_from_the_address(browser, known, photo, tmp_path):
    with running_server(known, "--token", TOKEN, log=tmp_path / "log") as server:
        browser.get(server.url)
        field = browser.find_element(By.ID, "token")
        wait(browser, field.is_displayed)
        for element in ("tool", "meaning"):
            assert not browser.find_element(By.ID, element).is_displayed()
        field.send_keys("wrong" + Keys.ENTER)
        wait(browser, lambda: text(browser, "token-problem"))
        field.clear()
        field.send_keys(TOKEN + Keys.ENTER)
        wait(browser, lambda: browser.find_element(By.ID, "tool").is_displayed())
        choose(browser, photo)
        assert has_class(browser, "prediction")
        browser.execute_script("sessionStorage.clear()")
        browser.get("about:blank")
        open_page(browser, f"{server.url}#token={TOKEN}")
        assert browser.current_url == server.url
        choose(browser, photo)
        assert has_class(browser, "prediction")


@pytest.fixture
def webcam(page) -> WebElement:
    """The button that a computer has in place of a phone's."""
    assert not page.find_element(By.ID, "camera").is_displayed()
    return page.find_element(By.ID, "webcam")


def is_recording(page: Chrome) -> bool:
    return page.execute_script("return document.querySelector('video').srcObject?.active ?? false")


def test_a_photo_is_taken_with_the_camera_of_a_computer(page, webcam):
    dialog, take = page.find_element(By.ID, "viewfinder"), page.find_element(By.CSS_SELECTOR, "[value=take]")
    webcam.click()
    wait(page, take.is_displayed)
    assert is_recording(page)
    take.click()
    wait(page, lambda: has_class(page, "prediction"))
    assert not dialog.is_displayed() and not is_recording(page)
    photo = page.execute_script("return document.getElementById('preview').src")
    webcam.click()
    wait(page, take.is_displayed)
    ActionChains(page).send_keys(Keys.ESCAPE).perform()
    wait(page, lambda: not is_recording(page))
    assert not dialog.is_displayed()
    assert page.execute_script("return document.getElementById('preview').src") == photo


def test_a_camera_that_may_not_be_used(page, webcam):
    page.execute_script("navigator.mediaDevices.getUserMedia = () => Promise.reject(new Error('denied'))")
    webcam.click()
    wait(page, lambda: has_class(page, "problem"))
    assert text(page, "note") == "There is no camera, or this page is not allowed to use it."


def test_everything_is_reached_with_the_keyboard(page):
    names = []
    for _ in range(3):  # the button of the first language has the focus
        ActionChains(page).send_keys(Keys.TAB).perform()
        focused = page.switch_to.active_element
        names.append(focused.get_attribute("id") or focused.get_attribute("data-language"))
        outlined = "arguments[0].closest('.button') ?? arguments[0]"
        assert page.execute_script(f"return getComputedStyle({outlined}).outlineStyle", focused) == "solid"
    assert names == ["it", "choose", "webcam"]


@pytest.mark.parametrize("width", [360, 1440])
def test_nothing_is_wider_than_the_window(page, photo, width):
    page.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    )
    choose(page, photo)
    for language in ("en", "it"):
        page.find_element(By.CSS_SELECTOR, f"[data-language={language}]").click()
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
