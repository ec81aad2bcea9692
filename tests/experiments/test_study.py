"""Study files: where configurations are found, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from animals_pl.configurations import CONFIGS, find_config
from animals_pl.errors import UsageError
from animals_pl.experiments.study import as_yaml, flatten, read_study


def test_a_configuration_is_found_beside_the_study(tmp_path):
    (tmp_path / "mine.yaml").touch()
    assert find_config("mine.yaml", tmp_path) == tmp_path / "mine.yaml"


def test_a_configuration_is_found_in_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "mine.yaml").touch()
    monkeypatch.chdir(tmp_path)
    assert find_config("mine.yaml", Path("elsewhere")) == tmp_path / "mine.yaml"


def test_a_shipped_configuration_is_found_by_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_config("mobilenetv3_small_best", tmp_path) == CONFIGS / "mobilenetv3_small_best.yaml"


def test_overrides_replace_net_weights_and_configuration(write_study, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = read_study(write_study("config: lenet\noptions: {model.net: a}\nvariants: {x: }"))
    assert (study.name, study.net, study.variants) == ("tiny", "a", {"x": {}})
    changed = study.override(weights="w.safetensors", net="b", config="shallownet")
    assert changed.options == {"model.net": "b", "model.weights": str(tmp_path / "w.safetensors")}
    assert changed.config == CONFIGS / "shallownet.yaml"
    assert study.override() == study


def test_the_net_of_the_configuration_counts_without_an_option(write_study):
    assert read_study(write_study("config: lenet\nvariants: {x: }")).net == "lenet"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("nonsense: [", "cannot be read"),
        ("- a list", "has no keys"),
        ("config: lenet", "needs the keys config and variants"),
        ("variants: {a: {}}", "needs the keys config and variants"),
        ("config: lenet\nvariants: {a: 3}", "a must map names to values"),
        ("config: lenet\nvariants: {a: }\noptions: [1]", "options must map names to values"),
        ("config: absent.yaml\nvariants: {a: {}}", "config='absent.yaml' is not a file"),
        ("config: lenet\nvariants: {a/b: {}}", "contains / or :"),
        ("config: lenet\nbaseline: b\nvariants: {a: {}}", "baseline='b' is not a variant"),
    ],
)
def test_a_malformed_study_is_refused(write_study, content, words):
    with pytest.raises(UsageError, match=words):
        read_study(write_study(content))


def test_a_missing_study_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"study='.*absent\.yaml' cannot be read"):
        read_study(tmp_path / "absent.yaml")


@pytest.mark.parametrize("file", sorted((CONFIGS / "studies").glob("*.yaml")), ids=lambda file: file.stem)
def test_shipped_studies_are_valid(file):
    study = read_study(file)
    assert len(study.variants) > 1
    assert study.config.parent == CONFIGS


def test_flatten_joins_sections_and_keys():
    assert flatten({"a": {"b": 1, "c": {"d": 2}}, "e": None}) == {"a.b": 1, "a.c": {"d": 2}, "e": None}


@pytest.mark.parametrize("value", [None, True, 1e-5, "1e-5", "no", [1, 2], {"a": [1, "b"]}, "ü", "x " * 100])
def test_values_survive_yaml(value):
    text = as_yaml(value)
    assert "\n" not in text
    assert yaml.safe_load(text) == value
