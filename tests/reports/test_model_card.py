"""Model cards."""

from __future__ import annotations

import html
import json
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from image_trees import write_tree
from markdown_it import MarkdownIt

from animals_pl import AnimalClassifier, AnimalsDataModule, fit
from animals_pl.cli import main
from animals_pl.reports.model_card import markdown_text

ODD = ["a|b `c` <b>*d*<i>_e_", "[x](y) $z$ & ~~w~~", "cane", "ü: 'q' \"r\" # - !\\s"]
CPU = ["--trainer.accelerator", "cpu", "--data.num_workers", "0"]

pytestmark = pytest.mark.usefixtures("small_figures")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, small_figures: None) -> Path:
    """A run with odd class names, with every evaluation."""
    root = tmp_path_factory.mktemp("card")
    tree = write_tree(root / "my images", dict.fromkeys(ODD, 14))
    other = write_tree(root / "field", dict.fromkeys(ODD, 2), seed=4)
    data = AnimalsDataModule(str(tree), size=16, batch_size=16, num_workers=0, test_fraction=0.3)
    options = {"default_root_dir": str(root / "runs"), "max_epochs": 1, "accelerator": "cpu", "name": "my: #model"}
    run = fit(AnimalClassifier("shallownet"), data, **options)
    ckpt_path = str(run.best_path)
    assert main(["validate", "--ckpt_path", ckpt_path, *CPU]) == 0
    assert main(["test", "--robustness", "--ckpt_path", ckpt_path, *CPU]) == 0
    assert main(["test", "--ckpt_path", ckpt_path, "--data.test_root", str(other), *CPU]) == 0
    assert main(["test", "--ckpt_path", ckpt_path, "--data.test_root", str(tree), *CPU]) == 0
    return run.folder


@pytest.fixture
def run(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the run."""
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))


def card_of(run: Path) -> str:
    assert main(["report", "--card", str(run)]) == 0
    return (run / "MODEL_CARD.md").read_text(encoding="utf-8")


def saved(run: Path, name: str, file: str = "metrics.json") -> dict:
    return json.loads((run / "evaluation" / name / file).read_text(encoding="utf-8"))


def cells(page: str, first: str) -> list[str]:
    """Cells of the row of a rendered table that starts with a name."""
    rows = [re.findall(r"<t[dh]>(.*?)</t[dh]>", row) for row in page.split("<tr>")]
    return next([html.unescape(cell) for cell in row] for row in rows if row and html.unescape(row[0]) == first)


def rendered(text: str) -> str:
    return MarkdownIt("commonmark").enable("table").render(ModelCard(text).text)


def test_the_front_matter_is_that_of_the_hub(run):
    data = ModelCard(card_of(run)).data
    assert data.pipeline_tag == "image-classification"
    assert data.library_name == "animals_pl"
    assert data.license == "unknown"
    assert data.model_name == "my: #model"
    found = {(r.dataset_name, r.dataset_split, r.metric_type): r.metric_value for r in data.eval_results}
    wanted = {}
    for name, dataset, split in (
        ("val", "my images", "validation"),
        ("test", "my images", "test"),
        ("test-field", "field", "test"),
    ):
        metrics = saved(run, name)
        for key, kind in (("acc", "accuracy"), ("macro_recall", "recall"), ("macro_f1", "f1")):
            wanted[dataset, split, kind] = metrics[key]["value"]
    assert found == wanted
    assert data.to_dict()["model-index"][0]["results"][0]["task"]["type"] == "image-classification"


def test_images_seen_in_training_are_no_result(run):
    assert saved(run, "test-my images")["unseen"]["images"] < saved(run, "test-my images")["images"]
    assert "test-my images" not in card_of(run)


def test_metrics_have_their_intervals(run):
    page = rendered(card_of(run))
    names = ["val", "test", "test-field"]
    assert cells(page, "metric") == ["metric", *names]
    for key, title in {"acc": "accuracy", "macro_recall": "macro recall", "log_loss": "log-loss"}.items():
        values = [saved(run, name)[key] for name in names]
        texts = [f"{value['value']:.4f} ({value['low']:.4f}–{value['high']:.4f})" for value in values]
        assert cells(page, title) == [title, *texts]


def test_pseudo_labelled_images_are_counted(run):
    assert "Trained on the dataset my images.\n" in card_of(run)
    (run / "pseudo_labels.csv").write_text("path,label,left_out\na.jpg,cane,\nb.jpg,,unknown\nc.jpg,cane,\n")
    assert "my images, and on 2 unlabelled images with pseudo-labels (not counted below)." in card_of(run)


def test_odd_class_names_survive(run):
    page = rendered(card_of(run))
    per_class = saved(run, "test")["per_class"]
    for name in ODD:
        shown = "cane (dog)" if name == "cane" else name
        row = cells(page, shown)
        recall = per_class[name]["recall"]
        assert row[-2] == f"{recall['value']:.2f} ({recall['low']:.2f}–{recall['high']:.2f})"
        assert [int(row[1]), int(row[2]), int(row[3])] == counts(run, name)


def counts(run: Path, name: str) -> list[int]:
    lines = (run / "split.csv").read_text(encoding="utf-8").splitlines()
    splits = [
        line.rsplit(",", 3)[1]
        for line in lines
        if line.rsplit(",", 3)[0].startswith(f"{name}/") or quoted(name) in line
    ]
    return [splits.count(split) for split in ("train", "val", "test")]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + "/"


def test_robustness_is_that_of_the_file(run):
    page, values = rendered(card_of(run)), saved(run, "test", "robustness.json")
    found = values["corruptions"]["small_subject"]
    numbers = [f"{value:.3f}" for value in (*found["acc"], found["mean_acc"], found["mean_macro_recall"])]
    assert cells(page, "small subject") == ["small subject", *numbers]


def test_the_contract_has_the_goals_of_the_options(run, capsys):
    assert main(["report", "--contract", str(run), "--recall", "dog=0.5"]) == 0
    sentences = capsys.readouterr().out.splitlines()
    assert main(["report", "--card", str(run), "--recall", "dog=0.5"]) == 0
    page = html.unescape(rendered((run / "MODEL_CARD.md").read_text(encoding="utf-8")))
    assert all(f"<li>{sentence}</li>" in page for sentence in sentences)


def test_missing_parts_name_their_command(run):
    shutil.rmtree(run / "evaluation")
    text = card_of(run)
    for command in ("validate", "test", "test --robustness"):
        assert f"`python -m animals_pl {command} --ckpt_path RUN/best.ckpt`" in text
    assert "model-index" not in ModelCard(text).data.to_dict()
    assert cells(rendered(text), "cane (dog)")[-1] == "–"
    (run / "split.csv").unlink()
    assert "has neither `split.csv` nor an evaluation" in card_of(run)


def test_a_file_of_its_own_and_no_paths_of_this_machine(run, tmp_path):
    assert main(["report", "--card", str(run), "--output", str(tmp_path / "README.md")]) == 0
    assert str(tmp_path) not in (tmp_path / "README.md").read_text(encoding="utf-8")
    assert not (run / "MODEL_CARD.md").exists()


@pytest.mark.parametrize(
    ("args", "reason"),
    [
        (["--card", "NOWHERE"], "card='NOWHERE' has no config.yaml"),
        (["--card", "RUN", "--contract", "RUN"], "Remove contract and compare"),
        (["--card", "RUN", "--output", "RUN"], "is a folder"),
    ],
)
def test_wrong_use_is_named(run, capsys, args, reason):
    assert main(["report", *(str(run) if arg == "RUN" else arg for arg in args)]) == 2
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.yaml", "a: ["),
        ("config.yaml", "[]"),
        ("evaluation/test/metrics.json", "{}"),
        ("evaluation/test/metrics.json", "x"),
    ],
)
def test_damaged_files_are_named(run, capsys, file, text):
    shutil.rmtree(run / "evaluation" / "val")
    (run / file).write_text(text)
    assert main(["report", "--card", str(run)]) == 2
    assert Path(file).name in capsys.readouterr().err


def test_evaluations_of_different_models_are_refused(run, capsys):
    metrics = saved(run, "val")
    (run / "evaluation" / "val" / "metrics.json").write_text(json.dumps({**metrics, "temperature": 9.0}))
    assert main(["report", "--card", str(run)]) == 2
    assert "evaluations of different models" in capsys.readouterr().err


@pytest.mark.parametrize("text", [*ODD, "# x", "1 * 2 * 3", "<!-- x -->", "&amp;", "a\nb"])
def test_text_is_literal(text):
    page = MarkdownIt("commonmark").enable("table").render(f"| x |\n| --- |\n| {markdown_text(text)} |\n")
    cell = re.search(r"<td>(.*?)</td>", page).group(1)
    assert html.unescape(cell) == text.replace("\n", "\\n")
