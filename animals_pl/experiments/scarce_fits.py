"""Train the heads of a study of scarce classes and score them on the images left out, as they are and shifted."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from animals_pl.data.catalog import Catalog, english_name
from animals_pl.data.datamodule import AnimalsDataModule
from animals_pl.data.info import DataInfo
from animals_pl.data.loading import load_dataset
from animals_pl.data.shifts import shifted_copies
from animals_pl.data.splits import VAL_FRACTION, stratified_split
from animals_pl.errors import UsageError, did_you_mean
from animals_pl.experiments.scarce import Draw, ScarcePlan, common_classes, draw, hidden_names, recalls
from animals_pl.experiments.study import Study, flatten, read_yaml
from animals_pl.files import atomic_write, require_writable, track
from animals_pl.training.callbacks.feature_cache import split_features
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.extraction import Extractor
from animals_pl.training.head import head_logits, train_best_head, train_head
from animals_pl.training.pseudo_labels import label_images
from animals_pl.training.trainer import make_trainer

FITS = ("refit", "unlabelled")
"""Settings of a variant. If either is given, validation images choose the epoch; if it is true, the head is then
trained again."""

EPOCHS = ("trainer.max_epochs", "trainer.min_epochs", "trainer.min_steps")
"""Length of training: ``max_epochs``, otherwise ``min_epochs``. ``min_steps`` is ignored, so that all draws of a
study are trained equally long."""

RUN_SETTINGS = (*EPOCHS, "trainer.accelerator", "seed_everything", "name", "monitor", *FITS)
"""Allowed settings besides those of the model and the data: they are read, or have no effect here."""


@dataclass(frozen=True)
class ScarceData:
    """What all variants share: the images, their shifted copies, the plan, its seed and the results folder."""

    catalog: Catalog
    shifted: Catalog
    plan: ScarcePlan
    seed: int
    folder: Path


@dataclass(frozen=True)
class ScarceOutcome:
    """Results of a variant.

    Attributes:
        scores: (replicates, keep, 2, 3): macro recall of all, cut and common classes, on the images and their shifted
            copies.
        seconds: Median time of a fit.
    """

    scores: np.ndarray
    seconds: float


def prepare_scarce(study: Study, root: Path, seed: int, output: Path) -> ScarceData:
    """Load the images, write their shifted copies and create the results folder.

    Raises:
        UsageError: The images cannot be loaded, or too few classes have enough of them.
    """
    assert study.scarce is not None
    require_writable(output, folder=True)
    catalog = load_dataset(root.resolve(), argument="root").usable
    common_classes(catalog, study.scarce)
    folder = output / f"{study.name}-{study.net}-scarce-{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    return ScarceData(catalog, shifted_copies(catalog), study.scarce, seed, folder)


def fit_variant(study: Study, variant: str, data: ScarceData) -> ScarceOutcome:
    """Train and score a variant on all draws, unless the result exists.

    Raises:
        UsageError: A setting is unknown, or the variant does not train a head on cached features.
    """
    config = flatten(read_yaml(study.config, "config"))
    config.pop("refit", None)  # an option of fit; in a study, it belongs to the variants
    settings = {**config, **study.options, **study.variants[variant]}
    facts = [
        settings,
        asdict(data.plan),
        data.seed,
        data.catalog.paths,
        data.catalog.sha256,
        data.catalog.labels.tolist(),
    ]
    digest = hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()
    file = data.folder / f"{variant}.npz"
    if file.exists():
        kept = np.load(file)
        if kept["digest"] == digest:
            return ScarceOutcome(kept["scores"], float(kept["seconds"]))
    outcome = _fit_draws(settings, variant, data)
    with atomic_write(file) as partial, partial.open("wb") as stream:
        np.savez(stream, digest=digest, scores=outcome.scores, seconds=outcome.seconds)
    return outcome


def _fit_draws(settings: dict[str, Any], variant: str, data: ScarceData) -> ScarceOutcome:
    model, module = _model_and_data(settings, variant, data.plan)
    L.seed_everything(settings.get("seed_everything", 42), verbose=False)
    features = _features(model, module, data)
    initial = copy.deepcopy(model.net.head.state_dict())
    names = list(map(english_name, data.catalog.class_names))
    draws = [(keep, replicate) for replicate in range(data.plan.replicates) for keep in data.plan.keep]
    scores, seconds = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for keep, replicate in track(draws, variant):
        began = time.perf_counter()
        drawn = draw(data.catalog, data.plan, keep, replicate, data.seed)
        start = initial
        if data.plan.hide_imagenet and model.hparams["weights"]:
            model.net.head.load_state_dict(initial)
            _rename_classes(model, hidden_names(names, drawn, replicate, data.seed))
            start = copy.deepcopy(model.net.head.state_dict())
        labels = data.catalog.labels
        seed = module.hparams["seed"] + replicate
        options = {
            "epochs": settings.get("trainer.max_epochs") or settings["trainer.min_epochs"],
            "batch_size": module.hparams["batch_size"],
            "seed": seed,
        }
        is_val = None
        if any(key in settings for key in FITS):
            is_val = _validation_images(data.catalog.take(drawn.train), module.hparams["val_fraction"], seed)
        _fit_head(model, start, features[0], labels, drawn, is_val, settings, options)
        predicted = [head_logits(model, views[drawn.test]).argmax(1).numpy() for views in features]
        scores.append([recalls(labels[drawn.test], classes, drawn) for classes in predicted])
        seconds.append(time.perf_counter() - began)
    torch.set_num_threads(threads)
    shape = (data.plan.replicates, len(data.plan.keep), len(features), 3)
    return ScarceOutcome(np.array(scores).reshape(shape), float(np.median(seconds)))


def _rename_classes(model: AnimalClassifier, names: list[str]) -> None:
    """Initialise the head and the prior from ImageNet's classifier, as if the classes had other English names."""
    net, hparams = model.net, model.hparams
    if net.prior is not None:
        net.add_prior(names, net.prior.strength)
    net.load_weights(hparams["weights"], names, hparams["head_init"])


def _fit_head(
    model: AnimalClassifier,
    initial: dict[str, Tensor],
    views: Tensor,
    labels: np.ndarray,
    drawn: Draw,
    is_val: np.ndarray | None,
    settings: dict[str, Any],
    options: dict[str, Any],
) -> None:
    """Train the head from its initial weights on the first view of each training image.

    With validation images, for the number of epochs with the lowest validation loss; then, with the setting ``refit``,
    on all training images, or, with ``unlabelled``, also on unlabelled ones.
    """
    head, train = model.net.head, drawn.train
    head.load_state_dict(initial)
    if is_val is None:
        train_head(model, views[train, 0], labels[train], **options)
        return
    val, train = train[is_val], train[~is_val]
    epochs = train_best_head(model, views[train, 0], labels[train], views[val], labels[val], **options)
    if settings.get("refit"):
        head.load_state_dict(initial)
        train_head(model, views[drawn.train, 0], labels[drawn.train], stop_after=epochs, **options)
    elif settings.get("unlabelled"):
        assert model.data_info is not None
        counts = np.bincount(labels[train], minlength=len(model.data_info.class_names))
        model.set_class_counts(replace(model.data_info, class_counts=tuple(counts.tolist())))
        found = label_images(model, views[drawn.unlabelled], views[val], labels[val]).labels
        head.load_state_dict(initial)
        both = np.concatenate([train, drawn.unlabelled[found >= 0]])
        targets = np.concatenate([labels[train], found[found >= 0]])
        train_best_head(model, views[both, 0], targets, views[val], labels[val], **options)


def _validation_images(catalog: Catalog, val_fraction: float | None, seed: int) -> np.ndarray:
    """Whether each image is a validation image (N,) in a split like that of ``fit``."""
    split = stratified_split(catalog, VAL_FRACTION if val_fraction is None else val_fraction, seed=seed)
    held_out = set(split.val)
    return np.array([path in held_out for path in catalog.paths])


def _model_and_data(
    settings: dict[str, Any], variant: str, plan: ScarcePlan
) -> tuple[AnimalClassifier, AnimalsDataModule]:
    """Model and datamodule of a variant's settings.

    Raises:
        UsageError: A setting is unknown, or the backbone or the images change during training.
    """
    classes = {"model": AnimalClassifier, "data": AnimalsDataModule}
    known = {f"{key}.{name}" for key, value in classes.items() for name in inspect.signature(value).parameters}
    for key in settings:
        if key not in known and key not in RUN_SETTINGS:
            hint = did_you_mean(key, known)
            raise UsageError(f"variant {variant!r}: {key} cannot be set in a study with scarce. {hint}Remove it.")
    parts = {
        section: {key.partition(".")[2]: value for key, value in settings.items() if key.startswith(f"{section}.")}
        for section in classes
    }
    model, data = AnimalClassifier(**parts["model"]), AnimalsDataModule(**parts["data"])
    if data.hparams["unlabelled"] is not None:
        raise UsageError(
            f"variant {variant!r}: data.unlabelled has no effect in a study with scarce, which draws unlabelled images "
            "itself. Remove it; set scarce.unlabelled to a fraction, and unlabelled=true in a variant."
        )
    for key in FITS:
        if type(settings.get(key, False)) is not bool:
            raise UsageError(f"variant {variant!r}: {key}={settings[key]!r} is not true or false.")
    if settings.get("unlabelled") and not plan.unlabelled:
        raise UsageError(f"variant {variant!r}: unlabelled=true needs scarce.unlabelled > 0 in the study. Add it.")
    if settings.get("unlabelled") and settings.get("refit"):
        raise UsageError(f"variant {variant!r}: unlabelled and refit cannot be combined in a study. Remove one.")
    varies = model.hparams["mixup"] or model.hparams["cutmix"] or data.hparams["augment"] != "none"
    if not model.hparams["freeze"] or varies:
        raise UsageError(
            f"variant {variant!r}: a study with scarce trains heads on cached features. Set model.freeze=true, "
            "data.augment=none, model.mixup=0 and model.cutmix=0, or remove scarce from the study."
        )
    return model, data


def _features(model: AnimalClassifier, module: AnimalsDataModule, data: ScarceData) -> list[Tensor]:
    """Features (N, views, F) of the images and of their shifted copies, by the net with its pretrained weights."""
    catalog = data.catalog
    counts = tuple(catalog.counts().values())
    model.set_data(DataInfo(tuple(catalog.class_names), counts, module.size, module.hparams["sampling"]))
    model.configure_model()
    if model.hparams["weights"]:
        model.load_weights(model.hparams["weights"])
    module.trainer = make_trainer([], accelerator="cpu", logger=False, enable_checkpointing=False)
    extractor = Extractor(model.net)
    hflip = model.hparams["tta"] == "hflip"
    found = []
    for split, images in {"images": catalog, "shifted": data.shifted}.items():
        module.catalogs[split] = images
        module.datasets[split] = module.dataset(split)
        features = split_features(module, split, extractor, hflip)
        found.append(features if hflip else features[:, None])
    return found
