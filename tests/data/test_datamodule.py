"""The datamodule: splits, loaders, labels and processes."""

from __future__ import annotations

import csv
import math
import os
import shutil
import warnings
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from unicodedata import normalize

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image, ImageOps

from animals_pl.data import datamodule as datamodule_file
from animals_pl.data import dataset as dataset_file
from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.decode import decode
from animals_pl.data.sources.practice.practice_set import PRACTICE_ROOT, draw_animal
from animals_pl.data.tables import write_table
from animals_pl.errors import UsageError
from animals_pl.training.classifier import AnimalClassifier

NAMES = list(ANIMALS10)
SIZE = 16


def make(root: Path | str, stage: str = "", rank: int = 0, world: int = 1, **options) -> AnimalsDataModule:
    """Return a datamodule that a process of a training has set up."""
    data = AnimalsDataModule(root=str(root), **{"size": SIZE, "batch_size": 8, "num_workers": 0, **options})
    if world > 1:
        device = SimpleNamespace(root_device=torch.device("cpu"))
        progress = SimpleNamespace(epoch_progress=SimpleNamespace(current=SimpleNamespace(processed=0)))
        progress.epoch_loop = SimpleNamespace(batch_progress=SimpleNamespace(current=SimpleNamespace(ready=0)))
        data.trainer = SimpleNamespace(
            overfit_batches=0,
            global_rank=rank,
            world_size=world,
            lightning_module=None,
            is_global_zero=rank == 0,
            fast_dev_run=1,
            strategy=device,
            fit_loop=progress,
        )
    if stage:
        data.setup(stage)
    return data


def by_hand(file: Path) -> np.ndarray:
    picture = Image.fromarray(decode(file, SIZE))
    return np.asarray(picture.resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def samples(loader) -> list[tuple[bytes, int]]:
    """Return (pixels, label) of everything that a loader gives."""
    return [
        (image.numpy().tobytes(), int(label))
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    ]


def expected(data: AnimalsDataModule, split: str) -> list[tuple[bytes, int]]:
    catalog = data.catalogs[split]
    return [(by_hand(catalog.root / path).tobytes(), NAMES.index(path.partition("/")[0])) for path in catalog.paths]


# ---------------------------------------------------------------- splits


def test_splits_divide_the_images(tiny_tree):
    data = make(tiny_tree, "fit", val_fraction=0.25, test_fraction=0.2)
    paths = [set(data.catalogs[split].paths) for split in ("train", "val", "test")]
    assert sum(map(len, paths)) == len(set.union(*paths)) == 57
    assert set.union(*paths) == {file.relative_to(tiny_tree).as_posix() for file in tiny_tree.rglob("*.jpg")}
    assert data.class_names == NAMES


def test_stages_agree_on_the_splits(tiny_tree):
    splits = [
        {split: catalog.paths for split, catalog in make(tiny_tree, stage, test_fraction=0.2).catalogs.items()}
        for stage in ("fit", "validate", "test")
    ]
    assert splits[0] == splits[1] == splits[2]


def test_a_stage_after_another_keeps_the_splits(tiny_tree):
    data = make(tiny_tree, "fit", test_fraction=0.2)
    before = dict(data.catalogs)
    data.setup("validate")
    data.setup("test")
    assert all(data.catalogs[split] is before[split] for split in ("train", "val", "test"))


def test_test_needs_images(tiny_tree):
    with pytest.raises(UsageError, match=r"--data\.test_root DIR .*--data\.test_fraction"):
        make(tiny_tree, "test")


def test_test_root_is_taken_whole(tiny_tree, make_tree):
    other = make_tree("other", {"pecora": 3, "cane": 2})
    data = make(tiny_tree, "test", test_root=str(other), batch_size=2)
    assert data.catalogs["test"].paths == [
        *(f"cane/cane_{i}.jpg" for i in range(2)),
        *(f"pecora/pecora_{i}.jpg" for i in range(3)),
    ]
    assert [len(labels) for _, labels in data.test_dataloader()] == [2, 2, 1]


# ---------------------------------------------------------------- loaders


@pytest.mark.parametrize("workers", [0, 2])
def test_training_gives_every_image_once(tiny_tree, workers):
    data = make(tiny_tree, "fit", num_workers=workers)
    batches = list(data.train_dataloader())
    assert [(images.dtype, tuple(images.shape[1:])) for images, _ in batches] == [(torch.uint8, (3, SIZE, SIZE))] * 6
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 8, 3]
    found = samples(batches)
    assert sorted(found) == sorted(expected(data, "train"))
    assert found != expected(data, "train")


def test_augmented_training_images_keep_their_labels(tiny_tree):
    data = make(tiny_tree, "fit", augment="light")
    plain, augmented = samples(make(tiny_tree, "fit").train_dataloader()), samples(data.train_dataloader())
    assert [label for _, label in augmented] == [label for _, label in plain]
    assert sum(ours == theirs for (ours, _), (theirs, _) in zip(augmented, plain, strict=True)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_gives_the_images_in_order(tiny_tree, workers):
    data = make(tiny_tree, "fit", num_workers=workers, augment="light")
    data.size_schedule = lambda epoch: 24
    assert samples(data.val_dataloader()) == expected(data, "val")


def test_training_follows_the_size_schedule(tiny_tree):
    data = make(tiny_tree, "fit")
    data.size_schedule = lambda epoch: 24
    assert {tuple(images.shape[1:]) for images, _ in data.train_dataloader()} == {(3, 24, 24)}


@pytest.fixture
def asked(monkeypatch) -> list[int | None]:
    """The sizes that images are decoded for."""
    sizes: list[int | None] = []
    decode = dataset_file.decode
    monkeypatch.setattr(dataset_file, "decode", lambda path, size=None: sizes.append(size) or decode(path, size))
    return sizes


@pytest.mark.parametrize(("side", "wanted"), [(8, SIZE), (SIZE, SIZE), (24, 24)])
@pytest.mark.parametrize("augment", ["none", "light"])
def test_training_decodes_for_the_final_size_unless_a_stage_is_larger(tiny_tree, asked, augment, side, wanted):
    data = make(tiny_tree, "fit", augment=augment)
    data.size_schedule = lambda epoch: side
    list(data.train_dataloader())
    assert asked == [wanted] * 43


def test_validation_and_prediction_decode_for_the_final_size(tiny_tree, asked):
    data = make(tiny_tree, "fit")
    data.size_schedule = lambda epoch: 24
    list(data.val_dataloader())
    list(make("nowhere", "predict", predict_paths=[str(tiny_tree / "gatto")]).predict_dataloader())
    assert asked == [SIZE] * (14 + 5)


def test_large_images_are_decoded_at_a_fraction_of_their_size(tmp_path):
    animals = {name: draw_animal(name, np.random.default_rng(0)).resize((1203, 901)) for name in ("cane", "gatto")}
    for name, picture in animals.items():
        (tmp_path / name).mkdir()
        for index in range(2):
            picture.save(tmp_path / name / f"{index}.jpg", quality=90)
    data = make(tmp_path, "fit", val_fraction=0.5, size=32, group_duplicates=False)
    image, label = data.datasets["val"][0]
    small = decode(tmp_path / data.catalogs["val"].paths[0], 32)
    assert small.shape[:2] == (113, 151)
    assert np.array_equal(image.numpy().transpose(1, 2, 0), data.resize(small, 32))
    whole = np.asarray(animals[data.class_names[label]].resize((32, 32), Image.Resampling.BILINEAR))
    assert np.abs(image.numpy().transpose(1, 2, 0).astype(int) - whole).mean() < 2


def test_predict_takes_files_and_folders(tiny_tree):
    files = sorted((tiny_tree / "gatto").iterdir())
    given = [str(tiny_tree / "cane" / "cane_3.jpg"), str(tiny_tree / "gatto")]
    data = make("nowhere", "predict", predict_paths=given, batch_size=4)
    assert data.catalogs["predict"].paths == [given[0], *map(str, files)]
    wanted = [(by_hand(Path(path)).tobytes(), -1) for path in data.catalogs["predict"].paths]
    assert samples(data.predict_dataloader()) == wanted


@pytest.mark.parametrize("world", [2, 3, 4])
def test_processes_share_validation_without_remainder(tiny_tree, world):
    processes = [make(tiny_tree, "fit", rank, world, batch_size=3) for rank in range(world)]
    shares = [samples(data.val_dataloader()) for data in processes]
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert sorted(chain.from_iterable(shares)) == sorted(expected(processes[0], "val"))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_training_without_remainder(tiny_tree, world):
    processes = [make(tiny_tree, "fit", rank, world) for rank in range(world)]
    shares = [list(data.train_dataloader()) for data in processes]
    assert len({len(batches) for batches in shares}) == 1
    assert sorted(chain.from_iterable(map(samples, shares))) == sorted(expected(processes[0], "train"))


# ---------------------------------------------------------------- classes of a model


def with_model(root: Path, **options) -> AnimalsDataModule:
    data = make(root, **options)
    model = SimpleNamespace(class_names=NAMES)
    data.trainer = SimpleNamespace(
        lightning_module=model,
        is_global_zero=True,
        fast_dev_run=1,
        global_rank=0,
        world_size=1,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )
    return data


def test_labels_follow_the_model_s_classes(make_tree):
    tree = make_tree("english", {"Spider": 4, "cat": 4, "cane": 4})
    data = with_model(tree)
    data.setup("validate")
    found = {
        path.partition("/")[0]: NAMES[label]
        for path, label in zip(data.catalog.paths, data.catalog.labels, strict=True)
    }
    assert found == {"Spider": "ragno", "cat": "gatto", "cane": "cane"}
    assert data.class_names == NAMES
    labels = {int(label) for _, batch in data.val_dataloader() for label in batch}
    assert labels == {NAMES.index(name) for name in ("ragno", "gatto", "cane")}


def test_a_class_that_the_model_does_not_know_is_refused(make_tree):
    data = with_model(make_tree("tree", {"cane": 4, "unicorn": 4}))
    with pytest.raises(UsageError, match="'unicorn', which is not a class of this model"):
        data.setup("validate")


# ---------------------------------------------------------------- practice set


@pytest.fixture
def drawn(tmp_path, monkeypatch) -> list[Path]:
    """Which practice sets are drawn, in an empty working directory."""
    roots: list[Path] = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datamodule_file, "draw_practice_set", lambda root, *args: roots.append(Path(root)))
    return roots


def test_the_practice_set_is_drawn_where_it_is_absent(drawn):
    make(PRACTICE_ROOT).prepare_data()
    assert drawn == [Path(PRACTICE_ROOT)]


def test_the_practice_set_is_not_drawn_again(drawn):
    Path(PRACTICE_ROOT).mkdir(parents=True)
    make(PRACTICE_ROOT).prepare_data()
    assert drawn == []


@pytest.mark.parametrize("root", ["nowhere", "datasets/animals10/raw-img"])
def test_other_folders_are_never_drawn(drawn, root):
    data = make(root)
    data.prepare_data()
    assert drawn == []
    with pytest.raises(UsageError, match=f"data.root='{root}' is not a folder"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("stage", "options", "needed"),
    [
        ("fit", {}, True),
        ("validate", {}, True),
        ("test", {}, True),
        ("test", {"test_root": "other"}, False),
        ("predict", {"predict_paths": ["a.jpg"]}, False),
    ],
)
def test_practice_set_is_drawn_only_for_stages_that_use_it(drawn, stage, options, needed):
    data = make(PRACTICE_ROOT, **options)
    data.trainer = SimpleNamespace(state=SimpleNamespace(fn=stage), world_size=1)
    data.prepare_data()
    assert drawn == ([Path(PRACTICE_ROOT)] if needed else [])


# ---------------------------------------------------------------- through a Trainer


def fit(data: AnimalsDataModule, folder: Path, **options) -> tuple[L.Trainer, dict[str, list]]:
    """Train on a datamodule and return what the net was given."""
    given: dict[str, list] = {"train": [], "val": []}

    class Recorder(L.Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            given["train"] += samples([batch])

        def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
            given["val"] += samples([batch])

    trainer = L.Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, "use_distributed_sampler": False, **options},
        default_root_dir=folder,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[Recorder()],
    )
    trainer.fit(AnimalClassifier(net="shallownet"), data)
    return trainer, given


def test_a_trainer_gives_the_net_every_image(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data = make(tiny_tree)
    _, given = fit(data, tmp_path)
    assert list(tmp_path.iterdir()) == []  # only save_split writes
    assert sorted(given["train"]) == sorted(expected(data, "train"))
    assert given["val"] == expected(data, "val")


def test_every_epoch_has_every_image_in_its_own_order(tiny_tree, tmp_path):
    data = make(tiny_tree)
    _, given = fit(data, tmp_path, max_epochs=3)
    wanted = sorted(expected(data, "train"))
    epochs = [given["train"][start : start + 43] for start in (0, 43, 86)]
    assert [sorted(epoch) for epoch in epochs] == [wanted] * 3
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def test_overfitting_sees_the_same_batch_each_epoch(tiny_tree, tmp_path):
    data = make(tiny_tree)
    _, given = fit(data, tmp_path, max_epochs=3, overfit_batches=1)
    assert len(given["train"]) == 3 * 8
    assert given["train"][:8] == given["train"][8:16] == given["train"][16:]
    assert set(given["train"]) <= set(expected(data, "train"))


def test_limits_cut_the_epoch(tiny_tree, tmp_path):
    _, given = fit(make(tiny_tree), tmp_path, limit_train_batches=2, limit_val_batches=1)
    assert (len(given["train"]), len(given["val"])) == (16, 8)


def test_the_split_is_saved_and_used_again(tiny_tree, tmp_path):
    data = make(tiny_tree, test_fraction=0.2)
    data.setup("fit")
    data.save_split(tmp_path)
    again = make(tiny_tree, "fit", split=str(tmp_path / "split.csv"), seed=7, val_fraction=0.6)
    for split in ("train", "val", "test"):
        assert again.catalogs[split].paths == data.catalogs[split].paths
    assert make(tiny_tree, "fit", seed=7, test_fraction=0.2).catalogs["train"].paths != data.catalogs["train"].paths


def test_a_used_split_may_not_name_images_that_are_gone(tiny_tree, tmp_path):
    make(tiny_tree, "fit").save_split(tmp_path)
    tree = shutil.copytree(tiny_tree, tmp_path / "copy")
    (tree / "ragno" / "ragno_2.jpg").unlink()
    with pytest.raises(UsageError, match=r"lists 1 image not in .*ragno/ragno_2\.jpg"):
        make(tree, "fit", split=str(tmp_path / "split.csv"))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("size", 7), ("size", 4097), ("batch_size", 0), ("batch_size", 10**9)),
        *(("num_workers", -1), ("num_workers", 10**9), ("seed", -1), ("seed", 2**32)),
    ],
)
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(UsageError, match=f"data.{key}={value} is out of range. Choose a value from "):
        AnimalsDataModule(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "expected"),
    [
        ("sampling", "foo", "one of 'shuffle', 'weighted', 'weighted_sqrt'"),
        ("batch_size", 1.5, "int"),
        ("batch_size", None, "int"),
        ("seed", np.int64(3), "int"),
        ("val_fraction", "a", "float, None"),
        ("size", math.nan, "int"),
        ("exclude", 3, "str, None"),
        ("root", None, "str"),
        ("root", Path("images"), "str"),
        ("group_duplicates", 1, "bool"),
        ("predict_paths", "a.jpg", r"list\[str\], None; a list is written as '\['a\.jpg'\]'"),
        ("predict_paths", [1], r"list\[str\], None"),
    ],
)
def test_values_of_other_types_are_refused(key, value, expected):
    with pytest.raises(UsageError, match=rf"^data\.{key}=.* is invalid; expected {expected}$"):
        AnimalsDataModule(**{key: value})


# ---------------------------------------------------------------- duplicates and other groups


def copy_picture(source: Path, target: Path, kind: str) -> Path:
    """Write an exact, a small or a mirror copy."""
    if kind == "exact":
        shutil.copy(source, target)
        return target
    with Image.open(source) as picture:
        small = picture.resize((picture.width // 2, picture.height // 2))
        (small if kind == "small" else ImageOps.mirror(picture)).save(target, quality=80)
    return target


@pytest.fixture(scope="module")
def copied_tree(tmp_path_factory) -> tuple[Path, list[set[str]]]:
    """A tree of 40 drawn images, and the sets of 2 or 3 of them that are one picture."""
    root = tmp_path_factory.mktemp("copied")
    for number, name in enumerate(("cane", "gatto")):
        (root / name).mkdir()
        for index in range(12):
            picture = draw_animal(name, np.random.default_rng([number, index]))
            picture.save(root / name / f"cam{index % 5}_{index}.jpg", quality=90)
    sets = []
    for name, indices, kinds in (
        ("cane", (0, 1), ("exact",)),
        ("cane", (2, 3), ("small",)),
        ("cane", (4, 5), ("mirror",)),
        ("cane", (6,), ("small", "exact")),
        ("gatto", (0, 1, 2), ("small",)),
        ("gatto", (3, 4, 5), ("mirror",)),
        ("gatto", (6,), ("mirror", "small")),
    ):
        for index in indices:
            original = root / name / f"cam{index % 5}_{index}.jpg"
            copies = [copy_picture(original, original.with_stem(f"{original.stem}_{kind}"), kind) for kind in kinds]
            sets.append({file.relative_to(root).as_posix() for file in (original, *copies)})
    assert len(list(root.rglob("*.jpg"))) == 40
    return root, sets


def split_of(data: AnimalsDataModule) -> dict[str, str]:
    return {path: split for split in ("train", "val", "test") for path in data.catalogs[split].paths}


def straddling(data: AnimalsDataModule, sets: list[set[str]]) -> list[set[str]]:
    splits = split_of(data)
    return [paths for paths in sets if len({splits[path] for path in paths}) > 1]


@pytest.mark.parametrize("seed", range(5))
def test_copies_of_a_picture_are_in_one_split(copied_tree, seed):
    root, sets = copied_tree
    data = make(root, "fit", seed=seed, test_fraction=0.2)
    assert straddling(data, sets) == []
    assert len(split_of(data)) == 40
    assert all(data.catalogs[split].paths for split in ("train", "val", "test"))


def test_copies_are_divided_where_that_is_asked_for(copied_tree):
    root, sets = copied_tree
    found = [
        straddling(make(root, "fit", seed=seed, test_fraction=0.2, group_duplicates=False), sets) for seed in (0, 1)
    ]
    assert all(found)


def test_without_duplicates_the_option_changes_nothing(tiny_tree):
    with_groups, without = (make(tiny_tree, "fit", group_duplicates=group) for group in (True, False))
    assert split_of(with_groups) == split_of(without)


@pytest.mark.parametrize("group_duplicates", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_what_a_rule_has_in_common_is_in_one_split(copied_tree, seed, group_duplicates):
    root, _ = copied_tree
    data = make(root, "fit", seed=seed, group_by=r"(\w+)/cam(\d+)", group_duplicates=group_duplicates)
    cameras: dict[str, set[str]] = {}
    for path in split_of(data):
        cameras.setdefault(path.partition("_")[0], set()).add(path)
    assert len(cameras) == 10
    assert straddling(data, list(cameras.values())) == []
    assert straddling(make(root, "fit", seed=seed), list(cameras.values())) != []


def test_a_rule_and_duplicates_together_join_more_than_each(copied_tree):
    root, sets = copied_tree
    # The rule joins the originals; their copies, of which it says nothing, follow as duplicates.
    joined = [set().union(*(paths for paths in sets if any(p.endswith(f"_{n}.jpg") for p in paths))) for n in "0246"]
    assert [len(paths) for paths in joined] == [4, 4, 4, 6]
    for seed in range(4):
        assert straddling(make(root, "fit", seed=seed, group_by=r"_(0|2|4|6)\.jpg"), joined) == []
    assert any(straddling(make(root, "fit", seed=seed), joined) for seed in range(4))


def test_a_rule_that_says_nothing_ends_before_training(tiny_tree):
    with pytest.raises(UsageError, match=r"data\.group_by='camera' matches no image"):
        make(tiny_tree, "fit", group_by="camera")


# ---------------------------------------------------------------- left out


@pytest.fixture
def own_tree(tiny_tree, tmp_path) -> Path:
    """A copy of the tiny tree that a test may harm."""
    return shutil.copytree(tiny_tree, tmp_path / "own")


def excluding(tmp_path: Path, *paths: str) -> str:
    file = tmp_path / "exclude.csv"
    file.write_text("\n".join(["path,reason", *(f"{path},dark" for path in paths)]) + "\n", encoding="utf-8")
    return str(file)


def test_excluded_images_are_in_no_split_and_the_others_are(tiny_tree, tmp_path):
    left_out = {"cane/cane_1.jpg", "gatto/gatto_0.jpg", "ragno/ragno_6.jpg"}
    data = make(tiny_tree, "fit", exclude=excluding(tmp_path, *left_out))
    assert data.excluded == left_out
    assert split_of(data).keys() == set(split_of(make(tiny_tree, "fit"))) - left_out
    assert data.broken == {}


def test_excluded_images_that_are_not_there_are_counted_and_named(tiny_tree, tmp_path):
    file = excluding(tmp_path, "cane/cane_1.jpg", "cane/gone.jpg", "a/b.jpg")
    with pytest.warns(UserWarning, match=r"data\.exclude=.* lists 2 images not in .*first: a/b\.jpg"):
        data = make(tiny_tree, "fit", exclude=file)
    assert data.excluded == {"cane/cane_1.jpg"}


@pytest.mark.parametrize(
    "text",
    [
        "path;reason\r\ncane\\cane_1.jpg;dark\r\nROOT\\gatto\\gatto_0.jpg;",
        "reason\tpath\r\ndark\tROOT/cane/cane_1.jpg\r\n\t./gatto/gatto_0.jpg",
    ],
)
def test_an_exclude_file_may_be_a_spreadsheets(tiny_tree, tmp_path, text):
    (tmp_path / "exclude.csv").write_text(text.replace("ROOT", str(tiny_tree)), encoding="utf-16")
    data = make(tiny_tree, "fit", exclude=str(tmp_path / "exclude.csv"))
    assert data.excluded == {"cane/cane_1.jpg", "gatto/gatto_0.jpg"}


def test_an_exclude_file_of_other_images_is_refused(tiny_tree, tmp_path):
    file = excluding(tmp_path, r"C:\pets\cane\cane_1.jpg", "cane/gone.jpg")
    with pytest.raises(UsageError, match=r"lists 2 images, but none in .*first: .*\. Write paths relative"):
        make(tiny_tree, "fit", exclude=file)
    assert make(tiny_tree, "fit", exclude=excluding(tmp_path)).excluded == set()


@pytest.mark.parametrize("text", ["file,reason\ncane/cane_1.jpg,dark\n", "cane/cane_1.jpg\ncane/cane_2.jpg\n"])
def test_a_list_without_paths_is_refused(tiny_tree, tmp_path, text):
    (tmp_path / "exclude.csv").write_text(text)
    with pytest.raises(UsageError, match=r"data\.exclude='.*exclude\.csv' has no column 'path'"):
        make(tiny_tree, "fit", exclude=str(tmp_path / "exclude.csv"))


def test_broken_images_are_in_no_split_and_have_a_reason(own_tree):
    whole = (own_tree / "mucca" / "mucca_0.jpg").read_bytes()
    (own_tree / "mucca" / "mucca_0.jpg").write_bytes(whole[: len(whole) // 2])
    (own_tree / "cane" / "empty.jpg").touch()
    (own_tree / "pecora" / "text.png").write_text("no picture")
    data = make(own_tree, "fit", test_fraction=0.2)
    assert {path: reason.partition(":")[0] for path, reason in data.broken.items()} == {
        "mucca/mucca_0.jpg": "truncated",
        "cane/empty.jpg": "empty file (0 bytes)",
        "pecora/text.png": "not an image in a supported format",
    }
    assert len(split_of(data)) == 56
    assert not data.broken.keys() & split_of(data).keys()
    assert len(samples(data.train_dataloader())) == len(data.catalogs["train"].paths)


def test_broken_images_of_a_test_root_are_in_no_split(tiny_tree, own_tree):
    (own_tree / "cane" / "cane_0.jpg").write_bytes(b"")
    data = make(tiny_tree, "test", test_root=str(own_tree))
    assert "cane/cane_0.jpg" not in data.catalogs["test"].paths
    assert len(data.catalogs["test"].paths) == 56
    assert data.broken.keys() == {"cane/cane_0.jpg"}


@pytest.mark.parametrize("how", ["broken", "excluded", "half of each"])
def test_a_class_of_which_nothing_is_left_is_refused(own_tree, tmp_path, how):
    files = sorted((own_tree / "gatto").iterdir())
    broken = {"broken": files, "excluded": [], "half of each": files[::2]}[how]
    for file in broken:
        file.write_bytes(b"")
    exclude = excluding(tmp_path, *(f"gatto/{file.name}" for file in files if file not in broken))
    with pytest.raises(UsageError, match="class 'gatto' has no usable images"):
        make(own_tree, "fit", exclude=exclude)
    for file in broken[:1]:
        shutil.copy(own_tree / "cane" / "cane_0.jpg", file)
    if broken:
        assert f"gatto/{files[0].name}" in split_of(make(own_tree, "fit", exclude=exclude))


def test_image_that_broke_later_leaves_the_split_as_it_was(own_tree, tmp_path):
    data = make(own_tree)
    data.setup("fit")
    data.save_split(tmp_path)
    lost = data.catalogs["train"].paths[3]
    (own_tree / lost).write_bytes(b"")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make(own_tree, "fit", split=str(tmp_path / "split.csv"), seed=9)
    assert split_of(again) == {path: split for path, split in split_of(data).items() if path != lost}


def test_the_saved_split_says_who_was_left_out(own_tree, tmp_path):
    (own_tree / "cane" / "empty.jpg").touch()
    data = make(own_tree, exclude=excluding(tmp_path, "gatto/gatto_0.jpg"))
    data.setup("fit")
    data.save_split(tmp_path)
    with (tmp_path / "split.csv").open(newline="", encoding="utf-8") as stream:
        rows = {row["path"]: row for row in csv.DictReader(stream)}
    assert {path for path, row in rows.items() if row["split"] == "left out"} == {"cane/empty.jpg", "gatto/gatto_0.jpg"}
    assert len(rows) == 58
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = make(own_tree, "fit", split=str(tmp_path / "split.csv"))  # the list is not needed again
    assert split_of(again) == split_of(data)


def test_image_that_was_changed_since_is_named_in_validation(own_tree, tmp_path):
    data = make(own_tree)
    data.setup("fit")
    data.save_split(tmp_path)
    path = data.catalogs["val"].paths[2]
    with Image.open(own_tree / path) as picture:
        ImageOps.invert(picture).save(own_tree / path)
    with pytest.warns(UserWarning, match="1 image in .* changed since this split was made") as caught:
        again = make(own_tree, "validate", split=str(tmp_path / "split.csv"))
    assert split_of(again) == split_of(data)
    assert len(caught) == 1
    assert path in str(caught[0].message)


def test_image_that_was_moved_since_is_validated_where_it_is(own_tree, tmp_path):
    data = make(own_tree)
    data.setup("fit")
    data.save_split(tmp_path)
    old = data.catalogs["val"].paths[2]
    new = old.replace(".jpg", " moved.jpg")
    (own_tree / old).rename(own_tree / new)
    with pytest.warns(UserWarning, match="1 image in .* moved since this split was made") as caught:
        again = make(own_tree, "validate", split=str(tmp_path / "split.csv"))
    assert f"{old} → {new}" in str(caught[0].message)
    assert split_of(again) == {new if path == old else path: split for path, split in split_of(data).items()}


# ---------------------------------------------------------------- names


ODD_NAMES = ["two\nlines", "carriage\rreturn", 'quo"te, comma; semicolon', " blank ", "back\\slash", "=1+1", "NA"]
LATIN_1 = os.fsdecode(b"f\xfcchse")
"""A name that is not UTF-8, as Python gives it."""


@pytest.mark.parametrize("name", [*ODD_NAMES, LATIN_1])
def test_names_with_odd_characters_are_written_and_read_exactly(make_tree, tmp_path, name):
    root = make_tree("zoo", {"cane": 3, name: 5})
    (root / name / f"{name}_0.jpg").rename(root / name / f"{name} .jpg")
    data = make(root, "fit", test_fraction=0.2)
    assert data.class_names == sorted(["cane", name])
    data.save_split(tmp_path)
    write_table(pd.DataFrame({"path": data.catalog.paths, "site": data.catalog.paths}), tmp_path / "sites.csv")
    write_table(pd.DataFrame({"path": [f"{name}/{name}_1.jpg"]}), tmp_path / "exclude.csv")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(root, "fit", split=str(tmp_path / "split.csv"), seed=3).split == data.split
        grouped = make(root, "fit", group_by=f"{tmp_path / 'sites.csv'}:site")
        excluded = make(root, "fit", exclude=str(tmp_path / "exclude.csv"))
    assert len(set(grouped.catalog.groups)) == len(grouped.catalog.paths)
    assert excluded.excluded == {f"{name}/{name}_1.jpg"}
    test_root = make(root, "test", test_root=str(root))
    assert test_root.catalogs["test"].counts() == {"cane": 3, name: 5}


@pytest.mark.parametrize("here", ["NFC", "NFD"])
def test_names_from_a_mac_are_matched(make_tree, tmp_path, here):
    there = {"NFC": "NFD", "NFD": "NFC"}[here]
    root = make_tree("zoo", {normalize(here, "Füchse"): 6, "cane": 6})
    data = make(root, "fit", test_fraction=0.2)
    data.save_split(tmp_path)
    split = tmp_path / "split.csv"
    split.write_text(normalize(there, split.read_text(encoding="utf-8")), encoding="utf-8")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert make(root, "fit", split=str(split), seed=3).split == data.split
    names = [normalize(there, f"Füchse/Füchse_{index}.jpg") for index in range(2)]
    excluded = make(root, "fit", exclude=excluding(tmp_path, *names)).excluded
    assert excluded == {normalize(here, name) for name in names}
    groups = make(root, "fit", group_by=normalize(there, "Füchse_[0-3]|cane_[45]")).catalog.groups
    assert (groups >= 0).sum() == 6


# ---------------------------------------------------------------- classes that are missing in a split


def test_a_class_without_validation_images_is_named(make_tree):
    root = make_tree("zoo", {"cane": 10, "gatto": 1, "ragno": 1})
    with pytest.warns(UserWarning, match=r"^no validation images in 2 classes: 'gatto', 'ragno'\. Add some$"):
        make(root, "fit")


def test_a_class_without_training_images_in_a_split_file_is_named(make_tree, tmp_path):
    root = make_tree("zoo", {"cane": 4, "gatto": 4})
    make(root, "fit").save_split(tmp_path)
    text = (tmp_path / "split.csv").read_text()
    (tmp_path / "split.csv").write_text(text.replace(",gatto,train", ",gatto,test"))
    with pytest.warns(UserWarning, match=r"^no training images in 1 class: 'gatto'\. Add some$"):
        make(root, "fit", split=str(tmp_path / "split.csv"))
