"""Suspected label errors: what a simple classifier, trained on the other images, firmly disagrees with.

An image's label is evaluated by out-of-sample probabilities, and suspects are ranked by self-confidence, as in
confident learning (Northcutt, Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068). The probabilities come
from logistic regressions on a net's features, each fitted without the images that it evaluates.
"""

from __future__ import annotations

import os
import warnings
from itertools import chain
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.utils.data import DataLoader

from animals_pl.data.catalog import Catalog
from animals_pl.data.dataset import AnimalsDataset
from animals_pl.data.decode import Resize
from animals_pl.errors import UsageError
from animals_pl.models.transfer import TransferNet
from animals_pl.training.checkpoint import load_checkpoint
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.malloc import set_malloc_thresholds

FOLDS = 5
REGULARISATION = 0.02
"""scikit-learn's C. With less, fewer errors are found among some hundred images; with more, right labels are
suspected too."""

MARGIN = 0.5
"""By how much another class must be more probable than the label. Of 5 % swapped labels the paper's thresholds (a
class's mean self-confidence) found 71 to 79 %, this 86 to 96 %, at about the same precision."""


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices (S,) of suspected label errors, the least self-confident first.

    Args:
        probabilities: (N, C) out-of-sample.
        labels: (N,) class indices.
    """
    self_confidence = probabilities[np.arange(len(labels)), labels]
    found = np.flatnonzero(probabilities.max(axis=1) - self_confidence > MARGIN)
    return found[np.argsort(self_confidence[found], kind="stable")]


def out_of_sample_probabilities(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return class probabilities (N, C) of images from classifiers that have not seen them or a duplicate.

    Args:
        features: (N, F) float.
        labels: (N,) class indices; each class has at least two images.
        groups: (N,) group number of duplicates; -1: none.
        seed: Of the folds.
    """
    own = groups.max(initial=0) + 1 + np.arange(len(groups))
    folds = max(2, min(FOLDS, int(np.bincount(labels).min())))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=200, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a few digits of probability are enough to rank
        return cross_val_predict(
            model, features, labels, groups=np.where(groups < 0, own, groups), cv=splitter, method="predict_proba"
        )


def label_error_table(manifest: pd.DataFrame, features: np.ndarray) -> pd.DataFrame:
    """Return the suspects: path, label, suggested label, self-confidence and the suggestion's probability.

    Args:
        manifest: N images that can be used.
        features: (N, F).

    Raises:
        UsageError: A class has fewer than two images, so none is left to learn it from.
    """
    names, labels = np.unique(manifest["label"].to_numpy(dtype=str), return_inverse=True)
    scarce = names[np.bincount(labels) < 2]
    if len(scarce):
        raise UsageError(f"label errors cannot be sought in the class {scarce[0]!r}, which has one image; add some")
    probabilities = out_of_sample_probabilities(features, labels, manifest["duplicate_group"].to_numpy())
    found = suspects(probabilities, labels)
    best = probabilities[found].argmax(axis=1)
    return pd.DataFrame(
        {
            "path": manifest["path"].to_numpy()[found],
            "label": names[labels[found]],
            "suggested": names[best],
            "self_confidence": probabilities[found, labels[found]].round(4),
            "probability": probabilities[found, best].round(4),
        }
    )


def checkpoint_features(ckpt_path: str, catalog: Catalog) -> np.ndarray:
    """Return what the backbone of a checkpoint sees in each image: (N, F) float32.

    Raises:
        UsageError: The checkpoint's net is no timm backbone.
    """
    data = load_checkpoint(ckpt_path)["datamodule_hyper_parameters"]
    set_malloc_thresholds()
    model = AnimalClassifier.load_from_checkpoint(ckpt_path, map_location="cpu", weights_only=True).eval()
    net = model.net
    if not isinstance(net, TransferNet):
        raise UsageError(
            f"ckpt_path={ckpt_path!r}: label errors are sought in the features of a timm backbone, and "
            f"{model.hparams['net']!r} has none; pass a checkpoint of another net"
        )
    resize = Resize(data["resize"], data["interpolation"], data["crop_pct"])
    batches = iter(_batches(catalog, resize, model.hparams["input_size"]))
    first = next(batches)
    quick = net.for_inference(first[:8])
    with torch.inference_mode():
        return np.concatenate([quick.forward_features(images).numpy() for images in chain([first], batches)])


def onnx_features(model: str, catalog: Catalog) -> np.ndarray:
    """Return what the last layer of an exported file sees in each image: (N, F) float32.

    Raises:
        UsageError: The file was not made by ``export``.
    """
    session = _feature_session(model)
    facts = session.get_modelmeta().custom_metadata_map
    resize = Resize(facts["resize"], facts["interpolation"], float(facts["crop_pct"]))
    name = session.get_outputs()[-1].name
    batches = _batches(catalog, resize, int(facts["input_size"]))
    return np.concatenate([session.run([name], {"images": images.numpy()})[0] for images in batches])


def _feature_session(model: str) -> onnxruntime.InferenceSession:
    """Open an exported file with what its last layer takes as one more output."""
    try:
        proto = onnx.load(model)
        logits = next(node for node in proto.graph.node if "logits" in node.output)
    except Exception as error:  # protobuf and the search for the layer each raise their own
        raise UsageError(
            f"model={model!r} is no file that 'python -m animals_pl export' wrote ({error}); pass one, or --ckpt_path"
        ) from error
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(logits.input[0]))
    return onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])


def _batches(catalog: Catalog, resize: Resize, size: int) -> DataLoader[Any]:
    dataset = AnimalsDataset(catalog, resize, size)
    return DataLoader(dataset, 64, num_workers=min(os.cpu_count() or 1, 16), collate_fn=_images)


def _images(samples: list[tuple[torch.Tensor, int]]) -> torch.Tensor:
    return torch.stack([image for image, _ in samples])
