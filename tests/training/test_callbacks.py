"""Callbacks: image sizes, seeds, TensorBoard, the table of epochs."""

from __future__ import annotations

import csv
from itertools import groupby
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ScalarEvent
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from animals_pl.cli import main
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.errors import UsageError
from animals_pl.training.callbacks import tensorboard
from animals_pl.training.callbacks.batch_seed import BatchSeed
from animals_pl.training.callbacks.epoch_table import EpochTable
from animals_pl.training.callbacks.progressive_resizing import ProgressiveResizing, size_at
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.metrics_csv import read_metrics

TRAIN, VAL = 43, 14
"""Images of the tiny tree's splits."""


def fit(tree: Path, root: Path, *args: object, size: int = 32, workers: int = 0, epochs: int = 3) -> Path:
    """Train test_resnet and return the run's folder."""
    data = ["--data.root", tree, "--data.size", size, "--data.num_workers", workers, "--data.batch_size", 16]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", epochs]
    assert main(["fit", *map(str, [*data, "--model.net", "test_resnet", *trainer, *args])]) == 0
    return root / "run" / "version_0"


def column(run: Path, key: str) -> list[float]:
    with (run / "metrics.csv").open(newline="") as stream:
        return [float(row[key]) for row in csv.DictReader(stream)]


# ---------------------------------------------------------------- ProgressiveResizing


class Seen:
    """The sides of the images that the net was given, by epoch."""

    def __init__(self) -> None:
        self.train: dict[int, set[int]] = {}
        self.val: dict[int, set[int]] = {}

    def stages(self) -> list[tuple[int, int]]:
        """Return (side, number of epochs) in the order of training."""
        sides = []
        for epoch in sorted(self.train):
            (side,) = self.train[epoch]
            sides.append(side)
        return [(side, len(list(group))) for side, group in groupby(sides)]


@pytest.fixture
def seen(monkeypatch) -> Seen:
    record = Seen()
    for sides, name in ((record.train, "training_step"), (record.val, "validation_step")):
        step = getattr(AnimalClassifier, name)

        def spy(self, batch, batch_idx, step=step, sides=sides):
            sides.setdefault(self.current_epoch, set()).add(batch[0].shape[-1])
            return step(self, batch, batch_idx)

        monkeypatch.setattr(AnimalClassifier, name, spy)
    return record


@pytest.mark.parametrize(
    ("sizes", "fractions", "stages", "workers"),
    [
        ([16, 24, 32], [0.5, 0.25, 0.25], [(16, 2), (24, 1), (32, 1)], 2),
        ([40, 24], None, [(40, 1), (24, 1)], 0),
    ],
    ids=["rising", "falling"],
)
def test_training_images_change_their_size(tiny_tree, tmp_path, seen, sizes, fractions, stages, workers):
    callback = ["--trainer.callbacks", "ProgressiveResizing", "--trainer.callbacks.sizes", sizes]
    if fractions:
        callback += ["--trainer.callbacks.fractions", fractions]
    run = fit(tiny_tree, tmp_path, *callback, workers=workers, epochs=sum(count for _, count in stages))
    assert seen.stages() == stages
    assert set().union(*seen.val.values()) == {32}
    assert [(int(size), len(list(group))) for size, group in groupby(column(run, "image_size"))] == stages


def test_size_is_constant_without_the_callback(tiny_tree, tmp_path, seen):
    run = fit(tiny_tree, tmp_path, epochs=2)
    assert seen.stages() == [(32, 2)]
    assert column(run, "image_size") == [32, 32]


def test_sizes_go_on_after_a_resume(tiny_tree, tmp_path, seen):
    callback = ["--trainer.callbacks+=ProgressiveResizing", "--trainer.callbacks.sizes=[16, 24, 32]"]
    run = fit(tiny_tree, tmp_path, *callback, "--trainer.max_steps", 3 * 3, epochs=6)
    assert seen.stages() == [(16, 2), (24, 1)]
    seen.train.clear()
    resume = ["--config", run / "config.yaml", "--ckpt_path", run / "last.ckpt", "--trainer.max_steps", -1]
    assert main(["fit", *map(str, resume)]) == 0
    assert {epoch: sides for epoch, sides in seen.train.items() if epoch > 2} == {3: {24}, 4: {32}, 5: {32}}
    assert column(run, "image_size") == [16, 16, 24, 24, 32, 32]


def test_gradual_unfreezing_by_its_short_name_in_a_configuration(tiny_tree, tmp_path):
    config = tmp_path / "config.yaml"
    callback = {"class_path": "GradualUnfreezing", "init_args": {"epochs": 1}}
    config.write_text(yaml.safe_dump({"trainer": {"callbacks": [callback]}}))
    run = fit(tiny_tree, tmp_path, "--config", config, epochs=1)
    kept = yaml.safe_load((run / "config.yaml").read_text())["trainer"]["callbacks"]
    assert kept[0]["class_path"].endswith("GradualUnfreezing")
    state = torch.load(run / "last.ckpt", weights_only=True)["optimizer_states"][0]["state"]
    assert len(state) == 2  # only the head's weight and bias


def plain_fit(tree: Path, *callbacks: L.Callback, ckpt_path: Path | None = None, workers: int = 0) -> None:
    trainer = L.Trainer(
        default_root_dir=tree.parent,
        accelerator="cpu",
        max_epochs=4,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[ProgressiveResizing([16, 24]), *callbacks],
        use_distributed_sampler=False,
        enable_checkpointing=bool(callbacks),
    )
    data = AnimalsDataModule(root=str(tree), size=32, batch_size=16, num_workers=workers)
    trainer.fit(AnimalClassifier(net="test_resnet"), data, ckpt_path=ckpt_path, weights_only=True)


def test_sizes_go_on_after_a_resume_within_an_epoch(tiny_tree, tmp_path, seen):
    plain_fit(tiny_tree, ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=4, save_top_k=-1))
    expected = dict(seen.train)
    assert expected == {0: {16}, 1: {16}, 2: {24}, 3: {24}}
    for step, first, workers in ((4, 1, 2), (8, 2, 0)):  # three batches an epoch: after its first and after its second
        seen.train.clear()
        plain_fit(tiny_tree, ckpt_path=tmp_path / f"step={step}.ckpt", workers=workers)
        assert seen.train == {epoch: sides for epoch, sides in expected.items() if epoch >= first}


@pytest.mark.parametrize("net", ["shallownet", "lenet", "minivggnet", "test_vit"])
def test_a_net_of_one_size_is_refused(tiny_tree, tmp_path, capsys, net):
    callback = ["--trainer.callbacks", "ProgressiveResizing", "--trainer.callbacks.sizes", "[16, 32]"]
    data = ["--data.root", str(tiny_tree), "--data.size", "32", "--data.num_workers", "0"]
    trainer = ["--trainer.max_epochs", "2", "--trainer.default_root_dir", str(tmp_path)]
    assert main(["fit", "--model.net", net, *data, *trainer, *callback]) == 2
    assert f"model.net='{net}' takes images of one size only" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("sizes", "fractions"),
    [
        ([], None),
        ([16, 0], None),
        ([16, 24], [1.0]),
        ([16, 24], [0.5, 0.4]),
        ([16, 24], [1.2, -0.2]),
        ([16, 24], [1.0, 0.0]),
    ],
)
def test_lists_that_do_not_fit_are_refused(sizes, fractions):
    with pytest.raises(UsageError, match=r"ProgressiveResizing: .*fractions="):
        ProgressiveResizing(sizes, fractions)


STAGES = st.lists(st.tuples(st.integers(8, 512), st.floats(0.01, 1)), min_size=1, max_size=6, unique_by=lambda s: s[0])


@settings(deadline=None)
@given(stages=STAGES, epochs=st.integers(1, 200))
def test_every_stage_gets_its_share_of_the_epochs(stages, epochs):
    sizes = [size for size, _ in stages]
    total = sum(weight for _, weight in stages)
    fractions = [weight / total for _, weight in stages]
    schedule = [size_at(epoch, epochs, sizes, fractions) for epoch in range(epochs)]
    order = [sizes.index(size) for size in schedule]
    assert order == sorted(order)
    for size, fraction in zip(sizes, fractions, strict=True):
        assert abs(schedule.count(size) - epochs * fraction) <= 1 + 1e-6
    assert {size_at(epochs + later, epochs, sizes, fractions) for later in (0, 1, 1000)} == {sizes[-1]}


# ---------------------------------------------------------------- BatchSeed


def mask(seed: int = 1, rank: int = 0, epoch: int = 0, batch: int = 0) -> tuple[bool, ...]:
    """Return a dropout mask of a batch."""
    trainer = SimpleNamespace(global_rank=rank, current_epoch=epoch)
    BatchSeed(seed).on_train_batch_start(trainer, None, None, batch)
    return tuple((torch.nn.functional.dropout(torch.ones(64), 0.5) > 0).tolist())


def test_dropout_depends_on_the_batch_and_on_nothing_before_it():
    expected = mask(epoch=3, batch=2)
    torch.manual_seed(99)
    torch.rand(7)
    assert mask(epoch=3, batch=2) == expected


def test_every_batch_has_its_own_dropout():
    keys = [
        (seed, rank, epoch, batch) for seed in (0, 1) for rank in (0, 1) for epoch in range(5) for batch in range(5)
    ]
    assert len({mask(*key) for key in keys}) == len(keys)


# ---------------------------------------------------------------- TensorBoard


@pytest.fixture(scope="module")
def board(tiny_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, EventAccumulator]:
    """A run of seven epochs and what TensorBoard finds in it."""
    run = fit(tiny_tree, tmp_path_factory.mktemp("board"), "--model.lr", 0.0123, epochs=7)
    return run, events_of(run)


def events_of(run: Path) -> EventAccumulator:
    events = EventAccumulator(str(run), size_guidance={"images": 0, "scalars": 0})
    events.Reload()
    return events


def scalars_of(run: Path, tag: str) -> list[ScalarEvent]:
    return events_of(run).Scalars(tag)


def picture(events: EventAccumulator, tag: str, index: int, folder: Path) -> np.ndarray:
    file = folder / "picture.png"
    file.write_bytes(events.Images(tag)[index].encoded_image_string)
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def test_training_images_are_shown_in_rows_of_eight(board, tmp_path):
    _, events = board
    shown = events.Images("training images")
    assert shown[0].step == 1
    # 16 of 32 pixels, in rows of eight, with 2 pixels between them
    assert (shown[0].width, shown[0].height) == (8 * 34 + 2, 2 * 34 + 2)


@pytest.mark.parametrize(
    ("share", "grids", "matrices"), [(1e-9, [1], [3]), (1e9, [1, 2, 3], [2, 3])], ids=["too slow", "quick"]
)
def test_pictures_are_drawn_as_often_as_their_time_allows(tiny_tree, tmp_path, monkeypatch, share, grids, matrices):
    monkeypatch.setattr(tensorboard, "MAX_SHARE", share)
    events = events_of(fit(tiny_tree, tmp_path, epochs=3))
    assert [image.step for image in events.Images("training images")] == grids
    assert [image.step for image in events.Images("confusion matrix/val")] == matrices
    assert picture(events, "confusion matrix/val", 0, tmp_path).std() > 0
    if len(grids) > 1:
        assert not np.array_equal(*(picture(events, "training images", index, tmp_path) for index in (0, 1)))


def test_scalars_are_the_table_s(board):
    run, events = board
    expected = {f"{name}/{split}" for name in ("loss", "acc", "macro_recall", "macro_f1") for split in ("train", "val")}
    expected |= {"lr", "image_size"}
    assert expected <= set(events.Tags()["scalars"])
    for tag in expected:
        scalars = events.Scalars(tag)
        assert [scalar.value for scalar in scalars] == pytest.approx(column(run, tag)), tag
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4, 5, 6, 7], tag


def test_training_and_validation_share_a_chart(board):
    _, events = board
    content = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0]
    (category,) = Layout.FromString(content).category
    charts = {chart.title: list(chart.multiline.tag) for chart in category.chart}
    metrics = {"loss": "loss", "accuracy": "acc", "macro recall": "macro_recall", "macro F1": "macro_f1"}
    assert charts == {title: [f"{metric}/train", f"{metric}/val"] for title, metric in metrics.items()}
    assert {tag for tags in charts.values() for tag in tags} <= set(events.Tags()["scalars"])


def test_runs_with_other_batch_sizes_have_the_same_steps(tiny_tree, tmp_path):
    for size in (4, 40):
        run = fit(tiny_tree, tmp_path / str(size), "--data.batch_size", size, epochs=2)
        assert [scalar.step for scalar in scalars_of(run, "loss/val")] == [1, 2]


@pytest.mark.parametrize("name", ["best", "last"])
def test_a_resumed_run_has_one_curve(tiny_tree, tmp_path, name):
    """The best epoch by macro recall is an early one, which is resumed while later ones are on the board."""
    own = ["--trainer.callbacks", "LearningRateMonitor", "--model.lr", 0.02]
    run = fit(tiny_tree, tmp_path, "--monitor", "macro_recall/val", *own, epochs=4)
    resume = ["--config", run / "config.yaml", "--ckpt_path", run / f"{name}.ckpt", "--trainer.max_epochs", 5]
    assert main(["fit", *map(str, resume)]) == 0
    for tag in ("loss/train", "loss/val", "acc/val", "lr", "macro_f1/train"):
        scalars = scalars_of(run, tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3, 4, 5], tag
        assert [scalar.value for scalar in scalars] == pytest.approx(column(run, tag)), tag


def test_hyper_parameters_stand_beside_the_best_metrics(board):
    run, events = board
    plugin = events.summary_metadata["_hparams_/session_start_info"].plugin_data
    started = HParamsPluginData.FromString(plugin.content).session_start_info.hparams
    assert started["lr"].number_value == 0.0123
    assert started["net"].string_value == "test_resnet"
    assert started["batch_size"].number_value == 16
    losses = column(run, "loss/val")
    best = losses.index(min(losses))
    for key in ("loss", "acc", "macro_recall", "macro_f1"):
        (scalar,) = events.Scalars(f"best/{key}")
        assert scalar.value == pytest.approx(column(run, f"{key}/val")[best]), key


# ---------------------------------------------------------------- EpochTable


@pytest.fixture
def table_at(tmp_path):
    return lambda: EpochTable(tmp_path)


def train_epoch(table: EpochTable, epoch: int, loss: float, validated: bool = True) -> SimpleNamespace:
    """Call the hooks of an epoch as Lightning does, and return the trainer that stood in for it."""
    trainer = SimpleNamespace(
        callback_metrics={}, is_global_zero=True, current_epoch=epoch, max_epochs=5, loggers=[], checkpoint_callbacks=[]
    )
    table.on_train_epoch_start(trainer, None)
    trainer.callback_metrics = {"loss/val": torch.tensor(loss + 1, dtype=torch.float64)}
    if validated:
        table.on_validation_end(trainer, None)
    table.on_train_epoch_end(trainer, None)
    # Modules log after the callbacks' hooks; "loss" is the progress bar's.
    metrics = {"lr": 0.1, "loss/val": loss + 1, "loss/train": loss, "loss": 7.0}
    trainer.callback_metrics = {key: torch.tensor(value, dtype=torch.float64) for key, value in metrics.items()}
    return trainer


def written(folder: Path) -> list[tuple[float, float]]:
    return [(row["epoch"], row["loss/train"]) for row in read_metrics(folder / "metrics.csv")]


def test_an_epoch_is_one_row_with_its_seconds(table_at, tmp_path):
    table = table_at()
    table.on_train_end(train_epoch(table, 0, 0.5), None)
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert row.pop("seconds") >= 0
    assert row == {"epoch": 0, "lr": 0.1, "loss/val": 1.5, "loss/train": 0.5}


def test_a_row_is_written_when_the_next_epoch_starts(table_at, tmp_path):
    table = table_at()
    trainer = train_epoch(table, 0, 0.5)
    assert written(tmp_path) == []
    table.on_train_epoch_start(trainer, None)
    assert written(tmp_path) == [(0, 0.5)]


def test_an_epoch_without_validation_has_no_validation_metrics(table_at, tmp_path):
    """``callback_metrics`` still has those of the epoch before."""
    table = table_at()
    table.on_train_end(train_epoch(table, 0, 0.5, validated=False), None)
    (row,) = read_metrics(tmp_path / "metrics.csv")
    assert row.keys() == {"epoch", "lr", "loss/train", "seconds"}


def test_a_resumed_table_keeps_earlier_rows_and_drops_later_ones(table_at, tmp_path):
    first = table_at()
    for epoch in range(4):
        trainer = train_epoch(first, epoch, epoch / 10)
        first.on_train_epoch_start(trainer, None)
    resumed = table_at()
    resumed.on_train_end(train_epoch(resumed, 2, 9.0), None)
    assert written(tmp_path) == [(0, 0.0), (1, 0.1), (2, 9.0)]


def test_an_incomplete_epoch_has_no_row(table_at, tmp_path):
    table = table_at()
    trainer = train_epoch(table, 0, 0.5)
    table.on_train_epoch_start(trainer, None)
    table.on_validation_end(trainer, None)
    table.on_exception(trainer, None, KeyboardInterrupt())
    assert written(tmp_path) == [(0, 0.5)]


def test_an_interrupted_run_keeps_its_last_complete_epoch(table_at, tmp_path):
    table = table_at()
    table.on_exception(train_epoch(table, 0, 0.5), None, KeyboardInterrupt())
    assert written(tmp_path) == [(0, 0.5)]


def test_other_processes_write_nothing(table_at, tmp_path):
    table = table_at()
    trainer = train_epoch(table, 0, 0.5)
    trainer.is_global_zero = False
    table.on_train_end(trainer, None)
    assert list(tmp_path.iterdir()) == []


def test_the_table_is_written_completely_or_not_at_all(table_at, tmp_path, monkeypatch):
    table = table_at()
    table.on_train_epoch_start(train_epoch(table, 0, 0.5), None)
    before = (tmp_path / "metrics.csv").read_bytes()
    trainer = train_epoch(table, 1, 0.4)

    def fail(self, rows):
        raise OSError("no space left on device")

    monkeypatch.setattr(csv.DictWriter, "writerows", fail)
    with pytest.raises(OSError, match="no space"):
        table.on_train_end(trainer, None)
    assert (tmp_path / "metrics.csv").read_bytes() == before


def test_curves_are_drawn_at_the_end(table_at, tmp_path):
    table = table_at()
    table.on_train_end(train_epoch(table, 0, 0.5), None)
    with Image.open(tmp_path / "curves.png") as image:
        assert image.format == "PNG"
