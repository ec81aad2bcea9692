"""Datasets with split folders: train, val and test."""

from __future__ import annotations

import csv
import re
import shutil
import warnings
from pathlib import Path

import pytest

from animals_pl.cli import main
from animals_pl.data.catalog import scan_folder
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.inspection.manifest import catalog_of
from animals_pl.errors import UsageError

pytestmark = pytest.mark.usefixtures("wide_screen", "small_figures")

CLASSES = ["cane", "gatto"]


@pytest.fixture
def divide(make_tree):
    """Return a function (name, folder=images per class, …) that writes a dataset with split folders."""

    def write(name: str, /, **folders: int) -> Path:
        for seed, (folder, count) in enumerate(folders.items()):
            root = make_tree(f"{name}/{folder}", dict.fromkeys(CLASSES, count), seed).parent
        return root

    return write


def make(root: Path, stage: str = "fit", **options) -> AnimalsDataModule:
    data = AnimalsDataModule(str(root), size=16, batch_size=8, num_workers=0, **options)
    data.setup(stage)
    return data


def counts(data: AnimalsDataModule) -> dict[str, int]:
    return {split: len(catalog.paths) for split, catalog in data.catalogs.items()}


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(UsageError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def cli(*args: object) -> int:
    return main([str(arg) for arg in args])


def fit(root: Path, folder: Path, *args: object) -> int:
    data = ["--data.root", root, "--data.size", 16, "--data.num_workers", 0]
    trainer = ["--trainer.default_root_dir", folder, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    return cli("fit", "--model.net", "shallownet", *data, *trainer, *args)


@pytest.mark.parametrize("val", ["val", "valid", "validation", "Val"])
def test_the_folders_are_the_split_and_not_classes(divide, val):
    root = divide("zoo", train=5, test=3, **{val: 2})
    data = make(root)
    assert data.class_names == CLASSES
    assert counts(data) == {"train": 10, "val": 4, "test": 6}
    for split, folder in {"train": "train", "val": val, "test": "test"}.items():
        paths = data.catalogs[split].paths
        assert {path.split("/")[0] for path in paths} == {folder}
        assert [CLASSES[label] for label in data.catalogs[split].labels] == [path.split("/")[1] for path in paths]


def test_a_missing_val_is_drawn_from_train_and_a_missing_test_stays_empty(divide):
    data = make(divide("a", train=10, test=2))
    assert counts(data) == {"train": 14, "val": 6, "test": 4}
    assert {path.split("/")[0] for path in data.catalogs["val"].paths} == {"train"}
    assert counts(make(divide("b", train=10, val=2))) == {"train": 20, "val": 4, "test": 0}
    half = divide("c", train=10, test=2)
    assert counts(make(half, val_fraction=0.5)) == {"train": 10, "val": 10, "test": 4}
    assert "data.val_fraction=0.0" in refusal(make, half, val_fraction=0.0)


def test_folders_without_train_are_refused_in_training_only(divide):
    root = divide("zoo", val=2, test=3)
    assert "has the split folders val, test, but no training images" in refusal(make, root)
    assert scan_folder(root).class_names == CLASSES


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"val_fraction": 0.2}, "data.val_fraction=0.2 cannot be used with"),
        ({"test_fraction": 0.0}, "data.test_fraction=0.0 cannot be used with"),
        (
            {"val_fraction": 0.3, "test_fraction": 0.1},
            "Pass --data.val_fraction null --data.test_fraction null, or one of the folders",
        ),
    ],
)
def test_fractions_contradict_the_folders(divide, options, named):
    assert named in refusal(make, divide("zoo", train=4, val=2, test=2), **options)


def test_a_split_file_must_keep_the_folders(divide, tmp_path):
    root = divide("zoo", train=4, val=2, test=2)
    first = make(root)
    first.save_split(tmp_path)
    file = tmp_path / "split.csv"
    assert make(root, split=str(file)).split == first.split
    text = file.read_text()
    file.write_text(text.replace("test/cane/cane_0.jpg,cane,test", "test/cane/cane_0.jpg,cane,train"))
    assert file.read_text() != text
    message = refusal(make, root, split=str(file))
    assert f"data.split={str(file)!r} puts 'test/cane/cane_0.jpg' into train" in message
    assert "folders train, val, test. Remove data.split" in message


def test_the_split_file_of_a_drawn_val_is_accepted(divide, tmp_path):
    root = divide("zoo", train=8, test=2)
    first = make(root)
    first.save_split(tmp_path)
    assert make(root, split=str(tmp_path / "split.csv"), seed=1).split == first.split


def test_duplicates_across_folders_are_reported_and_not_moved(divide):
    root = divide("zoo", train=6, val=2, test=2)
    shutil.copy(root / "train/cane/cane_0.jpg", root / "test/cane/copy.jpg")
    with pytest.warns(
        UserWarning, match=r"1 group of .* in several split folders of .*test/cane/copy\.jpg, train/cane"
    ):
        data = make(root)
    assert "test/cane/copy.jpg" in data.catalogs["test"].paths
    assert "train/cane/cane_0.jpg" in data.catalogs["train"].paths
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make(root, group_duplicates=False)


def test_classes_may_have_other_names_in_other_folders(divide):
    root = divide("zoo", train=3, val=2)
    (root / "val/cane").rename(root / "val/Dog")
    data = make(root)
    assert data.class_names == CLASSES
    assert data.catalogs["val"].counts() == {"cane": 2, "gatto": 2}


def test_a_class_in_one_folder_only_is_warned_of(divide, make_tree):
    root = divide("zoo", train=3, val=2)
    make_tree("extra", {"ragno": 2})
    shutil.move(root.parent / "extra/ragno", root / "val/ragno")
    shutil.rmtree(root / "val/gatto")
    with pytest.warns(UserWarning) as caught:
        data = make(root)
    assert data.class_names == ["cane", "gatto", "ragno"]
    assert [str(warning.message) for warning in caught] == [
        "no training images in 1 class: 'ragno'. Add some",
        "no validation images in 1 class: 'gatto'. Add some",
    ]


# ---------------------------------------------------------------- what is not such a dataset


@pytest.mark.parametrize("names", [["train", "bus"], ["test", "cane", "gatto"], ["train", "test", "bus"]])
def test_beside_other_folders_of_images_such_a_name_is_a_class(make_tree, names):
    assert scan_folder(make_tree("zoo", dict.fromkeys(names, 2))).class_names == sorted(names)


@pytest.mark.parametrize("names", [["lake", "hill"], ["train", "bus"], ["Devon", "Testudo"]])
def test_classes_may_have_the_same_inner_folders(divide, names):
    assert scan_folder(divide("zoo", **dict.fromkeys(names, 2))).class_names == sorted(names)


@pytest.mark.parametrize("names", [["train", "dev", "eval"], ["train_set", "val_set"], ["TrainData", "my-test"]])
def test_other_names_of_splits_are_refused(divide, names):
    message = refusal(scan_folder, divide("zoo", **dict.fromkeys(names, 2)))
    assert f"the folders {', '.join(sorted(names))} are not classes, since each has the folders cane, gatto." in message
    assert "Name split folders train, training, val, valid, validation, test, testing, or pass" in message


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (["train/1.jpg", "val/1.jpg"], "has split folders (train, val) without class folders."),
        (["Test/1.jpg", "train/1.jpg", "labels/1.txt"], "Move the images to Test/CLASS, or pass one of the folders."),
        (
            ["images/train/1.jpg", "images/val/1.jpg", "annotations/train/1.txt"],
            "/images' has split folders (train, val). Move them above class folders, as in train/",
        ),
        (["cane/train/1.jpg", "cane/valid/1.jpg", "gatto/1.jpg"], "/cane' has split folders (train, valid)."),
    ],
)
@pytest.mark.parametrize("class_names", [None, ["cane", "gatto"]])
def test_splits_without_or_below_class_folders_are_refused(make_tree, tmp_path, paths, named, class_names):
    image = make_tree("extra", {"x": 1}) / "x/x_0.jpg"
    for path in paths:
        (tmp_path / "zoo" / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, tmp_path / "zoo" / path)
    for path in (tmp_path / "zoo").rglob("*.txt"):
        path.write_text("0 .5 .5 1 1")
    if class_names and "images/" in paths[0]:
        class_names = ["images", "annotations"]
    assert named in refusal(scan_folder, tmp_path / "zoo", class_names)


def test_known_classes_come_first(divide):
    catalog = scan_folder(divide("zoo", train=3, val=2), ["train", "val"])
    assert catalog.counts() == {"train": 6, "val": 4}


@pytest.mark.parametrize(
    ("folders", "extra", "named"),
    [
        ({"train": 2, "val": 1}, "test/1.jpg", "but 'test' has images outside class folders. Move them"),
        ({"train": 2, "val": 1}, "train/1.jpg", "but 'train' has images outside class folders. Move them"),
        ({"train": 2, "val": 1}, "other/x/1.jpg", "and other image folders (other). Remove the latter"),
        ({"train": 2, "val": 1}, "valid/cane/1.jpg", "of which two are for the same split. Merge them"),
    ],
)
def test_what_is_divided_in_part_is_refused(divide, folders, extra, named):
    root = divide("zoo", **folders)
    (root / extra).parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "train/cane/cane_0.jpg", root / extra)
    message = refusal(scan_folder, root)
    assert f"data.root={str(root)!r} has split folders (" in message
    assert named in message
    assert message.endswith("or pass one of the folders.")


def test_folders_without_images_beside_them_do_not_matter(divide):
    root = divide("zoo", train=2, val=1)
    (root / "labels").mkdir()
    (root / "labels/1.txt").write_text("cane")
    assert scan_folder(root).split_folders == {"train": "train", "val": "val"}


# ---------------------------------------------------------------- test_root


@pytest.mark.parametrize("sites", [["siteA"], ["siteA", "siteB"]])
def test_one_class_of_nested_folders_can_be_tested(make_tree, sites):
    root = make_tree("test/cane", dict.fromkeys(sites, 2)).parent
    assert scan_folder(root, CLASSES).counts() == {"cane": 2 * len(sites), "gatto": 0}
    assert scan_folder(root.parent, CLASSES, "data.test_root").root == root


def test_the_test_folder_of_a_test_root_is_tested(divide):
    root = divide("zoo", train=3, val=2, test=1)
    with pytest.warns(
        UserWarning, match=r"data\.test_root=.* has the split folders train, val, test; only test is used"
    ):
        data = make(root, "test", test_root=str(root))
    assert data.catalogs["test"].paths == ["test/cane/cane_0.jpg", "test/gatto/gatto_0.jpg"]
    message = refusal(make, root, "test", test_root=str(divide("other", train=2, val=1)))
    assert "has the split folders train, val, but no test images. Pass one of the folders." in message


# ---------------------------------------------------------------- the verbs


def test_every_verb_says_that_the_folders_are_the_split(divide, tmp_path, capsys):
    root = divide("zoo", train=6, val=3, test=2)
    shutil.copy(root / "train/cane/cane_0.jpg", root / "val/cane/copy.jpg")

    assert cli("prepare", root, "--output", tmp_path / "prepared") == 0
    told = capsys.readouterr().out
    assert "split             folders train, val, test" in told
    assert re.search(r"^cane \(dog\) +12$", told, re.M)
    assert "--data.val_fraction null --data.test_fraction null" in told

    for source, output in ((root, "a"), (tmp_path / "prepared/manifest.csv", "b")):
        assert cli("analyze", source, "--output", tmp_path / output) == 0
        told = capsys.readouterr().out
        assert "split: folders train, val, test" in told
        assert re.search("in several splits +1 group\n", told)

    with pytest.warns(UserWarning, match="in several split folders"):
        assert fit(root, tmp_path) == 0
    assert "train 12  val 7  test 4  (folders train, val, test)" in capsys.readouterr().out
    run = tmp_path / "run/version_0"
    with (run / "split.csv").open(newline="") as stream:
        assert {row["split"] == row["path"].split("/")[0] for row in csv.DictReader(stream)} == {True}
    for verb in ("validate", "test"):
        assert cli(verb, "--ckpt_path", run / "best.ckpt") == 0
    assert fit(root, tmp_path, "--ckpt_path", run / "last.ckpt", "--trainer.max_epochs", 2) == 0

    assert fit(root, tmp_path, "--data.val_fraction", 0.2) == 2
    assert "data.val_fraction=0.2 cannot be used with" in capsys.readouterr().err
    study = Path(__file__).parents[2] / "configs/studies/ablation.yaml"
    assert cli("cross-validate", study, "--root", root, "--output", tmp_path / "folds") == 2
    assert "has the split folders train, val, test" in capsys.readouterr().err


def test_a_manifest_gives_the_catalog_of_the_folder(divide, tmp_path, capsys):
    root = divide("zoo", train=2, val=1)
    assert cli("prepare", root, "--output", tmp_path / "prepared") == 0
    read, scanned = catalog_of(tmp_path / "prepared/manifest.csv"), scan_folder(tmp_path / "prepared")
    assert (read.paths, read.class_names) == (scanned.paths, scanned.class_names)
    assert list(read.split_folders.items()) == list(scanned.split_folders.items())
