"""Precision on a GPU and on a CPU, and compiled nets."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from animals_pl.cli import main
from animals_pl.training import run as run_module
from animals_pl.training.callbacks.compilation import Compilation

pytestmark = pytest.mark.usefixtures("small_figures")


def fit(tree: Path, root: Path, *args: object) -> str:
    """Train for one short epoch and return the run's folder."""
    args = ("--trainer.limit_train_batches", 1, "--trainer.limit_val_batches", 1, *args)
    data = ["--data.root", tree, "--data.size", 32, "--data.num_workers", 0, "--data.batch_size", 16]
    trainer = ["--trainer.default_root_dir", root, "--trainer.accelerator", "cpu", "--trainer.max_epochs", 1]
    assert main(["fit", *map(str, [*data, "--model.net", "test_resnet", *trainer, *args])]) == 0
    return str(root / "run" / "version_0")


@pytest.mark.parametrize("accelerator", ["auto", "gpu", "cuda", "cpu", "mps"])
@pytest.mark.parametrize("available", [True, False])
@pytest.mark.parametrize("bfloat16", [True, False])
def test_bfloat16_is_for_gpus_that_have_it(monkeypatch, accelerator, available, bfloat16):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bfloat16)
    expected = available and bfloat16 and accelerator in ("auto", "gpu", "cuda")
    assert run_module.trains_in_bfloat16(accelerator) is expected


@pytest.mark.parametrize(
    ("options", "precision"), [([], "bf16-mixed"), (["--trainer.precision", "32-true"], "32-true")]
)
def test_a_gpu_trains_in_bfloat16_unless_told_otherwise(tiny_tree, tmp_path, monkeypatch, capsys, options, precision):
    monkeypatch.setattr(run_module, "trains_in_bfloat16", lambda accelerator: True)
    fit(tiny_tree, tmp_path, *options)
    assert f"precision {precision}" in capsys.readouterr().out


def test_a_cpu_trains_in_float32(tiny_tree, tmp_path, capsys):
    fit(tiny_tree, tmp_path)
    assert "precision 32-true" in capsys.readouterr().out


def test_a_compiled_net_is_saved_as_any_other(tiny_tree, tmp_path, monkeypatch):
    shallow = ["--model.net", "shallownet", "--trainer.limit_val_batches", 0]
    plain = fit(tiny_tree, tmp_path / "plain", *shallow)
    used = []
    start = Compilation.on_fit_start

    def note(self, trainer, pl_module):
        start(self, trainer, pl_module)
        used.append(pl_module.net._compiled_call_impl is not None)

    monkeypatch.setattr(Compilation, "on_fit_start", note)
    compile_in_place = torch.nn.Module.compile
    # Traced as always, but without the C++ compiler, which takes a minute.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile_in_place(net, backend="eager"))
    compiled = fit(tiny_tree, tmp_path / "compiled", "--compile", "true", *shallow)
    assert used == [True]
    ours, theirs = (torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"] for run in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-3, rtol=1e-3)


def test_compiling_a_backbone_whose_features_are_cached_is_refused(tiny_tree, tmp_path, capsys):
    data = ["--data.root", tiny_tree, "--data.size", 32, "--data.num_workers", 0]
    options = ["--model.net", "test_resnet", "--model.freeze", "true", "--compile", "true"]
    folder = ["--trainer.default_root_dir", tmp_path, "--trainer.accelerator", "cpu"]
    assert main(["fit", *map(str, [*data, *options, *folder])]) == 2
    assert "compile=true has no effect" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
