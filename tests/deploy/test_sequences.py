"""Sequences: which images belong together, their joint class, tables and resuming."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from classify_calls import classify, refused
from PIL import Image

from animals_pl import Identifier
from animals_pl.deploy.sequences import all_probabilities, joint_probabilities, split_sequences


def test_equal_images_are_worth_one():
    one = np.array([0.7, 0.2, 0.1])
    np.testing.assert_allclose(joint_probabilities(np.stack([one] * 5)), one)


def test_the_joint_is_the_normalised_geometric_mean():
    probabilities = np.random.default_rng(0).dirichlet(np.ones(4), size=3)
    product = np.prod(probabilities, axis=0) ** (1 / 3)
    np.testing.assert_allclose(joint_probabilities(probabilities), product / product.sum())
    assert np.isfinite(joint_probabilities(np.array([[1.0, 0.0], [0.0, 1.0]]))).all()


def test_classes_that_are_not_in_the_table_share_the_rest():
    found = all_probabilities(np.array([[2, 0], [1, 3]]), np.array([[0.6, 0.2], [1.0, 0.0]]), 4)
    np.testing.assert_allclose(found, [[0.2, 0.1, 0.6, 0.1], [0, 1, 0, 0]])


def test_neighbours_in_time_of_one_group_are_a_sequence():
    times = [10, 0, 40, 71, 5, np.nan, np.nan]
    assert split_sequences([0, 0, 0, 0, 1, 0, 0], times, 30).tolist() == [0, 0, 0, 1, 2, 3, 4]
    assert split_sequences([], [], 30).tolist() == []


@pytest.fixture
def burst(tiny_tree, tmp_path) -> Path:
    """Three images within 40 s, a late one, a broken one."""
    for number, second in enumerate((0, 20, 40, 55)):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0x9003] = f"2024:05:31 06:{10 if number == 3 else 12}:{second:02}"
        (tmp_path / "card").mkdir(exist_ok=True)
        source = sorted(tiny_tree.rglob("*.jpg"))[number * 7]
        Image.open(source).save(tmp_path / "card" / f"{number}.jpg", exif=exif)
    (tmp_path / "card/z.jpg").write_text("broken")
    return tmp_path / "card"


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_rows_have_their_sequence_and_its_joint_class(model, burst, tmp_path, suffix):
    out = tmp_path / f"out{suffix}"
    command = [model, burst, "--output", out, "--sequence", "30s", "--top_k", 10]
    assert classify(*command) == 0
    content = out.read_text(encoding="utf-8")
    found = (
        list(csv.DictReader(content.splitlines())) if suffix == ".csv" else list(map(json.loads, content.splitlines()))
    )
    assert [str(row["sequence_id"]) for row in found] == ["1", "1", "1", "2", "3"]
    identifier = Identifier(model)
    images = [np.asarray(Image.open(burst / f"{number}.jpg")) for number in range(3)]
    rounded = np.round(identifier.probabilities(images), 6)  # as in the table
    logarithms = np.log(np.maximum(rounded, 5e-7)).mean(axis=0)
    joint = np.exp(logarithms) / np.exp(logarithms).sum()
    for row in found[:3]:
        assert row["sequence_class"] == identifier.class_names[joint.argmax()]
        assert float(row["sequence_probability"]) == pytest.approx(joint.max(), abs=1e-4)
    assert found[3]["sequence_class"] == found[3]["class"]
    assert (found[4]["sequence_class"], found[4]["sequence_probability"] or "") == ("", "")
    assert classify(*command, "--resume") == 0
    assert out.read_text(encoding="utf-8") == content


def test_wrong_use_is_one_line(model, burst, tmp_path, capsys):
    out = ["--output", tmp_path / "out.csv"]
    assert "sequence='soon' is invalid" in refused(capsys, model, burst, *out, "--sequence", "soon")
    assert "at most 1d" in refused(capsys, model, burst, *out, "--sequence", "25h")
    json_out = ["--output", tmp_path / "out.json", "--format", "megadetector"]
    assert "cannot be stored" in refused(capsys, model, burst, *json_out, "--sequence", "30s")
    assert classify(model, burst, *out) == 0
    capsys.readouterr()
    assert "top_k or sequence" in refused(capsys, model, burst, *out, "--sequence", "30s", "--resume")
