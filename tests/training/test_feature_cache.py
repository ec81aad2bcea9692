"""A frozen backbone sees each image once: the same results, and a file for the next run."""

from __future__ import annotations

import csv
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from PIL import Image

from animals_pl.cli import main
from animals_pl.data import dataset as dataset_file
from animals_pl.files import cache_dir
from animals_pl.training.callbacks import feature_cache
from animals_pl.training.callbacks.feature_cache import FeatureFile
from animals_pl.training.callbacks.tensorboard import TensorBoardImages
from animals_pl.training.classifier import AnimalClassifier

pytestmark = pytest.mark.usefixtures("small_figures")

RESIZING = "ProgressiveResizing"
TRAIN, VAL = 43, 14
"""Images of the tiny tree's splits."""
METRICS = [f"{name}/{split}" for name in ("loss", "acc", "macro_recall", "macro_f1") for split in ("train", "val")]
FROZEN = ["--model.freeze", "true", "--model.dropout", "0.5", "--model.lr", "0.01"]


def arguments(tree: Path, root: Path, *args: object, epochs: int = 3) -> list[str]:
    data = ["--data.root", tree, "--data.size", 32, "--data.num_workers", 0, "--data.batch_size", 16]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", epochs]
    return ["fit", *map(str, [*data, "--model.net", "test_resnet", *trainer, *args])]


def fit(tree: Path, root: Path, *args: object, epochs: int = 3) -> Path:
    """Train a head on test_resnet and return the run's folder."""
    assert main(arguments(tree, root, *args, epochs=epochs)) == 0
    return root / "run" / "version_0"


def column(run: Path, key: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [float(row[key]) for row in csv.DictReader(stream)]


def feature_files() -> list[Path]:
    return sorted((cache_dir() / "features").glob("*"))


def assert_same_training(ours: Path, theirs: Path) -> None:
    """Every epoch's metrics and the trained weights agree to float tolerance."""
    for name in METRICS:
        assert column(ours, name) == pytest.approx(column(theirs, name), abs=1e-5), name
    our_state, their_state = (torch.load(run / "last.ckpt", weights_only=True)["state_dict"] for run in (ours, theirs))
    assert our_state.keys() == their_state.keys()
    for key, value in our_state.items():
        torch.testing.assert_close(value, their_state[key], atol=1e-5, rtol=1e-5, msg=key)


@pytest.fixture
def decoded(monkeypatch) -> Counter[str]:
    """How often the main process has decoded each image for the net."""
    counts: Counter[str] = Counter()
    decode = dataset_file.decode

    def count(path, *args):
        counts[Path(path).name] += 1
        return decode(path, *args)

    monkeypatch.setattr(dataset_file, "decode", count)
    monkeypatch.setattr(TensorBoardImages, "on_train_batch_start", lambda *args: None)  # its grid decodes too
    return counts


@pytest.fixture(autouse=True)
def empty_cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def first(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run of one epoch, and the cache that it has left; to be read only."""
    folder = tmp_path_factory.mktemp("first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ANIMALS_PL_CACHE", str(folder / "cache"))
        return fit(tiny_tree, folder, *FROZEN, epochs=1), folder / "cache"


@pytest.fixture
def first_run(first: tuple[Path, Path], empty_cache: None, tmp_path: Path) -> Path:
    """That run, with a copy of its cache in use."""
    run, cache = first
    shutil.copytree(cache, tmp_path / "cache")
    return run


@pytest.fixture
def tree(tiny_tree, tmp_path) -> Path:
    """A tiny tree that a test may change."""
    return Path(shutil.copytree(tiny_tree, tmp_path / "tree"))


# ---------------------------------------------------------------- the same results, sooner


@pytest.mark.parametrize(("head", "tta"), [("linear", "none"), ("dense", "hflip")])
def test_cached_features_change_nothing(tiny_tree, tmp_path, head, tta):
    # Adam would blow the noise of gradients that are all but zero up to steps of its learning rate.
    options = [*FROZEN, "--model.head", head, "--model.class_weights", "balanced", "--model.optimizer", "sgd"]
    options += ["--model.tta", tta]
    cached = fit(tiny_tree, tmp_path / "cached", *options)
    plain = fit(tiny_tree, tmp_path / "plain", *options, "--cache_features", "false")
    assert_same_training(cached, plain)
    begun = column(cached, "loss/train")
    assert begun[-1] < begun[0]


def test_each_image_is_decoded_once(tiny_tree, tmp_path, decoded):
    fit(tiny_tree, tmp_path, *FROZEN)
    assert set(decoded) == {file.name for file in tiny_tree.rglob("*.jpg")}
    assert set(decoded.values()) == {1}


@pytest.mark.parametrize(
    ("options", "validations"),
    [
        (["--model.freeze", "false"], 2),
        ([*FROZEN, "--cache_features", "false"], 2),
        ([*FROZEN, "--data.augment", "light"], 1),
        ([*FROZEN, "--model.mixup", "0.2"], 1),
        ([*FROZEN, "--trainer.callbacks", RESIZING, "--trainer.callbacks.sizes", "[24, 32]"], 1),
        ([*FROZEN, "--trainer.callbacks", RESIZING, "--trainer.callbacks.sizes", "[24]"], 1),
    ],
    ids=["unfrozen", "off", "augmentation", "mixup", "sizes", "another size"],
)
def test_cache_stays_out_of_the_way(tiny_tree, tmp_path, decoded, options, validations):
    """Training images that change are decoded each epoch; those of validation change with the net only."""
    fit(tiny_tree, tmp_path, *options, epochs=2)
    assert sorted(decoded.values()) == sorted([2] * TRAIN + [validations] * VAL)


def test_cache_with_loader_processes(tiny_tree, tmp_path, monkeypatch):
    """Features are computed in the loaders' processes and served from this one."""
    runs = []
    for workers in (0, 2):
        monkeypatch.setenv("ANIMALS_PL_CACHE", str(tmp_path / f"cache_{workers}"))
        runs.append(fit(tiny_tree, tmp_path / str(workers), *FROZEN, "--data.num_workers", workers, epochs=2))
    for name in METRICS:
        assert column(runs[0], name) == column(runs[1], name)


# ---------------------------------------------------------------- the file


def test_next_run_reads_the_file(tiny_tree, tmp_path, decoded, capsys):
    first = fit(tiny_tree, tmp_path / "first", *FROZEN)
    said = capsys.readouterr().out
    (file,) = feature_files()
    assert f"train: {TRAIN} feature vectors ({TRAIN} new, " in said
    assert str(file) in said
    assert "MB" in said
    decoded.clear()
    second = fit(tiny_tree, tmp_path / "second", *FROZEN)
    assert not decoded
    assert f"train: {TRAIN} feature vectors (0 new), " in capsys.readouterr().out
    for name in METRICS:
        assert column(first, name) == column(second, name)


@pytest.mark.parametrize(
    "options",
    [["--model.head", "dense"], ["--data.seed", "7"], ["--data.val_fraction", "0.5"], ["--model.dropout", "0.1"]],
    ids=["head", "split", "fraction", "dropout"],
)
def test_file_serves_other_heads_and_splits(tiny_tree, tmp_path, first_run, decoded, options):
    fit(tiny_tree, tmp_path / "second", *FROZEN, *options, epochs=1)
    assert not decoded
    assert len(feature_files()) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--data.size", "24"],
        ["--data.resize", "crop"],
        ["--data.interpolation", "nearest"],
        ["--seed_everything", "7"],
        ["--model.net", "test_efficientnet"],
        ["--trainer.precision", "bf16-mixed"],
    ],
    ids=["size", "resize", "interpolation", "weights", "net", "precision"],
)
def test_file_is_another_one_where_features_are(tiny_tree, tmp_path, first_run, decoded, options):
    fit(tiny_tree, tmp_path / "second", *FROZEN, *options, epochs=1)
    assert set(decoded.values()) == {1}
    assert len(decoded) == TRAIN + VAL
    assert len(feature_files()) == 2


def test_changed_and_added_images_alone_are_computed(tree, tmp_path, first_run, decoded):
    changed, *_, model = sorted(tree.rglob("*.jpg"))
    Image.effect_noise((40, 30), 80).convert("RGB").save(changed)
    added = model.with_name("added.jpg")
    Image.effect_noise((30, 40), 60).convert("RGB").save(added)
    fit(tree, tmp_path / "second", *FROZEN, epochs=1)
    assert dict(decoded) == {changed.name: 1, "added.jpg": 1}


def test_damaged_file_counts_as_none(tiny_tree, tmp_path, first_run, decoded):
    (file,) = feature_files()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    second = fit(tiny_tree, tmp_path / "second", *FROZEN, epochs=1)
    assert len(decoded) == TRAIN + VAL
    assert column(first_run, "loss/val") == column(second, "loss/val")
    assert file.stat().st_size == len(whole)
    assert feature_files() == [file]  # nothing half-written beside it


def test_a_cache_that_cannot_be_written_stops_nothing(tiny_tree, tmp_path, first_run, monkeypatch):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "features").write_text("a file where the folder should be")
    monkeypatch.setenv("ANIMALS_PL_CACHE", str(blocked))
    with pytest.warns(UserWarning, match="Set ANIMALS_PL_CACHE to a writable folder"):
        lost = fit(tiny_tree, tmp_path / "lost", *FROZEN, epochs=1)
    assert column(first_run, "loss/val") == column(lost, "loss/val")


def test_an_interrupted_run_leaves_what_it_has_computed(tiny_tree, tmp_path, decoded, monkeypatch):
    monkeypatch.setitem(sys.modules, "openvino", None)  # it has some batches in flight, which are lost
    count = dataset_file.decode

    def interrupt(path, *args):
        if len(decoded) == 40:
            raise KeyboardInterrupt
        return count(path, *args)

    with monkeypatch.context() as patched:
        patched.setattr(dataset_file, "decode", interrupt)
        assert main(arguments(tiny_tree, tmp_path / "first", *FROZEN, epochs=1)) == 130
    decoded.clear()
    fit(tiny_tree, tmp_path / "second", *FROZEN, epochs=1)
    assert len(decoded) == TRAIN + VAL - 32  # two whole batches of 16


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--cache_features", "false"], "has no effect with cache_features=false"),
        (["--model.freeze", "false"], "has no effect: it is for the cached features of a frozen backbone"),
        (["--trainer.precision", "bf16-mixed"], "extract_precision=bf16 needs OpenVINO"),
    ],
)
def test_bf16_without_effect_is_refused(tiny_tree, tmp_path, capsys, options, reason):
    assert main(arguments(tiny_tree, tmp_path, *FROZEN, "--extract_precision", "bf16", *options)) == 2
    assert reason in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "small_head", "expected"),
    [([], feature_cache.SMALL_HEAD, 1), ([], 10, 3), (["--data.augment", "light"], feature_cache.SMALL_HEAD, 3)],
    ids=["small head", "large head", "with backbone"],
)
def test_small_heads_train_with_one_thread(tiny_tree, tmp_path, monkeypatch, options, small_head, expected):
    threads, step = [], AnimalClassifier.training_step
    monkeypatch.setattr(
        AnimalClassifier, "training_step", lambda *args: [threads.append(torch.get_num_threads()), step(*args)][1]
    )
    monkeypatch.setattr(feature_cache, "SMALL_HEAD", small_head)

    def interrupt(*args):
        raise KeyboardInterrupt

    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        fit(tiny_tree, tmp_path, *FROZEN, *options, epochs=1)
        assert set(threads) == {expected}
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(AnimalClassifier, "training_step", interrupt)
        assert main(arguments(tiny_tree, tmp_path / "interrupted", *FROZEN, *options)) == 130
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_file_grows(tmp_path):
    file = tmp_path / "features" / "one.safetensors"
    names = [bytes([number]) * 32 for number in range(5)]
    features = torch.arange(10.0).reshape(5, 2)
    for part in (slice(2), slice(2, None)):
        written = FeatureFile(file)
        written.add(names[part], features[part])
        written.save()
    read = FeatureFile(file)
    assert read.rows.keys() == set(names)
    assert torch.equal(read.take([names[4], names[0], names[4]]), features[[4, 0, 4]])
    assert str(read) == f"cached in {file}, {file.stat().st_size / 1e6:.1f} MB"
