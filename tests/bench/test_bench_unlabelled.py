"""The benchmark of unlabelled images: its folders, and a run on small images."""

from __future__ import annotations

import re

from image_trees import write_tree

from animals_pl.data.loading import load_dataset
from scripts.bench.unlabelled import hidden_classes, main, make_folders

COUNTS = {"a": 40, "b": 36, "c": 32, "d": 30, "e": 28, "f": 12}


def test_no_image_is_in_two_folders_and_hidden_classes_are_only_unlabelled(tmp_path):
    catalog = load_dataset(write_tree(tmp_path / "images", COUNTS)).usable
    hidden = hidden_classes(catalog, 2, seed=1)
    assert len(hidden) == 2
    assert "f" not in hidden
    folders = make_folders(catalog, tmp_path / "made", 1, hidden)
    found = {name: [path.resolve() for path in folder.rglob("*.jpg")] for name, folder in folders.items()}
    every = [path for paths in found.values() for path in paths]
    assert len(every) == len(set(every))
    assert {path.parent.name for path in found["unlabelled"]} == set(COUNTS)
    for name in ("labelled", "test"):
        assert {path.parent.name for path in found[name]} == set(COUNTS) - hidden
    assert abs(len(found["unlabelled"]) - 0.75 * 0.8 * sum(COUNTS.values())) < len(COUNTS)


def test_a_run_prints_both_metrics_of_each_seed_and_the_differences(tmp_path, capsys):
    root = write_tree(tmp_path / "images", COUNTS)
    config = tmp_path / "config.yaml"
    config.write_text(
        "data: {size: 32, num_workers: 0}\n"
        "model: {net: test_resnet, freeze: true, lr: 0.02}\n"
        "trainer: {max_epochs: 2}\n"
    )
    main(["--root", str(root), "--config", str(config), "--seeds", "2", "--hidden_classes", "1"])
    lines = capsys.readouterr().out.splitlines()
    seeds = [
        re.fullmatch(r"seed (\d): .* -> .*; (\d+) of (\d+) pseudo-labelled, (\d+) right, (\d+) foreign", line)
        for line in lines
    ]
    assert [match[1] for match in seeds if match] == ["0", "1"]
    for match in filter(None, seeds):
        labelled, images, right, foreign = map(int, match.groups()[1:])
        assert images >= labelled >= right + foreign
    assert [line.partition(":")[0] for line in lines[-2:]] == ["macro_recall/test", "acc/test"]
