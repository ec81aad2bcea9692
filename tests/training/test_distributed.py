"""Several processes train as one does: the same batches, losses and metrics, and one set of files and messages."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import timm
import torch
from image_trees import write_tree
from torch import nn

from animals_pl.models.sync_batchnorm import synchronize_batchnorm
from animals_pl.models.transfer import TransferNet
from animals_pl.training import processes

PROJECT = Path(__file__).parents[2]

EXACT = ["acc/train", "macro_recall/train", "acc/val", "macro_recall/val", "macro_f1/val"]
NETS = {
    "images": ["--model.net", "lenet"],
    "features": ["--model.net", "test_resnet", "--model.freeze", "true", "--model.dropout", "0"],
}
"""A net without BatchNorm that learns, and a frozen backbone, whose features are computed once."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """45 training and 19 validation images: of the last training batch of 5, one process has 3 and the other 2."""
    return write_tree(tmp_path_factory.mktemp("data") / "tree", {"cane": 30, "gatto": 20, "ragno": 14}, seed=3)


def arguments(tree: Path, net: str, batch_size: int, *args: str) -> list[str]:
    given = ["--data.root", str(tree), "--data.size", "32", "--data.batch_size", str(batch_size)]
    given += ["--data.num_workers", "0", "--data.sampling", "weighted_sqrt"]
    given += ["--model.optimizer", "sgd", "--model.lr", "0.05"]  # Adam magnifies rounding where gradients are tiny
    return ["fit", *given, *NETS[net], "--trainer.accelerator", "cpu", "--trainer.max_epochs", "2", *args]


def start(launcher: list[str], args: list[str], folder: Path) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(PROJECT), "ANIMALS_PL_CACHE": str(folder / "cache")}
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *args], cwd=folder, env=environment, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(program: subprocess.Popen[str]) -> str:
    output, errors = program.communicate(timeout=600)
    assert program.returncode == 0, errors
    return output


def epochs(folder: Path) -> list[dict[str, str]]:
    with (folder / "checkpoints" / "run" / "version_0" / "metrics.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def assert_same(ours: Path, theirs: Path) -> None:
    """Losses and weights agree to float tolerance, metrics exactly."""
    for mine, yours in zip(epochs(ours), epochs(theirs), strict=True):
        assert {key: mine[key] for key in EXACT} == {key: yours[key] for key in EXACT}
        for key in ("loss/train", "loss/val"):
            assert float(mine[key]) == pytest.approx(float(yours[key]), rel=1e-5)
    paths = (folder / "checkpoints" / "run" / "version_0" / "last.ckpt" for folder in (ours, theirs))
    mine, yours = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
    torch.testing.assert_close(mine, yours, rtol=1e-4, atol=1e-6)


def assert_one_set_of_files(folder: Path) -> None:
    assert [path.name for path in (folder / "checkpoints" / "run").iterdir()] == ["version_0"]
    run = folder / "checkpoints" / "run" / "version_0"
    assert len(list(run.glob("events.*"))) == 1
    assert sorted(path.name for path in run.glob("*.ckpt")) == ["best.ckpt", "last.ckpt"]


@pytest.fixture(scope="module")
def alone(tree, tmp_path_factory):
    """Net → folder of a run in one process, and what it printed."""
    found = {}
    for net in NETS:
        folder = tmp_path_factory.mktemp(net)
        found[net] = folder, finished(start(["animals_pl"], arguments(tree, net, 8), folder))
    return found


@pytest.mark.timeout(900)  # programs that import everything
@pytest.mark.parametrize("net", NETS)
def test_two_processes_train_as_one(tree, alone, tmp_path, net):
    args = arguments(tree, net, 4, "--trainer.devices", "2", "--trainer.strategy", "ddp")
    output = finished(start(["animals_pl"], args, tmp_path))
    folder, expected = alone[net]
    assert_same(tmp_path, folder)
    assert_one_set_of_files(tmp_path)
    lines, wanted = ([line.split()[0] for line in text.splitlines() if line.strip()] for text in (output, expected))
    assert lines == wanted  # each message once
    assert output.count("feature vectors") == (2 if net == "features" else 0)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_label_the_same_images_as_one(tree, tmp_path):
    # All 47 get a label: with 45 labelled images, 12 batches of 8, the last of 4.
    # Two processes would merge a last batch of 2 into the one before it.
    more = write_tree(tmp_path / "more", {"cane": 20, "gatto": 15, "ragno": 12}, seed=4)
    outputs = []
    for batch_size, devices in ((8, "1"), (4, "2")):
        args = arguments(tree, "features", batch_size, "--data.unlabelled", str(more), "--trainer.devices", devices)
        folder = tmp_path / devices
        outputs.append(finished(start(["animals_pl"], [*args, "--trainer.strategy", "ddp"], folder)))
    assert_same(tmp_path / "2", tmp_path / "1")
    assert_one_set_of_files(tmp_path / "2")
    files = [tmp_path / devices / "checkpoints" / "run" / "version_0" / "pseudo_labels.csv" for devices in "12"]
    assert files[0].read_bytes() == files[1].read_bytes()
    assert outputs[0].count("pseudo-labels: ") == outputs[1].count("pseudo-labels: ") == 1


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("net", NETS)
def test_two_nodes_train_as_one(tree, alone, tmp_path, net):
    """torchrun on two nodes, here over the loopback interface."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    args = arguments(tree, net, 4, "--trainer.devices", "1", "--trainer.num_nodes", "2", "--trainer.strategy", "ddp")
    rendezvous = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", str(port)]
    nodes = [
        start(["torch.distributed.run", *rendezvous, "--node_rank", str(rank), "-m", "animals_pl"], args, tmp_path)
        for rank in range(2)
    ]
    for node in nodes:
        finished(node)
    assert_same(tmp_path, alone[net][0])
    assert_one_set_of_files(tmp_path)


def test_one_process_exchanges_with_itself():
    assert processes.gather([3]) == [[3]]
    assert processes.share_of_batch(7, torch.device("cpu")) == 1.0


@pytest.mark.parametrize("name", ["test_efficientnet", "test_resnet"])
def test_synchronized_batchnorm_has_the_same_state_and_activations(name):
    net = TransferNet(name, num_classes=3, input_size=64)
    before = {key: value.clone() for key, value in net.state_dict().items()}
    activations = [type(m.act) for m in net.modules() if isinstance(m, timm.layers.BatchNormAct2d)]
    synchronize_batchnorm(net)
    torch.testing.assert_close(dict(net.state_dict()), before, rtol=0, atol=0)
    norms = [module for module in net.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert norms
    assert all(isinstance(module, nn.SyncBatchNorm) for module in norms)
    assert [type(m.act) for m in norms if hasattr(m, "act")] == activations


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_synchronized_batchnorm_evaluates_as_before():
    net = TransferNet("test_efficientnet", num_classes=3, input_size=64).cuda().eval()
    images = torch.randint(0, 256, (4, 3, 64, 64), dtype=torch.uint8, device="cuda")
    expected = net(images)
    synchronize_batchnorm(net)
    torch.testing.assert_close(net.eval()(images), expected)
