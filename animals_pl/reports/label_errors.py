"""Find label errors from out-of-fold predictions of a classifier on image features.

Labels are ranked by self-confidence, the out-of-sample probability of the label, as in confident learning (Northcutt,
Jiang and Chuang 2021, https://arxiv.org/abs/1911.00068).
"""

from __future__ import annotations

import warnings
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from animals_pl.data.catalog import Catalog
from animals_pl.data.decode import decode
from animals_pl.data.grouping import single_groups
from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError

if TYPE_CHECKING:
    import onnxruntime

BATCH_SIZE = 64

FOLDS = 5

REGULARISATION = 0.02
"""C of the logistic regression. Lower values miss errors in datasets of a few hundred images; higher values flag
correct labels."""

MARGIN = 0.5
"""Minimum difference of probability between another class and the label of a suspect. With 5 % of the labels
swapped, this margin found 88 to 96 % of them; the paper's threshold (mean self-confidence of a class) found 71 to 79 %
at a similar precision."""


@dataclass(frozen=True)
class LabelErrors:
    """Suspected label errors.

    Attributes:
        table: One row per suspect, the least likely label first: ``path``, ``label``, ``suggested``,
            ``self_confidence`` (probability of the label), ``probability`` (of the suggestion).
        unchecked: For each class with labels that cannot be checked, one sentence with the reason.
    """

    table: pd.DataFrame
    unchecked: list[str] = field(default_factory=list)

    @property
    def reasons(self) -> list[str]:
        """Why each label is suspected, in words."""
        return [
            f"label {row.label}, looks like {row.suggested} ({row.probability:.2f} against {row.self_confidence:.2f})"
            for row in self.table.itertuples(index=False)
        ]


def find_label_errors(manifest: pd.DataFrame, features: np.ndarray) -> LabelErrors:
    """Find suspected label errors of N readable images from their features (N, F)."""
    names, labels = np.unique(manifest["label"].to_numpy(dtype=str), return_inverse=True)
    probabilities = out_of_sample_probabilities(features, labels, single_groups(manifest["duplicate_group"].to_numpy()))
    found = suspects(probabilities, labels)
    best = probabilities[found].argmax(axis=1)
    table = pd.DataFrame(
        {
            "path": manifest["path"].to_numpy()[found],
            "label": names[labels[found]],
            "suggested": names[best],
            "self_confidence": probabilities[found, labels[found]].round(4),
            "probability": probabilities[found, best].round(4),
        }
    )
    missing = np.isnan(probabilities[:, 0])
    unchecked = manifest["label"][missing].value_counts().sort_index()
    if len(names) == 1:
        return LabelErrors(table, [f"label errors need at least 2 classes; the dataset has only {str(names[0])!r}."])
    return LabelErrors(table, [_reason(name, count, manifest) for name, count in unchecked.items()])


def _reason(name: str, unchecked: int, manifest: pd.DataFrame) -> str:
    images = manifest[manifest["label"] == name]
    if len(images) == 1:
        return f"class {name!r} has a single image; label errors need at least 2 per class."
    if (images["duplicate_group"] == images["duplicate_group"].max()).all() and images["duplicate_group"].max() >= 0:
        return f"class {name!r}: all {len(images)} images are duplicates of each other; labels not checked."
    return f"class {name!r}: {unchecked} of {len(images)} labels not checked (too few other images)."


def out_of_sample_probabilities(
    features: np.ndarray, labels: np.ndarray, groups: np.ndarray, seed: int = 0
) -> np.ndarray:
    """Return class probabilities (N, C) from cross-validated logistic regressions on features.

    No image is predicted by a classifier that was trained on it or on one of its duplicates. A row is NaN if that
    classifier was not trained on any image of the row's class: the label cannot be checked.

    Args:
        features: (N, F).
        labels: (N,) class indices.
        groups: (N,) duplicate group of each image.
        seed: Seed of the folds.
    """
    num_classes = int(labels.max()) + 1
    probabilities = np.full((len(labels), num_classes), np.nan)
    distinct = np.array([len(np.unique(groups[labels == label])) for label in range(num_classes)])
    if not (distinct > 1).any():
        return probabilities
    folds = int(min(FOLDS, distinct[distinct > 1].min()))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=REGULARISATION, max_iter=200, tol=1e-3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # approximate probabilities are sufficient
        warnings.filterwarnings("ignore", "The least populated class")  # its rows are NaN
        for train, held_out in splitter.split(features, labels, groups):
            known = np.unique(labels[train])
            checked = held_out[np.isin(labels[held_out], known)]
            if len(known) > 1 and len(checked):
                model.fit(features[train], labels[train])
                probabilities[checked] = 0.0
                probabilities[np.ix_(checked, known)] = model.predict_proba(features[checked])
    return probabilities


def suspects(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return the indices (S,) of suspected label errors, in order of increasing self-confidence.

    Args:
        probabilities: (N, C) out-of-sample probabilities. Rows of NaN are skipped.
        labels: (N,) class indices.
    """
    self_confidence = probabilities[np.arange(len(labels)), labels]
    found = np.flatnonzero(probabilities.max(axis=1) - self_confidence > MARGIN)
    return found[np.argsort(self_confidence[found], kind="stable")]


def checkpoint_features(ckpt_path: str, catalog: Catalog) -> np.ndarray:
    """Return the features (N, F) float32 of N readable images, by the backbone of a timm model's checkpoint.

    Raises:
        UsageError: The file is not a checkpoint, or its net is trained from scratch.
    """
    import torch

    from animals_pl.models.transfer import TransferNet
    from animals_pl.training.extraction import Extractor
    from animals_pl.training.malloc import set_malloc_thresholds
    from animals_pl.training.trained import load_model

    set_malloc_thresholds()
    model = load_model(ckpt_path)
    if not isinstance(model.net, TransferNet):
        raise UsageError(
            f"ckpt_path={ckpt_path!r}: label errors need the features of a timm backbone, and model.net="
            f"{model.hparams['net']!r} has none. Pass the checkpoint of a timm model."
        )
    return torch.cat(list(Extractor(model.net)(model.batches(catalog)))).numpy()


def onnx_features(model: str, catalog: Catalog) -> np.ndarray:
    """Return the input (N, F) float32 of an exported model's last layer for N readable images.

    Raises:
        UsageError: The file was not written by ``export``.
    """
    session = _feature_session(model)
    facts = session.get_modelmeta().custom_metadata_map
    resize = Resize.from_settings(facts)
    size, output = int(facts["input_size"]), session.get_outputs()[-1].name
    if facts["input"] == "image":  # the file resizes, one image at a time
        pictures = (decode(catalog.root / path, size) for path in catalog.paths)
        return np.concatenate([session.run([output], {"image": picture})[0] for picture in pictures])

    def load(path: str) -> np.ndarray:
        return resize(decode(catalog.root / path, size), size).transpose(2, 0, 1)

    features = []
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(catalog.paths), BATCH_SIZE):
            images = np.stack(list(pool.map(load, catalog.paths[start : start + BATCH_SIZE])))
            features.append(session.run([output], {"images": images})[0])
    return np.concatenate(features)


def _feature_session(model: str) -> onnxruntime.InferenceSession:
    """Open an exported file with the input of its last layer as an additional output."""
    import onnx
    import onnxruntime

    try:
        proto = onnx.load(model)
        producer = {name: node for node in proto.graph.node for name in node.output}
        last = producer["logits"]
        while last.op_type not in ("Gemm", "MatMul"):  # test-time augmentation averages after the last layer
            last = producer[last.input[0]]
    except Exception as error:  # protobuf may raise any exception
        raise UsageError(
            f"model={model!r} is not a file written by 'python -m animals_pl export' ({error}). "
            "Pass such a file, or --ckpt_path."
        ) from error
    proto.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.input[0]))
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.disable_quant_qdq", "1")  # int8 weights, as in deploy.runtime
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
