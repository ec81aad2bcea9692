"""The options of ``watch`` and its rules, without files."""

from __future__ import annotations

import numpy as np
import pytest

from animals_pl.data.catalog import ANIMALS10
from animals_pl.deploy.watch.options import k_of_n, thresholds
from animals_pl.deploy.watch.rules import AlertRules
from animals_pl.deploy.watch.source import Source
from animals_pl.deploy.watch.video import without_secrets
from animals_pl.errors import UsageError

NAMES = list(ANIMALS10)


def test_thresholds_of_classes_in_either_language():
    found = thresholds("elephant, cane:0.9,GATTO:1", 0.8, NAMES)
    assert {NAMES[label]: value for label, value in found.items()} == {"elefante": 0.8, "cane": 0.9, "gatto": 1.0}


def test_a_colon_may_be_part_of_a_name():
    assert thresholds("a:0.5,a:b:0.7", 0.8, ["a", "a:b"]) == {0: 0.5, 1: 0.7}
    assert thresholds("a:b", 0.8, ["a", "a:b"]) == {1: 0.8}


@pytest.mark.parametrize(
    ("alert", "message"),
    [
        ("elefant", "'elefant', which is not a class of this model"),
        ("", "'', which is not a class"),
        ("dog,dog", "has 'dog' twice"),
        ("dog,cane", "contains class 'cane' twice"),
        ("dog:1.5", "alert='dog:1.5': the threshold=1.5 is out of range"),
        ("dog:nan", "out of range"),
    ],
)
def test_wrong_alerts(alert, message):
    with pytest.raises(UsageError, match=message):
        thresholds(alert, 0.8, NAMES)


@pytest.mark.parametrize("text", ["", "2", "0/3", "4/3", "2/0", "1/1001", "a/b", "-1/2", "1/2/3"])
def test_wrong_frames(text):
    assert k_of_n(" 2 / 3") == (2, 3)
    with pytest.raises(UsageError, match="frames="):
        k_of_n(text)


def alerts(rules: AlertRules, values: list[float], unknown: bool = False, step: float = 1.0) -> list[int]:
    """Numbers of the images that raise an alert for class 0."""
    return [i for i, value in enumerate(values) if rules.alerts(np.array([value]), unknown, i * step)]


def test_a_probability_at_the_threshold_raises_an_alert():
    assert alerts(AlertRules({0: 0.5}), [0.49, 0.5, 0.51]) == [1, 2]


def test_k_of_the_last_n():
    assert alerts(AlertRules({0: 0.5}, 2, 3), [1, 0, 0, 1, 0, 1, 1, 0, 0, 0, 1]) == [5, 6]
    assert alerts(AlertRules({0: 0.5}, 3, 3), [1, 1, 0, 1, 1, 1, 1]) == [5, 6]


def test_quiet_time_of_each_class():
    assert alerts(AlertRules({0: 0.5}, quiet=2.5), [1] * 8) == [0, 3, 6]
    rules = AlertRules({0: 0.5, 1: 0.5}, quiet=10)
    assert rules.alerts(np.array([0.6, 0.4]), False, 0) == [0]
    assert rules.alerts(np.array([0.6, 0.6]), False, 1) == [1]


def test_a_clock_that_is_set_back_does_not_silence():
    rules = AlertRules({0: 0.5}, quiet=600)
    assert [rules.alerts(np.array([1.0]), False, time) for time in (1e9, 1e9 + 1, 0, 1)] == [[0], [], [0], []]


def test_unknown_images_raise_none_and_do_not_count():
    assert alerts(AlertRules({0: 0.5}), [1, 1], unknown=True) == []
    rules = AlertRules({0: 0.5}, 2, 2)
    found = [rules.alerts(np.array([1.0]), unknown, 0) for unknown in (False, True, False, False)]
    assert found == [[], [], [], [0]]


def test_passwords_are_not_part_of_names():
    url = "rtsp://user:se:cr@et@10.0.0.5:554/ch1?pwd=secret"
    assert without_secrets(url) == Source.of(url).name == "rtsp://10.0.0.5:554/ch1"


@pytest.mark.parametrize("url", ["file:///etc/passwd", "rtsp://", "ftp://a:secret@b/c", "rtsp://[secret", "concat://x"])
def test_wrong_urls_are_refused_without_showing_them(url):
    with pytest.raises(UsageError, match="not the URL of a stream") as error:
        Source.of(url)
    assert "secret" not in str(error.value)
