"""What a GPU changes in a run, as far as a machine without one can tell; and a compiled net."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from animals_pl import lightning_cli
from animals_pl.cli import main
from animals_pl.training.callbacks.compilation import Compilation


def fit(tree: Path, root: Path, *args: object) -> str:
    """Train for one short epoch and return the run's folder."""
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
    assert lightning_cli._trains_on_gpu(accelerator) is expected


@pytest.mark.parametrize(
    ("options", "precision"), [([], "bf16-mixed"), (["--trainer.precision", "32-true"], "32-true")]
)
def test_the_precision_of_a_gpu_gives_way_to_one_s_own(tiny_tree, tmp_path, monkeypatch, capsys, options, precision):
    monkeypatch.setattr(lightning_cli, "_trains_on_gpu", lambda accelerator: True)
    fit(tiny_tree, tmp_path, *options)
    assert f"precision {precision}" in capsys.readouterr().out


def test_a_cpu_trains_in_float32(tiny_tree, tmp_path, capsys):
    fit(tiny_tree, tmp_path)
    assert "precision 32-true" in capsys.readouterr().out


def test_a_compiled_net_is_saved_as_any_other(tiny_tree, tmp_path, monkeypatch):
    plain = fit(tiny_tree, tmp_path / "plain")
    used = []
    start = Compilation.on_fit_start

    def note(self, trainer, pl_module):
        start(self, trainer, pl_module)
        used.append(pl_module.net._compiled_call_impl is not None)

    monkeypatch.setattr(Compilation, "on_fit_start", note)
    compile_in_place = torch.nn.Module.compile
    # Traced as always, but without the C++ compiler, which takes a minute.
    monkeypatch.setattr(torch.nn.Module, "compile", lambda net: compile_in_place(net, backend="eager"))
    compiled = fit(tiny_tree, tmp_path / "compiled", "--compile", "true")
    assert used == [True]
    ours, theirs = (torch.load(f"{run}/last.ckpt", weights_only=True)["state_dict"] for run in (compiled, plain))
    assert ours.keys() == theirs.keys()
    for key in ("net.head.1.bias", "net.normalize.mean"):
        torch.testing.assert_close(ours[key], theirs[key], atol=1e-3, rtol=1e-3)
