"""speed.json: what a finished run knows of its model's size and speed."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from animals_pl import AnimalClassifier, AnimalsDataModule, DataInfo, fit, load_model
from animals_pl.errors import UsageError
from animals_pl.training.callbacks import speed
from animals_pl.training.callbacks.speed import milliseconds_per_image
from animals_pl.training.cpu import cpu_name
from animals_pl.training.speed_json import Size, model_size, read_speed

pytestmark = pytest.mark.usefixtures("small_figures")


class StopAt(L.Callback):
    """Presses Ctrl-C when an epoch begins."""

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.current_epoch == self.epoch:
            raise KeyboardInterrupt


def train(tree: Path, root: Path, model: AnimalClassifier, epochs: int = 1, **kwargs: object) -> Path:
    data = AnimalsDataModule(str(tree), 32, batch_size=16, num_workers=0)
    options = {"max_epochs": epochs, "accelerator": "cpu", "enable_progress_bar": False}
    run = fit(model, data, default_root_dir=str(root), **options, **kwargs)
    assert run.folder is not None
    return run.folder


def built(net: str = "test_resnet", **hparams: object) -> AnimalClassifier:
    model = AnimalClassifier(net, **hparams)
    model.set_data(DataInfo(("a", "b", "c"), (3, 4, 5), 32))
    model.configure_model()
    return model


@pytest.mark.parametrize("freeze", [False, True], ids=["fine-tuned", "frozen"])
def test_a_finished_run_has_the_size_and_speed_of_its_model(tiny_tree, tmp_path, freeze):
    folder = train(tiny_tree, tmp_path, AnimalClassifier("test_resnet", freeze=freeze))
    found, net = read_speed(folder / "speed.json"), load_model(folder / "best.ckpt").net
    floats = [*net.parameters(), *(buffer for buffer in net.buffers() if buffer.is_floating_point())]
    assert found.size_mb == pytest.approx(sum(tensor.nbytes for tensor in floats) / 1e6)
    assert found.trainable == sum(p.numel() for p in net.parameters() if p.requires_grad)
    assert found.ms_per_image > 0
    assert (found.device, found.threads, found.precision) == (cpu_name(), 1, "32-true")
    assert found.conditions == f"{cpu_name()}, 1 thread, precision 32-true"


def test_an_interrupted_run_has_no_speed_until_it_is_finished(tiny_tree, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(tiny_tree, tmp_path, AnimalClassifier("shallownet"), 2, callbacks=StopAt(1))
    folder = tmp_path / "run" / "version_0"
    assert (folder / "last.ckpt").exists()
    assert not (folder / "speed.json").exists()
    train(tiny_tree, tmp_path, AnimalClassifier("shallownet"), 2, ckpt_path=folder / "last.ckpt")
    assert read_speed(folder / "speed.json").ms_per_image > 0


@pytest.mark.parametrize("training", [True, False])
def test_measuring_changes_nothing(training):
    model = built(freeze=True, dropout=0.5)
    model.train(training)
    model.val_metrics.update(torch.ones(2), torch.eye(3)[:2], torch.tensor([0, 1]))

    def state() -> tuple[object, ...]:
        modes = [module.training for module in model.modules()]
        tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        random_states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
        gradients = [parameter.requires_grad for parameter in model.parameters()]
        return modes, tensors, random_states, gradients, model.val_metrics.compute(), torch.is_grad_enabled()

    before = state()
    milliseconds_per_image(model)
    after = state()
    torch.testing.assert_close(after[1], before[1], rtol=0, atol=0)
    assert (after[0], *after[2:]) == (before[0], *before[2:])


@pytest.mark.parametrize(("tta", "passes"), [("none", 1), ("hflip", 2)])
def test_the_speed_is_that_of_predictions(monkeypatch, tta, passes):
    model, calls = built(tta=tta), []
    model.net.register_forward_hook(lambda net, inputs, logits: calls.append((inputs[0].shape, net.training)))
    monkeypatch.setattr(speed, "_median_ms", lambda run: run())
    milliseconds_per_image(model)
    assert calls == [((1, 3, 32, 32), False)] * passes


def test_a_compiled_net_is_not_compiled_again():
    model, compiled = built("shallownet"), []
    model.net.compile(backend=lambda graph, inputs: compiled.append(graph) or graph.forward)
    milliseconds_per_image(model)
    assert compiled == []
    model(torch.zeros(1, 3, 32, 32))
    assert compiled != []


@pytest.mark.parametrize(
    ("seconds", "passes", "median"),
    [([5, 3], 2, 3000), ([0.3, 0.2, 0.2, 0.2], 4, 200), ([9e-3] * 3 + [1e-3] * 10, 13, 1)],
    ids=["a slow net: one pass to warm up", "until the time is over", "a quick net"],
)
def test_the_median_of_the_passes_that_fit_in_the_time(monkeypatch, seconds, passes, median):
    clock, durations, done = [0.0], itertools.chain(seconds, itertools.repeat(100)), []

    def run() -> None:
        clock[0] += next(durations)
        done.append(clock[0])

    monkeypatch.setattr(speed.time, "perf_counter", lambda: clock[0])
    assert speed._median_ms(run) == pytest.approx(median)
    assert len(done) == passes


def test_other_tensors_than_the_net_s_and_whole_numbers_do_not_count():
    state = {
        "net.layer.weight": torch.zeros(10, 5),
        "net.norm.running_mean": torch.zeros(50, dtype=torch.float64),
        "net.norm.num_batches_tracked": torch.tensor(3),
        "val_metrics.sum": torch.zeros(99),
    }
    assert model_size(state, frozen=False) == Size(trainable=50, size_mb=400e-6)


@pytest.mark.parametrize("content", ["[1]", "{}", '{"size_mb": 1}', "", "text"])
def test_another_file_is_refused(tmp_path, content):
    (tmp_path / "speed.json").write_text(content)
    with pytest.raises(ValueError, match=r"not the speed of a run|Expecting value"):
        read_speed(tmp_path / "speed.json")


def test_a_wrong_type_is_refused(tmp_path):
    facts = {"trainable": 1, "size_mb": 2.0, "ms_per_image": "3", "device": "CPU", "threads": None, "precision": "32"}
    (tmp_path / "speed.json").write_text(json.dumps(facts))
    with pytest.raises(UsageError, match="ms_per_image='3' is invalid; expected float"):
        read_speed(tmp_path / "speed.json")
