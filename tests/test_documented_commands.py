"""Commands and Python examples of the README and the pages are executed, one page after the other."""

from __future__ import annotations

import re
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm.models._builder as timm_builder
import torch
import yaml
from image_trees import write_tree, write_video
from test_docs import COMMANDS, PAGES, PROJECT, blocks
from torch.utils.data import DataLoader, TensorDataset

from animals_pl.cli import main
from animals_pl.data.catalog import ANIMALS10

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

WATCH = "runs until it is stopped; tests/deploy/watch stop it"

ELSEWHERE = {
    "prepare --source kaggle": "needs Kaggle; tests/data/sources run it against a local server",
    "prepare --source hf://datasets/OWNER/NAME": "needs the hub; tests/data/sources run it against a local server",
    "push $run OWNER/NAME": "needs the hub; tests/test_push.py runs it against a local server",
    "push $run OWNER/NAME --public true": "needs the hub; tests/test_push.py runs it against a local server",
    "classify hf://OWNER/NAME CARD --output card.csv": "needs the hub, as push does",
    "export $run/best.ckpt --format timm --tta none --output timm_folder": "the run here may have another head; "
    "tests/deploy/test_timm_folder.py runs it",
    "classify model.onnx - --output card.jsonl": "reads a list from a pipe, as tests/deploy/test_classify.py does",
    "classify model.onnx --detections CARD/md.json --output CARD/species.json": "needs a file of MegaDetector; "
    "tests/deploy/test_megadetector.py writes one",
    "watch model.onnx CARD --alert elephant,dog:0.9": WATCH,
    "watch model.onnx CARD --alert elephant --output alerts.jsonl --snapshots snapshots": WATCH,
    "watch model.onnx rtsp://user:password@192.0.2.7/stream2 --alert elephant --post https://example.org/alerts": WATCH,
    'watch model.onnx 0 --alert cat --run ["notify-send", "A cat"]': WATCH,
    "serve phone.onnx --static SITE": "needs npm and a network; tests/deploy/test_serve_static.py runs it",
    "export $run/best.ckpt --output phone.onnx --input image --weights int8 --golden practice": "may refuse a net that "
    "has learned nothing, as the one here; tests/deploy/test_int8.py runs it",
    "fit --config configs/mobilenetv3_small_best.yaml --trainer.num_nodes 2 --trainer.devices 4": "needs a cluster of "
    "GPUs; tests/training/test_distributed.py starts two nodes with torchrun",
    **dict.fromkeys(
        ["serve model.onnx", "serve model.onnx --host 0.0.0.0"],
        "runs until it is stopped; tests/deploy/test_serve_process.py starts and ends it",
    ),
    "prove-resume --config configs/quickstart.yaml --kills 25 -- --trainer.max_epochs 5": "takes minutes; "
    "tests/experiments/test_prove_resume.py runs it",
    "export $run/best.ckpt --output small.onnx --weights int8": "may refuse a net that has learned nothing, as the "
    "one here; tests/deploy/test_int8.py runs it",
    **dict.fromkeys(
        [
            "cross-validate configs/studies/scarce.yaml --root datasets/animals10/raw-img",
            "cross-validate configs/studies/head.yaml --root datasets/animals10/raw-img",
            "cross-validate configs/studies/head_hidden.yaml --root datasets/animals10/raw-img",
            "cross-validate configs/studies/refit.yaml --root datasets/animals10/raw-img",
            "cross-validate configs/studies/unlabelled.yaml --root datasets/animals10/raw-img",
        ],
        "needs hundreds of images per class; tests/experiments/test_scarce.py runs such a study",
    ),
}
"""Commands that are not executed here, and why."""

SHORT = {
    "fit": ["--trainer.max_epochs", "1", "--data.batch_size", "4", "--data.num_workers", "0"],
    "cross-validate": ["--folds", "2"],
    "search": ["--folds", "2", "--trials", "1"],
    "reproduce": ["--epochs", "1"],
}
"""Options that are added to a verb's commands. The images are few, and pretrained weights are not downloaded."""


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files that the pages name, in which a model was trained; no weights are downloaded."""
    folder = tmp_path_factory.mktemp("workspace") / "my an[i]mals [ü]"
    folder.mkdir()
    counts = dict.fromkeys(ANIMALS10, 12)
    for name in ("MY_IMAGES", "DIR", "datasets/animals10/raw-img"):
        write_tree(folder / name, counts)
    write_tree(folder / "OTHER_IMAGES", dict.fromkeys(ANIMALS10, 2), seed=1)
    write_tree(folder, {"IMAGES": 3, "FOLDER": 3, "CARD": 3, "animal": 1}, seed=2)
    for name in ("IMAGE", "a.jpg", "b.jpg", "photo.jpg"):
        shutil.copy(folder / "animal" / "animal_0.jpg", folder / name)
    with zipfile.ZipFile(folder / "archive.zip", "w") as archive:
        for file in (folder / "datasets" / "animals10").rglob("*.jpg"):
            archive.write(file, file.relative_to(folder / "datasets" / "animals10"))
    (folder / "Downloads").mkdir()
    shutil.move(folder / "archive.zip", folder / "Downloads")
    write_video(folder / "film.avi", [np.full((96, 128, 3), level, np.uint8) for level in range(0, 250, 10)])
    (folder / "exclude.csv").write_text("path\nMY_IMAGES/cane/cane_0.jpg\n")
    rows = [f"{name},{count}\n" for count, name in enumerate(ANIMALS10, 1)]
    (folder / "field.csv").write_text("class,frequency\n" + "".join(rows))
    (folder / "configs").symlink_to(PROJECT / "configs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HOME", str(folder))
        patch.setattr(timm_builder, "load_pretrained", lambda *args, **kwargs: None)
        yield folder


def documented_commands() -> list[list[str]]:
    """Every command once, evaluations each time. The README's come first: the other pages use its run."""
    found = [(" ".join(args), args) for page, args in COMMANDS if not page.endswith(".yaml")]
    first = {command: position for position, (command, _) in reversed([*enumerate(found)])}
    return [
        args
        for position, (command, args) in enumerate(found)
        if command not in ELSEWHERE and (first[command] == position or args[0] in {"validate", "test"})
    ]


def shortened(args: list[str]) -> list[str]:
    """The command with less to compute, and without files of weights."""
    verb = args[0]
    args = [arg.replace("~", ".").replace("$run", "checkpoints/my_animals/version_0") for arg in args]
    if "--weights" in args:
        position = args.index("--weights")
        del args[position : position + 2]
    if verb == "cross-validate" and "--only" not in args:
        variants = yaml.safe_load(Path(args[1]).read_text(encoding="utf-8"))["variants"]
        args += ["--only", str([next(iter(variants))])]
    if verb == "reproduce" and "shallownet" not in args:
        args.insert(1, "shallownet")
    return [*args, *SHORT.get(verb, [])]


def test_every_exception_is_a_documented_command():
    assert set(ELSEWHERE) <= {" ".join(args) for _, args in COMMANDS}


def test_documented_commands_run(workspace, small_figures, capsys):
    for args in map(shortened, documented_commands()):
        assert main(args) == 0, f"{' '.join(args)}\n{capsys.readouterr().err}"


def test_documented_python_runs(workspace, small_figures):
    images = torch.zeros(4, 3, 224, 224, dtype=torch.uint8)
    train_loader = val_loader = DataLoader(TensorDataset(images, torch.tensor([0, 1, 0, 1])), 2)
    for page in PAGES:
        names = {"train_loader": train_loader, "val_loader": val_loader}
        for block in blocks(page, "python"):
            exec(compile(re.sub(r"max_epochs=\d+", "max_epochs=1", block), page.name, "exec"), names)
