"""Search files: which values a space contains, and what is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("optuna")
from optuna.distributions import IntDistribution

from animals_pl.configurations import CONFIGS
from animals_pl.errors import UsageError
from animals_pl.experiments.search_space import contains, read_search, read_space, rounded


@pytest.mark.parametrize(
    ("space", "value", "member"),
    [
        ({"low": 1, "high": 9}, 9, True),
        ({"low": 1, "high": 9}, 2.5, False),
        ({"low": 1, "high": 9, "step": 4}, 5, True),
        ({"low": 1, "high": 9, "step": 4}, 4, False),
        ({"low": 0.0, "high": 0.6, "step": 0.1}, 0.3, True),
        ({"low": 0.0, "high": 0.6, "step": 0.1}, 0.25, False),
        ({"low": "1e-4", "high": 0.1, "log": True}, "1e-3", True),
        ({"low": 1e-4, "high": 0.1, "log": True}, 0.2, False),
        ({"low": 0.0, "high": 1.0}, None, False),
        ({"low": 0.0, "high": 1.0}, "adam", False),
        (["adam", None, 3], None, True),
        (["adam", None, 3], "sgd", False),
    ],
)
def test_spaces_contain_their_values(space, value, member):
    distribution = read_space("model.x", space)
    assert contains(distribution, value) == member
    whole = isinstance(space, dict) and isinstance(space["low"], int)
    assert isinstance(distribution, IntDistribution) == whole


def test_values_are_rounded_within_their_space():
    assert rounded(read_space("x", {"low": 0.1, "high": 0.2}), 0.123456) == 0.1235
    assert rounded(read_space("x", {"low": 0.1, "high": 0.200001}), 0.2000009) == 0.2
    assert rounded(read_space("x", {"low": 0.123456, "high": 0.2}), 0.123456) == 0.1235
    assert rounded(read_space("x", {"low": 0.12344, "high": 0.2}), 0.12344) == 0.12344
    assert type(rounded(read_space("x", {"low": 1, "high": 5}), 3.0)) is int
    assert rounded(read_space("x", ["a", None]), None) is None


@pytest.mark.parametrize(
    "space",
    [
        *(3, None, "adam", [], [[1]], {}, {"low": 1}, {"low": 2, "high": 1}, {"low": 0, "high": True}),
        *({"low": 0.0, "high": 1.0, "log": True}, {"low": "a", "high": 1}, {"low": 1, "high": 2, "lob": True}),
    ],
    ids=str,
)
def test_a_malformed_space_is_refused(space):
    with pytest.raises(UsageError, match=r"model\.x=.* is not a space \(.*\)\. Write"):
        read_space("model.x", space)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense: [", "cannot be read"),
        ("config: lenet", "needs the keys config and search"),
        ("config: absent.yaml\nsearch: {model.lr: [1]}", "config='absent.yaml' is not a file"),
        ("config: lenet\nsearch: {}", "needs the keys config and search"),
        ("config: lenet\nsearch: {model.lr: {low: 3}}", r"model\.lr={'low': 3} is not a space"),
        ("config: lenet\nsearch: {trainer.a.b: [1]}", r"'trainer\.a\.b' is not a key"),
        ("config: lenet\noptions: {model.lr: 1}\nsearch: {model.lr: [1]}", "in options and in search"),
    ],
)
def test_a_malformed_search_is_refused(write_study, content, words):
    with pytest.raises(UsageError, match=words):
        read_search(write_study(content))


@pytest.mark.parametrize("file", sorted((CONFIGS / "searches").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_searches_contain_their_configuration(file):
    plan = read_search(file)
    assert all(contains(space, plan.config[key]) for key, space in plan.space.items())
