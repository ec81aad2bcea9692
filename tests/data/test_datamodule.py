"""Photographs → batches: which ones, in which order, with which labels, for which process."""

from __future__ import annotations

import shutil
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
from PIL import Image

from animals_pl.data import datamodule as datamodule_file
from animals_pl.data.catalog import ANIMALS10
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.practice import PRACTICE_ROOT
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
    with Image.open(file) as picture:
        return np.asarray(picture.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR)).transpose(2, 0, 1)


def samples(loader) -> list[tuple[bytes, int]]:
    """Return (pixels, label) of everything that a loader gives."""
    return [
        (image.numpy().tobytes(), int(label))
        for images, labels in loader
        for image, label in zip(images, labels, strict=True)
    ]


def expected(data: AnimalsDataModule, fold: str) -> list[tuple[bytes, int]]:
    catalog = data.folds[fold]
    return [(by_hand(catalog.root / path).tobytes(), NAMES.index(path.partition("/")[0])) for path in catalog.paths]


# ---------------------------------------------------------------- folds


def test_folds_divide_the_photographs(tiny_tree):
    data = make(tiny_tree, "fit", val_fraction=0.25, test_fraction=0.2)
    paths = [set(data.folds[fold].paths) for fold in ("train", "val", "test")]
    assert sum(map(len, paths)) == len(set.union(*paths)) == 57
    assert set.union(*paths) == {file.relative_to(tiny_tree).as_posix() for file in tiny_tree.rglob("*.jpg")}
    assert data.class_names == NAMES


def test_stages_agree_on_the_folds(tiny_tree):
    folds = [
        {fold: catalog.paths for fold, catalog in make(tiny_tree, stage, test_fraction=0.2).folds.items()}
        for stage in ("fit", "validate", "test")
    ]
    assert folds[0] == folds[1] == folds[2]


def test_a_stage_after_another_keeps_the_folds(tiny_tree):
    data = make(tiny_tree, "fit", test_fraction=0.2)
    before = dict(data.folds)
    data.setup("validate")
    data.setup("test")
    assert all(data.folds[fold] is before[fold] for fold in ("train", "val", "test"))


def test_test_needs_photographs(tiny_tree):
    with pytest.raises(UsageError, match=r"--data\.test_root DIR .*--data\.test_fraction"):
        make(tiny_tree, "test")


def test_test_root_is_taken_whole(tiny_tree, make_tree):
    other = make_tree("other", {"pecora": 3, "cane": 2})
    data = make(tiny_tree, "test", test_root=str(other), batch_size=2)
    assert data.folds["test"].paths == [
        *(f"cane/cane_{i}.jpg" for i in range(2)),
        *(f"pecora/pecora_{i}.jpg" for i in range(3)),
    ]
    assert [len(labels) for _, labels in data.test_dataloader()] == [2, 2, 1]


# ---------------------------------------------------------------- loaders


@pytest.mark.parametrize("workers", [0, 2])
def test_training_gives_every_photograph_once(tiny_tree, workers):
    data = make(tiny_tree, "fit", num_workers=workers)
    batches = list(data.train_dataloader())
    assert [(images.dtype, tuple(images.shape[1:])) for images, _ in batches] == [(torch.uint8, (3, SIZE, SIZE))] * 6
    assert [len(labels) for _, labels in batches] == [8, 8, 8, 8, 8, 3]
    found = samples(batches)
    assert sorted(found) == sorted(expected(data, "train"))
    assert found != expected(data, "train")


def test_augmented_training_photographs_keep_their_labels(tiny_tree):
    data = make(tiny_tree, "fit", augment="light")
    plain, augmented = samples(make(tiny_tree, "fit").train_dataloader()), samples(data.train_dataloader())
    assert [label for _, label in augmented] == [label for _, label in plain]
    assert sum(ours == theirs for (ours, _), (theirs, _) in zip(augmented, plain, strict=True)) == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_validation_gives_the_photographs_in_order(tiny_tree, workers):
    data = make(tiny_tree, "fit", num_workers=workers, augment="strong")
    data.size_schedule = lambda epoch: 24
    assert samples(data.val_dataloader()) == expected(data, "val")


def test_training_follows_the_size_schedule(tiny_tree):
    data = make(tiny_tree, "fit")
    data.size_schedule = lambda epoch: 24
    assert {tuple(images.shape[1:]) for images, _ in data.train_dataloader()} == {(3, 24, 24)}


def test_predict_takes_files_and_folders(tiny_tree):
    files = sorted((tiny_tree / "gatto").iterdir())
    given = [str(tiny_tree / "cane" / "cane_3.jpg"), str(tiny_tree / "gatto")]
    data = make("nowhere", "predict", predict_paths=given, batch_size=4)
    assert data.folds["predict"].paths == [given[0], *map(str, files)]
    wanted = [(by_hand(Path(path)).tobytes(), -1) for path in data.folds["predict"].paths]
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
    with pytest.raises(UsageError, match="'unicorn' of a class that this model does not know"):
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


def test_a_trainer_gives_the_net_every_photograph(tiny_tree, tmp_path):
    data = make(tiny_tree)
    _, given = fit(data, tmp_path)
    assert sorted(given["train"]) == sorted(expected(data, "train"))
    assert given["val"] == expected(data, "val")


def test_every_epoch_has_every_photograph_in_its_own_order(tiny_tree, tmp_path):
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
    fit(data, tmp_path, limit_train_batches=1, limit_val_batches=1)
    again = make(tiny_tree, "fit", split=str(tmp_path / "split.csv"), seed=7, val_fraction=0.6)
    for fold in ("train", "val", "test"):
        assert again.folds[fold].paths == data.folds[fold].paths
    assert make(tiny_tree, "fit", seed=7, test_fraction=0.2).folds["train"].paths != data.folds["train"].paths


def test_a_used_split_may_not_name_photographs_that_are_gone(tiny_tree, tmp_path):
    fit(make(tiny_tree), tmp_path, limit_train_batches=1, limit_val_batches=1)
    tree = shutil.copytree(tiny_tree, tmp_path / "copy")
    (tree / "ragno" / "ragno_2.jpg").unlink()
    with pytest.raises(UsageError, match=r"names 1 photographs that are not in .*ragno/ragno_2\.jpg"):
        make(tree, "fit", split=str(tmp_path / "split.csv"))


@pytest.mark.parametrize(("key", "value"), [("size", 7), ("batch_size", 0), ("num_workers", -1)])
def test_values_out_of_range_are_refused(key, value):
    with pytest.raises(UsageError, match=f"data.{key}={value} is too small"):
        AnimalsDataModule(**{key: value})
