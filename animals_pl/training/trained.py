"""Load trained models and predict."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from animals_pl.data.catalog import Catalog
from animals_pl.data.dataset import LIMITS, AnimalsDataset, default_num_workers
from animals_pl.data.prediction import find_prediction_images
from animals_pl.data.resize import Resize
from animals_pl.errors import UsageError, require_range, require_types
from animals_pl.evaluation.calibration import Calibration
from animals_pl.evaluation.top_k import Prediction, top_k_prediction
from animals_pl.hub import CHECKPOINT_FILE, local_file
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.training.calibration import Output, calibration_of, output, require_unknown
from animals_pl.training.checkpoint import data_settings, load_checkpoint, model_settings
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.trainer import quiet


@dataclass(frozen=True)
class TrainedModel:
    """A trained net with everything its predictions depend on.

    Attributes:
        net: (B, 3, S, S) pixels in 0…255 → (B, C) logits, in evaluation mode on the CPU.
        class_names: C names in label order.
        resize: Resize applied to images.
        size: Side of the square in pixels, S.
        tta: Test-time augmentation.
        calibration: How logits become probabilities.
        hparams: Hyperparameters of the model.
        data_hparams: Hyperparameters of the datamodule it was trained with.
        refitted: Whether it was also trained on the validation images (refit.ckpt).

    Example:
        >>> from animals_pl import load_model
        >>> model = load_model("checkpoints/my_animals/version_0/best.ckpt")
        >>> model.class_names, model.size, model.resize
        (['cat', 'dog', 'elephant'], 32, Resize(rule='stretch', interpolation='bilinear', crop_pct=1.0))
        >>> model.net(torch.zeros(1, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([1, 3])
    """

    net: nn.Module
    class_names: list[str]
    resize: Resize
    size: int
    tta: TTA
    calibration: Calibration
    hparams: dict[str, Any]
    data_hparams: dict[str, Any]
    refitted: bool = False

    def predict(
        self,
        paths: Sequence[str | Path] | str | Path,
        *,
        top_k: int = 3,
        batch_size: int = 64,
        num_workers: int | None = None,
        unknown: bool = False,
    ) -> list[Prediction]:
        """Predict image files and folders of images.

        Args:
            paths: Files and folders; folders are searched at any depth.
            top_k: Classes per image in :attr:`Prediction.top`.
            batch_size: Images per forward pass.
            num_workers: DataLoader workers. Default: available cores, at most 16.
            unknown: Label images ``"unknown"`` if their score is above the checkpoint's threshold. About 5 % of the
                validation images exceed it.

        Returns:
            One prediction per file, in the order given. Files that cannot be decoded have no label.

        Raises:
            UsageError: A path does not exist, no image can be decoded, a number is out of range, or ``unknown`` is true
                and the checkpoint has no threshold, or has a class named ``unknown``.
        """
        numbers = {"top_k": top_k, "batch_size": batch_size, "num_workers": num_workers}
        require_types(TrainedModel.predict, numbers | {"unknown": unknown})
        if unknown:
            require_unknown(self.calibration, self.class_names)
        for key, value in numbers.items():
            if value is not None:
                require_range(key, value, *LIMITS.get(key, (1, math.inf)))
        given = paths if isinstance(paths, Sequence) and not isinstance(paths, str) else [paths]
        for path in given:
            if not isinstance(path, str | Path):
                kind = type(path).__name__
                raise UsageError(f"paths must be str or Path, not {kind}. Pass image files, or call net with pixels.")
        found = find_prediction_images([Path(path) for path in given])
        catalog = found.catalog(self.class_names)
        outputs = self._outputs(catalog, batch_size, num_workers)
        rows = zip(outputs.probabilities.numpy(), outputs.unknown_scores.tolist(), strict=True)
        decodable = set(catalog.paths)
        predictions = [
            top_k_prediction(
                path, next(rows) if path in decodable else None, self.class_names, top_k, found.broken.get(path, "")
            )
            for path in found.paths
        ]
        threshold = self.calibration.unknown_threshold
        if not unknown or threshold is None:
            return predictions
        return [prediction.with_unknown(threshold) for prediction in predictions]

    def probabilities(self, catalog: Catalog, batch_size: int = 64, num_workers: int | None = None) -> np.ndarray:
        """Calibrated class probabilities (N, C) float32 of a catalog's images."""
        return self._outputs(catalog, batch_size, num_workers).probabilities.numpy()

    def _outputs(self, catalog: Catalog, batch_size: int, num_workers: int | None) -> Output:
        batches = self.batches(catalog, batch_size, num_workers)
        with torch.inference_mode():
            outputs = [output(forward_tta(self.net, images, self.tta), self.calibration) for images in batches]
        return Output(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))

    def batches(self, catalog: Catalog, batch_size: int = 64, num_workers: int | None = None) -> Iterator[Tensor]:
        """Yield the images of a catalog, (B, 3, S, S) uint8, resized as the model needs them."""
        dataset = AnimalsDataset(catalog, self.resize, self.size)
        workers = default_num_workers() if num_workers is None else num_workers
        for images, _ in DataLoader(dataset, batch_size, num_workers=min(workers, len(dataset))):
            yield images


def load_classifier(ckpt_path: str | Path, *, prior: str | None = None) -> AnimalClassifier:
    """Restore the LightningModule of a checkpoint, to evaluate it with a Trainer or to train it further.

    Args:
        ckpt_path: The best.ckpt, last.ckpt or refit.ckpt of a run.
        prior: As in :func:`load_model`.

    Example:
        >>> load_classifier("checkpoints/my_animals/version_0/best.ckpt").hparams["net"]
        'shallownet'
    """
    model = _restore(load_checkpoint(ckpt_path), prior)
    model.ckpt_path = Path(ckpt_path)
    return model


def _restore(checkpoint: dict[str, Any], prior: str | None) -> AnimalClassifier:
    model = AnimalClassifier(**model_settings(checkpoint))
    model.calibration, model.prior = calibration_of(checkpoint, prior), prior
    model.configure_model()
    with quiet():  # re-raises missing weights as a UsageError with a remedy
        model.load_state_dict(checkpoint["state_dict"])
    return model


def load_model(ckpt_path: str | Path, *, resize: Resize | None = None, prior: str | None = None) -> TrainedModel:
    """Load a trained model from a checkpoint, on the CPU.

    Args:
        ckpt_path: The best.ckpt, last.ckpt or refit.ckpt of a run, or ``hf://OWNER/NAME[@REVISION]`` for best.ckpt of
            a model on the Hugging Face Hub.
        resize: How images were resized. Only for a model that was trained with plain dataloaders; other checkpoints
            store the rule.
        prior: Class frequencies expected in use: ``train``, ``uniform``, or a CSV file with the columns ``class`` and
            ``frequency``. Default: the model's own prior, without adjustment; predicted classes do not change.

    Raises:
        UsageError: The file is missing, is not a checkpoint of this project, was written by an older version, or
            does not say how images are resized; or the prior cannot be used.

    Example:
        >>> model = load_model("checkpoints/my_animals/version_0/best.ckpt")
        >>> [prediction.path for prediction in model.predict(["a.jpg", "b.jpg"])]
        ['a.jpg', 'b.jpg']
    """
    checkpoint = load_checkpoint(local_file(ckpt_path, "ckpt_path", CHECKPOINT_FILE))
    data = data_settings(checkpoint)
    if resize is None:
        if not data:
            raise UsageError(
                f"ckpt_path={str(ckpt_path)!r} was trained with plain dataloaders and does not say how images are "
                "resized. Pass load_model(…, resize=Resize(…))."
            )
        resize = Resize.from_settings(data)
    model = _restore(checkpoint, prior)
    hparams = dict(model.hparams)
    return TrainedModel(
        net=model.net.eval(),
        class_names=hparams["class_names"],
        resize=resize,
        size=hparams["input_size"],
        tta=hparams["tta"],
        calibration=model.calibration,
        hparams=hparams,
        data_hparams=data,
        refitted="refit" in checkpoint,
    )
