"""Durations in options."""

from __future__ import annotations

import pytest

from animals_pl.durations import duration
from animals_pl.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("10", 10), ("500ms", 0.5), ("1.5 s", 1.5), (".5", 0.5), ("10min", 600), ("2h", 7200), ("1d", 86400), ("0", 0)],
)
def test_durations(text, seconds):
    assert duration("quiet", text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "s", "-1s", "1m", "1 hour", "nan", "inf", "1e9", "366d", "1,5s", "٣s s"])
def test_wrong_durations(text):
    with pytest.raises(UsageError, match="quiet="):
        duration("quiet", text)
    with pytest.raises(UsageError, match=r"every='1ms' is invalid. Pass a duration of 0.01s to 365d"):
        duration("every", "1ms", least=0.01)
