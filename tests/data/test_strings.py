"""Strings in one byte array behave as a list of them."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from animals_pl.data import strings as strings_module
from animals_pl.data.strings import Strings

TEXTS = st.lists(st.text(st.characters(), max_size=8) | st.sampled_from(["", "\udcff\udc80.png", "猫 🐈", "a\nb"]))
"""Any characters, surrogates too: bytes of file names that are not UTF-8."""


@given(texts=TEXTS, data=st.data())
def test_strings_are_those_of_the_list(texts, data):
    strings = Strings.of(texts)
    assert list(strings) == texts == strings == list(map(strings.__getitem__, range(len(texts))))
    assert strings[::-1] == texts[::-1]
    assert pickle.loads(pickle.dumps(strings)) == strings == Strings.of(strings)
    chosen = data.draw(st.lists(st.integers(0, len(texts) - 1)) if texts else st.just([]))
    assert strings.take(chosen) == [texts[index] for index in chosen]
    assert Strings.concatenate([strings, strings.take(chosen)]) == [*texts, *(texts[index] for index in chosen)]
    assert strings.lengths.tolist() == [len(text.encode(errors="surrogatepass")) for text in texts]


@given(texts=TEXTS, wanted=TEXTS)
def test_index_of_finds_known_strings(texts, wanted):
    known = list(dict.fromkeys(texts))
    indices = Strings.of(known).index_of(wanted)
    assert indices.tolist() == [known.index(text) if text in known else -1 for text in wanted]
    assert Strings.of(known).index_of(Strings.of(known)).tolist() == list(range(len(known)))


def test_parts_are_joined_at_any_chunk(monkeypatch):
    texts = [f"{number}" * (number % 4) for number in range(50)]
    for chunk in (1, 7, 50, 64):
        monkeypatch.setattr(strings_module, "_CHUNK", chunk)
        strings = Strings.of(texts)
        assert list(strings) == texts
        assert strings.take(np.arange(49, -1, -3)) == texts[::-3]


def test_other_sequences_are_not_equal():
    strings = Strings.of(["a", "b"])
    assert strings != ["a"]
    assert strings != ["a", "c"]
    assert strings != "ab"
    assert strings != Strings.of(["ab", ""])
    with pytest.raises(IndexError):
        strings[2]
    assert strings[-1] == "b"


@pytest.mark.parametrize("offsets", [[], [0, 3], [1, 2], [0, 3, 2], [0, -1, 2]])
def test_arrays_that_do_not_fit_are_refused(offsets):
    with pytest.raises(ValueError, match="do not match"):
        Strings(np.zeros(2, dtype=np.uint8), np.array(offsets, dtype=np.int64))
    with pytest.raises(ValueError, match="do not match"):
        Strings(np.zeros(2, dtype=np.int8), np.array([0, 2]))
