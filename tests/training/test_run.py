"""Training from Python: ``fit``, ``Run``, ``load_model``, and Lightning's own Trainer."""

from __future__ import annotations

import csv
import errno
import re
import resource
import runpy
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import timm
import torch
import yaml
from lightning.pytorch.callbacks import EarlyStopping, TQDMProgressBar
from PIL import Image
from run_folders import FILES, names_in
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import DataLoader

from animals_pl import (
    AnimalClassifier,
    AnimalsDataModule,
    DataInfo,
    ProgressiveResizing,
    Run,
    evaluate,
    export,
    fit,
    load_model,
)
from animals_pl.cli import main
from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError
from animals_pl.training.checkpoint_io import AtomicCheckpointIO
from animals_pl.training.hparams import divergence_remedy
from animals_pl.training.metrics_csv import read_metrics
from animals_pl.training.trainer import quiet

SCRIPT = Path(__file__).with_name("api_script.py")
QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0, "accelerator": "cpu"}


def small_data(tree: Path, **options: Any) -> AnimalsDataModule:
    return AnimalsDataModule(str(tree), **{"size": 16, "batch_size": 16, "num_workers": 0, **options})


# ---------------------------------------------------------------- a script


@pytest.fixture(scope="module")
def script(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """The variables of the script, and the working directory that it was run in."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("script")
        patch.chdir(folder)
        (folder / "images").symlink_to(tiny_tree)
        yield SimpleNamespace(folder=folder, **runpy.run_path(str(SCRIPT)))


def test_the_script_is_short():
    lines = SCRIPT.read_text().splitlines()
    assert len([line for line in lines[1:] if line]) <= 15


def test_the_script_s_run_has_the_files_of_the_command_line(script):
    assert names_in(script.folder / "checkpoints" / "mine") == ["version_0"]
    assert sorted(set(names_in(script.run.folder))) == sorted([*FILES, "evaluation"])  # the script tests the model
    assert script.run.folder == script.folder / "checkpoints" / "mine" / "version_0"


def test_the_script_resumes_in_the_same_folder(script):
    assert [row["epoch"] for row in script.run.metrics] == [0, 1, 2]
    assert script.run.metrics == read_metrics(script.run.folder / "metrics.csv")


def test_the_script_s_test_metrics_are_those_of_the_best_model(script):
    with (script.run.folder / "split.csv").open(newline="") as stream:
        paths = [f"images/{row['path']}" for row in csv.DictReader(stream) if row["split"] == "test"]
    labels = [Path(path).parent.name for path in paths]
    right = [found.label == label for found, label in zip(script.run.best.predict(paths), labels, strict=True)]
    assert script.metrics["acc/test"] == pytest.approx(np.mean(right))
    assert script.metrics.keys() == {"loss/test", "acc/test", "macro_recall/test", "macro_f1/test"}


def test_the_script_s_predictions_are_in_order_and_complete(script):
    folder = sorted(str(path) for path in Path("images/cane").iterdir())
    assert [found.path for found in script.predictions] == [*folder, "images/gatto/gatto_0.jpg"]
    for found in script.predictions:
        assert found.problem == ""
        assert found.top[0] == (found.label, found.probability)
        assert len(found.top) == 3
        assert 0.1 < found.probability <= 1


def test_a_model_loaded_from_its_file_predicts_the_same(script):
    assert [found.label for found in script.again] == [found.label for found in script.predictions[:-1]]
    expected = [found.probability for found in script.predictions[:-1]]
    assert [found.probability for found in script.again] == pytest.approx(expected, abs=1e-5)


def test_the_script_exports(script):
    assert (script.folder / "model.onnx").stat().st_size > 1000


def test_the_command_line_repeats_the_script_s_run(script):
    assert main(["fit", "--config", str(script.run.folder / "config.yaml"), "--name", "again"]) == 0
    repeated = read_metrics(script.folder / "checkpoints" / "again" / "version_0" / "metrics.csv")
    assert len(repeated) == 2  # the configuration is of the first fit, which had two epochs
    for row, expected in zip(repeated, script.run.metrics, strict=False):
        assert {**row, "seconds": 0} == pytest.approx({**expected, "seconds": 0}, rel=1e-6)


# ---------------------------------------------------------------- fit and Run


def test_the_configuration_keeps_every_option(tiny_tree, tmp_path):
    options = {"monitor": "acc/val", "save_top_k": 2, "cache_features": False}
    run = fit(
        AnimalClassifier(net="shallownet"),
        small_data(tiny_tree),
        **options,
        default_root_dir=str(tmp_path),
        max_epochs=1,
        limit_train_batches=1,
    )
    config = yaml.safe_load((run.folder / "config.yaml").read_text())
    assert {key: config[key] for key in options} == options
    assert config["data"]["root"] == str(tiny_tree)
    assert config["model"]["net"] == "shallownet"
    assert config["trainer"]["limit_train_batches"] == 1


def test_a_run_that_fails_at_its_start_leaves_no_folder(tiny_tree, tmp_path):
    model = AnimalClassifier(net="shallownet", weights="imagenet")
    with pytest.raises(UsageError, match=r"model\.weights='imagenet'"):
        fit(model, small_data(tiny_tree), default_root_dir=str(tmp_path), max_epochs=1)
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_files_says_so(tiny_tree, tmp_path):
    run = fit(
        AnimalClassifier(net="shallownet"), small_data(tiny_tree), default_root_dir=str(tmp_path), fast_dev_run=True
    )
    assert isinstance(run, Run)
    with pytest.raises(UsageError, match="fast_dev_run leaves no files"):
        run.best_path  # noqa: B018
    assert list(tmp_path.iterdir()) == []


def test_resuming_with_another_model_is_refused(script):
    model = AnimalClassifier(net="shallownet", class_weights="balanced", lr=0.1)
    with pytest.raises(UsageError, match=r"model\.lr=0\.1 contradicts the checkpoint"):
        fit(model, script.data, ckpt_path=script.run.last_path, max_epochs=4)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Weights of a tiny timm model."""
    torch.manual_seed(8)
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet", num_classes=0).state_dict(), file)
    return str(file)


class StartingWeights(L.Callback):
    """Keeps the net's state at the start of every training."""

    def __init__(self) -> None:
        self.states: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.states.append({name: value.clone() for name, value in pl_module.net.state_dict().items()})


@pytest.mark.parametrize("way", ["fit", "Trainer.fit"])
def test_a_second_fit_continues_from_what_was_learned(tiny_tree, tmp_path, weights, way):
    model, data = AnimalClassifier(net="test_resnet", weights=weights), small_data(tiny_tree, size=32)
    starts = StartingWeights()
    options = {"max_epochs": 1, "limit_train_batches": 1, "limit_val_batches": 1, "default_root_dir": str(tmp_path)}
    learned = {}
    for _ in range(2):
        if way == "fit":
            fit(model, data, callbacks=[starts], **options)
        else:
            L.Trainer(**options, **QUIET, logger=False, callbacks=[starts]).fit(model, datamodule=data)
        learned = learned or {name: value.clone() for name, value in model.net.state_dict().items()}
    assert any(not torch.equal(value, learned[name]) for name, value in starts.states[0].items())
    assert all(torch.equal(value, learned[name]) for name, value in starts.states[1].items())


# ---------------------------------------------------------------- Lightning's own Trainer


def test_a_plain_trainer_writes_into_its_own_folder_only(tiny_tree, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    trainer = L.Trainer(default_root_dir=tmp_path / "there", max_epochs=1, **QUIET)
    trainer.fit(AnimalClassifier(net="shallownet"), datamodule=small_data(tiny_tree))
    assert list(here.iterdir()) == []
    checkpoint = trainer.checkpoint_callback.best_model_path
    assert Path(checkpoint).is_relative_to(tmp_path / "there")
    (found,) = load_model(checkpoint).predict([tiny_tree / "cane" / "cane_0.jpg"])
    assert found.label in trainer.lightning_module.class_names


def plain_loader() -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (12, 3, 16, 16), generator=generator, dtype=torch.uint8)
    return DataLoader([(image, index % 2) for index, image in enumerate(images)], batch_size=4)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint that was trained with plain dataloaders."""
    folder = tmp_path_factory.mktemp("plain")
    model = AnimalClassifier(net="shallownet")
    model.set_data(DataInfo(class_names=("dog", "cat"), class_counts=(6, 6), size=16))
    trainer = L.Trainer(default_root_dir=folder, max_epochs=1, logger=False, **QUIET)
    trainer.fit(model, plain_loader(), plain_loader())
    assert {"loss/train", "loss/val", "acc/val"} <= trainer.callback_metrics.keys()
    return Path(trainer.checkpoint_callback.best_model_path)


def test_plain_dataloaders_train_once_the_model_knows_the_data(plain, tiny_tree):
    model = load_model(plain, resize=Resize("crop", crop_pct=0.875))
    assert (model.class_names, model.size, model.resize.crop_pct) == (["dog", "cat"], 16, 0.875)
    (found,) = model.predict([tiny_tree / "cane" / "cane_0.jpg"])
    assert sum(probability for _, probability in found.top) == pytest.approx(1)


def test_a_model_of_plain_dataloaders_needs_its_preprocessing(plain):
    with pytest.raises(UsageError, match=r"trained with plain dataloaders.*resize=Resize"):
        load_model(plain)


def test_plain_dataloaders_without_facts_are_refused(tmp_path):
    trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=1, logger=False, **QUIET)
    with pytest.raises(UsageError, match=r"model\.set_data\(DataInfo\("):
        trainer.fit(AnimalClassifier(net="shallownet"), plain_loader(), plain_loader())


def test_data_with_other_classes_than_the_model_s_is_refused(tiny_tree, tmp_path):
    model = AnimalClassifier(net="shallownet")
    model.set_data(DataInfo(class_names=("dog", "cat"), class_counts=(6, 6), size=16))
    trainer = L.Trainer(default_root_dir=tmp_path, max_epochs=1, logger=False, **QUIET)
    with pytest.raises(UsageError):
        trainer.fit(model, datamodule=small_data(tiny_tree))


def test_a_progress_bar_of_the_user_replaces_ours(tiny_tree, tmp_path):
    bar = TQDMProgressBar()
    run = fit(
        AnimalClassifier(net="shallownet"),
        small_data(tiny_tree),
        max_epochs=1,
        default_root_dir=str(tmp_path),
        accelerator="cpu",
        callbacks=[bar],
    )
    assert run.trainer.progress_bar_callback is bar


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/abs"])
def test_a_name_that_is_no_folder_name_is_refused(tiny_tree, tmp_path, name):
    with pytest.raises(UsageError, match="is not the name of a folder"):
        fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), name=name, default_root_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ((AnimalClassifier(net="shallownet"), "images"), r"data='images' is not a datamodule\. Pass AnimalsDataModule"),
        (("shallownet", AnimalsDataModule()), r"model='shallownet' is not a model\. Pass AnimalClassifier"),
    ],
)
def test_other_things_than_a_model_and_data_are_refused(tmp_path, arguments, reason):
    with pytest.raises(UsageError, match=reason):
        fit(*arguments, default_root_dir=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_checkpoints_do_not_pass_through_the_folder_for_temporary_files(tiny_tree, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "absent"))
    options = {"max_epochs": 1, "default_root_dir": str(tmp_path / "runs")}
    assert fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), **options).best_path.exists()


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_one(tmp_path):
    file = tmp_path / "best.ckpt"
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, file)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(
            UsageError,
            match=r"cannot write '.*best\.ckpt' \(File too large\), .* MB needed; an earlier file .* Free disk space "
            "and start again",
        ):
            AtomicCheckpointIO().save_checkpoint({"epoch": 2, "weights": torch.zeros(10_000)}, file)
        with pytest.raises(UsageError, match=r"cannot write '.*new\.ckpt' \(File too large\), .* MB needed\. Free"):
            AtomicCheckpointIO().save_checkpoint({"weights": torch.zeros(10_000)}, tmp_path / "new.ckpt")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert torch.load(file, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [file]


def test_a_full_disk_is_named(tiny_tree, tmp_path, monkeypatch):
    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("animals_pl.training.callbacks.epoch_table.write_metrics", full)
    with pytest.raises(
        UsageError,
        match=r"cannot write below '.*version_0' \(No space .*\)\. Free .* and resume with --ckpt_path .*last\.ckpt",
    ):
        options = {"max_epochs": 1, "default_root_dir": str(tmp_path)}
        fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), **options)


def test_a_run_without_validation_says_that_it_has_no_best_epoch(tiny_tree, tmp_path, capsys):
    options = {"max_epochs": 1, "limit_val_batches": 0, "default_root_dir": str(tmp_path)}
    run = fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), **options)
    assert "no epoch was validated, so there is no best.ckpt" in capsys.readouterr().out
    assert run.last_path.exists()
    assert not run.best_path.exists()


def test_steps_alone_give_a_run_its_epochs(tiny_tree, tmp_path, capsys):
    """43 images in batches of 16 are 3 steps, so 7 steps are 3 epochs, the last of which is cut short."""
    model = AnimalClassifier(net="test_resnet", schedule="cosine")
    sizes = ProgressiveResizing([16, 24, 32])
    data = small_data(tiny_tree, size=32, test_fraction=0.0)
    options = {"max_steps": 7, "accelerator": "cpu", "default_root_dir": str(tmp_path)}
    run = fit(model, data, callbacks=sizes, **options)
    assert [row["image_size"] for row in run.metrics] == [16, 24, 32]
    assert [row["lr"] for row in run.metrics] == pytest.approx([0.001, 0.00075, 0.00025], rel=0.01)
    assert all("loss/val" in row for row in run.metrics)
    output = capsys.readouterr().out
    assert "3 epochs (7 steps)" in output
    assert "stopped after 1 of 3 batches of epoch 3: trainer.max_steps=7 was reached." in output


@pytest.mark.parametrize(
    ("limits", "epochs"),
    [
        ({"min_epochs": 2}, 2),
        ({"min_steps": 7}, 3),  # 43 images in batches of 16 are 3 steps
        ({"min_epochs": 2, "min_steps": 7}, 3),
        ({"min_epochs": 4, "min_steps": 7}, 4),
        ({"min_epochs": 4, "min_steps": 70, "max_epochs": 1}, 1),
        ({"min_epochs": 4, "min_steps": 70, "max_steps": 4}, 2),
        ({"min_epochs": 4, "max_time": {"microseconds": 1}}, 1),
        ({"min_epochs": 4, "max_epochs": -1, "max_steps": 3}, 1),
    ],
)
def test_a_minimum_is_the_length_of_a_run_without_a_maximum(tiny_tree, tmp_path, capsys, limits, epochs):
    model, data = AnimalClassifier(net="shallownet", schedule="constant"), small_data(tiny_tree, test_fraction=0.0)
    run = fit(model, data, accelerator="cpu", default_root_dir=str(tmp_path), **limits)
    assert len(run.metrics) == epochs
    output = capsys.readouterr()
    assert "has not been met" not in output.err
    if len(limits.keys() - {"min_epochs", "min_steps"}) == 0:
        assert f"training    {epochs} epochs" in output.out


def test_early_stopping_may_end_a_run_before_its_minimum(tiny_tree, tmp_path):
    stop = EarlyStopping("loss/val", patience=1)
    options = {"min_epochs": 9, "min_steps": 90, "default_root_dir": str(tmp_path), "accelerator": "cpu"}
    run = fit(AnimalClassifier(net="shallownet", lr=0.0), small_data(tiny_tree), callbacks=stop, **options)
    assert len(run.metrics) == 2


def test_a_minimum_of_zero_is_refused(tiny_tree, tmp_path):
    with pytest.raises(UsageError, match=r"trainer\.min_steps=0 is out of range"):
        fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), min_steps=0, default_root_dir=str(tmp_path))


def test_a_run_without_a_length_has_no_progressive_sizes(tiny_tree, tmp_path):
    options = {"max_epochs": -1, "max_time": "00:00:10:00", "default_root_dir": str(tmp_path)}
    with pytest.raises(UsageError, match="ProgressiveResizing needs a fixed number of epochs"):
        fit(
            AnimalClassifier(net="test_resnet"),
            small_data(tiny_tree),
            callbacks=ProgressiveResizing([16, 32]),
            **options,
        )


def test_time_that_is_used_up_is_said(tiny_tree, tmp_path, capsys):
    options = {"max_epochs": 9, "max_time": {"microseconds": 1}, "default_root_dir": str(tmp_path)}
    run = fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), **options)
    assert "stopped after 1 of 3 batches of epoch 1: trainer.max_time was reached." in capsys.readouterr().out
    with pytest.raises(UsageError, match=r"trainer\.max_time is used up: .* Raise trainer\.max_time"):
        fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), ckpt_path=run.last_path, **options)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's"),
    ],
)
def test_exhausted_shared_memory_is_named(error):
    with pytest.raises(UsageError, match=r"Set data\.num_workers=0, or enlarge /dev/shm"), quiet():
        raise error


@pytest.mark.parametrize(
    "error", [RuntimeError("mat1 and mat2 shapes cannot be multiplied"), ValueError(), OSError(28, "")]
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)) as raised, quiet():
        raise error
    assert raised.value is error


def test_a_model_is_trained_at_one_size(tiny_tree):
    model = AnimalClassifier(net="shallownet")
    model.set_data(DataInfo(class_names=("dog", "cat"), class_counts=(6, 6), size=16))
    with pytest.raises(UsageError, match=r"data\.size=24, but the model was made for 16 px"):
        model.set_data(DataInfo(class_names=("dog", "cat"), class_counts=(6, 6), size=24))


def test_one_class_is_refused(make_tree, tmp_path):
    data = small_data(make_tree("one", {"cane": 6}))
    with pytest.raises(UsageError, match=r"has a single class \('cane'\)"):
        fit(AnimalClassifier(net="shallownet"), data, default_root_dir=str(tmp_path / "runs"), max_epochs=1)
    assert not list((tmp_path / "runs").glob("*"))


def test_resuming_with_other_data_is_refused(make_tree, tmp_path):
    options = {"default_root_dir": str(tmp_path / "runs"), "accelerator": "cpu"}
    tree = make_tree("first", {"cane": 6, "gatto": 6})
    run = fit(AnimalClassifier(net="shallownet"), small_data(tree), max_epochs=1, **options)
    again = {"ckpt_path": run.last_path, "max_epochs": 2, **options}
    with pytest.raises(UsageError, match=r"data\.size=24 contradicts the checkpoint"):
        fit(AnimalClassifier(net="shallownet"), small_data(tree, size=24), **again)
    with pytest.raises(UsageError):
        fit(AnimalClassifier(net="shallownet"), small_data(make_tree("second", {"mucca": 6, "ragno": 6})), **again)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"callbacks": "EarlyStopping"}, "callbacks='EarlyStopping' is not a callback. Pass an instance"),
        ({"callbacks": [3]}, "callbacks=3 is not a callback"),
        ({"monitor": "x"}, "monitor='x' is invalid; expected one of 'loss/val'"),
        ({"save_top_k": None}, "save_top_k=null is invalid; expected int"),
        ({"max_epoch": 3}, "unknown argument 'max_epoch'. Did you mean 'max_epochs'?"),
        ({"max_time": {"hours": 0}}, "trainer.max_time={'hours': 0} is out of range"),
        ({"ckpt_path": 5}, "ckpt_path='5' is not a file"),
    ],
)
def test_fit_refuses_other_arguments(tiny_tree, tmp_path, arguments, reason):
    with pytest.raises(UsageError, match=re.escape(reason)):
        fit(AnimalClassifier(net="shallownet"), small_data(tiny_tree), default_root_dir=str(tmp_path), **arguments)
    assert list(tmp_path.iterdir()) == []


def test_evaluate_refuses_other_splits(script):
    with pytest.raises(UsageError, match="split='foo' is invalid; expected one of 'val', 'test'"):
        evaluate(script.run.model, script.data, "foo")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([Image.new("RGB", (8, 8))], "paths must be str or Path, not Image. Pass image files"),
        ([[np.zeros((8, 8, 3))]], "paths must be str or Path, not ndarray. Pass image files"),
        ([None], "paths must be str or Path, not NoneType"),
        ([5], "paths must be str or Path, not int"),
        (["images", {"top_k": 0}], "top_k=0 is out of range"),
        (["images", {"top_k": "3"}], "top_k='3' is invalid; expected int"),
        (["images", {"batch_size": 0}], "batch_size=0 is out of range"),
        (["images", {"num_workers": -1}], "num_workers=-1 is out of range"),
    ],
)
def test_predict_refuses_other_arguments(script, arguments, reason):
    (paths, options) = [*arguments, {}][:2]
    with pytest.raises(UsageError, match=reason):
        script.run.best.predict(paths, **options)


def test_files_are_paths(script, tmp_path):
    with pytest.raises(UsageError, match="ckpt_path='None' is not a file"):
        load_model(None)
    with pytest.raises(UsageError, match="output=None is not a path"):
        export(script.run.best_path, None)


def test_a_checkpoint_without_a_weight_is_refused(script, tmp_path):
    checkpoint = torch.load(script.run.last_path, weights_only=True)
    removed = next(iter(checkpoint["state_dict"]))
    del checkpoint["state_dict"][removed]
    file = tmp_path / "damaged.ckpt"
    torch.save(checkpoint, file)
    with pytest.raises(UsageError, match=f"{removed}.*is damaged; use another one"):
        load_model(file)


def test_a_run_is_not_shortened(script, tiny_tree, tmp_path):
    folder = shutil.copytree(script.run.folder, tmp_path / "version_0")
    data = AnimalsDataModule("images", size=16, batch_size=16, test_fraction=0.2, num_workers=0)
    model = AnimalClassifier(**{**script.run.model.hparams, "class_names": None, "input_size": None})
    with pytest.raises(UsageError, match=r"trainer\.max_epochs=2, but the run has completed 3 epochs\. Raise"):
        fit(model, data, ckpt_path=folder / "last.ckpt", max_epochs=2)


@pytest.mark.parametrize(
    ("hparams", "precision", "remedy"),
    [
        ({"optimizer_eps": None}, "32-true", "Lower model.lr (now 0.1), raise"),
        ({"optimizer_eps": 0.0}, "32-true", "Set model.optimizer_eps above 0, or to null."),
        ({"optimizer_eps": None}, "16-true", "Set trainer.precision=16-mixed: 16-true overflows."),
    ],
)
def test_what_diverges_is_named(hparams, precision, remedy):
    assert divergence_remedy({"lr": 0.1, **hparams}, precision).startswith(remedy)


def test_predict_takes_one_path_and_refuses_no_classes(script, tiny_tree):
    image = next(tiny_tree.rglob("*.jpg"))
    (prediction,) = script.run.best.predict(image, num_workers=0)
    assert prediction.path == str(image)
    with pytest.raises(UsageError, match="top_k=0"):
        script.run.best.predict([image], top_k=0)


def test_a_class_that_yaml_takes_for_a_number_stays_a_name(make_tree, tmp_path, capsys):
    tree = make_tree("tree", {"1e3": 6, "null": 6})
    run = fit(AnimalClassifier(net="shallownet"), small_data(tree), max_epochs=1, default_root_dir=str(tmp_path))
    assert main(["validate", "--ckpt_path", str(run.best_path)]) == 0
    assert "1e3" in capsys.readouterr().out
