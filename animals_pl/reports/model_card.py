"""Model cards: a run as a Markdown page with the metadata of Hugging Face's hub.

The front matter follows https://github.com/huggingface/hub-docs/blob/main/modelcard.md.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml

import animals_pl
from animals_pl.data.catalog import bilingual_name, display_name
from animals_pl.data.tables import read_rows
from animals_pl.errors import UsageError, listed, one_line
from animals_pl.evaluation.predictions import MODEL_FACTS
from animals_pl.evaluation.robustness import saved_robustness
from animals_pl.files import atomic_write, printable, require_writable
from animals_pl.reports.review_contract import contract_lines
from animals_pl.reports.saved_evaluations import read_metrics

CARD_FILE = "MODEL_CARD.md"

METRICS = {"acc": "accuracy", "macro_recall": "macro recall", "macro_f1": "macro-F1", "log_loss": "log-loss"}
"""Key in metrics.json → name."""

HUB_METRICS = {
    "acc": ("accuracy", "Accuracy"),
    "macro_recall": ("recall", "Macro recall"),
    "macro_f1": ("f1", "Macro F1"),
}
"""Key in metrics.json → type (https://hf.co/metrics) and name in the model index."""

SETTINGS = (
    *("model.net", "model.head", "model.features", "model.freeze", "model.weights", "model.loss", "model.tta"),
    *("data.size", "data.resize", "data.crop_pct", "data.sampling", "data.augment", "trainer.max_epochs"),
    *("trainer.min_epochs", "trainer.min_steps"),
)
"""Settings in config.yaml that the card lists."""


def write_model_card(
    run: Path, output: str | None = None, recall: str | None = None, precision: float | None = None
) -> Path:
    """Write the model card of a run from the files in its folder, and return the card's path.

    If a file is missing, its section gives the command that writes it. Evaluations on other datasets (``test-NAME``)
    are included if they are of the same model and none of their images was in training.

    Args:
        run: Folder of the run.
        output: The Markdown file to write. Default: ``MODEL_CARD.md`` in the folder.
        recall, precision: Goals of the :func:`~animals_pl.reports.review_contract.review_contract`.

    Raises:
        UsageError: The folder is not a run, one of its files is damaged, its evaluations are of different models, or
            the card cannot be written.
    """
    file = run / CARD_FILE if output is None else Path(output)
    require_writable(file)
    config = _read_config(run)
    evaluations = _read_evaluations(run / "evaluation")
    name = printable(config.get("name") or run.resolve().parent.name)
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    environment = jinja2.Environment(
        loader=loader,
        finalize=markdown_text,  # of every value
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    test = evaluations.get("test")
    body = environment.get_template("model_card.md.jinja").render(
        name=name,
        dataset=Path(str(config["data"].get("root"))).name,
        settings=_settings(config),
        pseudo_labelled=_pseudo_labelled(run / "pseudo_labels.csv"),
        classes=_classes(run / "split.csv", evaluations),
        evaluations=evaluations,
        metric_names=METRICS,
        test=test,
        main=test or evaluations.get("val"),
        contract=list(contract_lines(run, recall, precision)) if "val" in evaluations else [],
        robustness=saved_robustness(run / "evaluation" / "test", test) if test else None,
        seen=_seen_images(test) if test else 0,
        few=listed(
            [display_name(key) for key, values in (test or {}).get("per_class", {}).items() if values["flagged"]]
        ),
        version=animals_pl.__version__,
    )
    front = yaml.safe_dump(_front_matter(name, config, evaluations), sort_keys=False, allow_unicode=True)
    with atomic_write(file) as partial:
        partial.write_text(f"---\n{front}---\n\n{body}", encoding="utf-8")
    return file


def markdown_text(value: object) -> str:
    r"""A value as one line of literal Markdown, also in a table: ``a\|b`` for ``a|b``."""
    return re.sub(r"([\\`*_\[\]<>&|~$#])", r"\\\1", printable(value))


def _read_config(run: Path) -> dict[str, Any]:
    file = run / "config.yaml"
    try:
        config = yaml.safe_load(file.read_text(encoding="utf-8"))
        return {**config, "model": dict(config["model"]), "data": dict(config["data"])}
    except FileNotFoundError as error:
        raise UsageError(f"card={str(run)!r} has no config.yaml. Pass the folder of a run.") from error
    except (UnicodeDecodeError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise UsageError(f"{str(file)!r} cannot be read: {one_line(error)}.") from error


def _read_evaluations(folder: Path) -> dict[str, dict[str, Any]]:
    """Contents of metrics.json of ``val``, ``test``, and evaluations of the same model on other, unseen images."""
    others = sorted(place.name for place in folder.glob("test-*"))
    files = {name: folder / name / "metrics.json" for name in ("val", "test", *others)}
    found = {name: read_metrics(file) for name, file in files.items() if file.is_file()}
    main = found.get("test") or found.get("val") or {}
    differing = {name for name, metrics in found.items() if any(metrics[key] != main.get(key) for key in MODEL_FACTS)}
    if "val" in differing:
        raise UsageError(
            f"{str(folder / 'val')!r} and {str(folder / 'test')!r} are evaluations of different models. Run validate "
            "and test with the same checkpoint and options."
        )
    seen = {name for name in others if name in found and _seen_images(found[name])}
    return {name: metrics for name, metrics in found.items() if name not in differing | seen}


def _seen_images(metrics: Mapping[str, Any]) -> int:
    """Number of images with a duplicate among the training images, as far as it is known."""
    return metrics["images"] - metrics.get("unseen", metrics)["images"]


def _settings(config: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Name and value of the settings in the card. Files are given by their names, without the folder."""
    values = []
    for key in SETTINGS:
        section, _, name = key.partition(".")
        value = config.get(section, {}).get(name)
        if name in {"weights", "augment"} and value is not None:
            value = Path(value).name
        if value is not None:
            values.append((key, str(value).lower() if isinstance(value, bool) else str(value)))
    return values


def _pseudo_labelled(file: Path) -> int:
    """Number of unlabelled images that the run was trained on."""
    return sum(bool(row["label"]) for row in read_rows(file, "card", "label")) if file.is_file() else 0


def _classes(split_file: Path, evaluations: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Images of each class in each split, and its recall and precision on the test images."""
    rows = read_rows(split_file, "card", "label", "split") if split_file.is_file() else []
    counts = Counter((row["label"], row["split"]) for row in rows)
    test = evaluations.get("test", {}).get("per_class", {})
    names = next((metrics["per_class"] for metrics in evaluations.values()), None)
    return [
        {
            "name": bilingual_name(name),
            "images": [counts[name, split] for split in ("train", "val", "test")],
            "recall": test[name]["recall"] if name in test else None,
            "precision": test[name]["precision"] if name in test else None,
        }
        for name in (names or sorted({row["label"] for row in rows}))
    ]


def _front_matter(name: str, config: Mapping[str, Any], evaluations: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Metadata for the hub. The licence is not known: it depends on the training images and the pretrained weights."""
    net = str(config["model"].get("net", ""))
    data: dict[str, Any] = {
        "license": "unknown",
        "library_name": "animals_pl",
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "animals", "pytorch", "pytorch-lightning"],
        "metrics": [kind for kind, _ in HUB_METRICS.values()],
    }
    if config["model"].get("weights") == "imagenet" and "." in net:
        data["base_model"] = f"timm/{net}"
    results = [_result(metrics) for metrics in evaluations.values()]
    return data | ({"model-index": [{"name": name, "results": results}]} if results else {})


def _result(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Entry of the model index."""
    split = "validation" if metrics["split"] == "val" else "test"
    # imagefolder is the hub's type of a dataset with one folder of images per class.
    dataset = {"type": "imagefolder", "name": printable(Path(metrics["data"]).name), "split": split}
    values = [
        {"type": kind, "value": metrics[key]["value"], "name": title}
        for key, (kind, title) in HUB_METRICS.items()
        if metrics[key] is not None
    ]
    return {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": dataset,
        "metrics": values,
    }
