"""The LightningModule: loss, metrics, optimizer and schedule around one plain net."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from timm.scheduler.scheduler import Scheduler
from torch import Tensor
from torch.nn import functional as F

from animals_pl import __version__
from animals_pl.data.catalog import english_name
from animals_pl.data.class_weights import ClassWeights
from animals_pl.data.info import DataInfo
from animals_pl.errors import UsageError, require_types
from animals_pl.evaluation.calibration import Calibration
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.models.registry import build_net
from animals_pl.models.sync_batchnorm import synchronize_batchnorm
from animals_pl.models.transfer import Features, Head, HeadInit, TransferNet
from animals_pl.training.calibration import Output, calibration_of, calibration_state, model_prior, output, with_prior
from animals_pl.training.head_options import head_penalty, net_options, prepare_head
from animals_pl.training.hparams import check_convergence, check_data, check_hparams, warn_of_double_correction
from animals_pl.training.losses import Loss, build_loss, build_mixup_cutmix
from animals_pl.training.optimization import Schedule, build_optimizer
from animals_pl.training.processes import is_distributed, share_of_batch
from animals_pl.training.split_metrics import SplitMetrics

Batch = tuple[Tensor, Tensor]
FEATURE_DIMS, PIXEL_DIMS = 2, 4  # dimensions of a batch of features (B, F) and of images (B, 3, S, S)
LossFunction = Callable[[Tensor, Tensor], Tensor]
_cross_entropy = partial(F.cross_entropy, reduction="none")


class AnimalClassifier(L.LightningModule):
    """Image classifier: one net with loss, metrics, optimizer and learning rate schedule.

    Args:
        net: ``shallownet``, ``lenet``, ``minivggnet`` or any timm model, with or without a weights tag.
        head: ``linear`` (dropout → linear) or ``dense`` (linear 128 → ReLU → dropout → linear). timm models only.
        features: Input of the head. ``pre_logits``: input of timm's own classifier. ``pooled``: mean of the last
            feature map if the classifier has a wider input (MobileNetV3), else as ``pre_logits``. timm models only.
        freeze: Freeze the backbone, including its BatchNorm statistics. timm models only.
        dropout: Dropout probability before the last layer, in [0, 1). timm models only.
        weights: ``imagenet`` (downloaded once), a .safetensors or .pth file, or null for random weights. Loaded when a
            new run starts, never for a checkpoint.
        head_init: Initial weights of a linear head. ``imagenet``: rows of the ImageNet classifier for the classes it
            knows. Default: ``imagenet`` where the weights allow it, ``random`` otherwise.
        head_decay: Penalty on the squared distance of a linear head from its initial weights, >= 0.
        imagenet_prior: Weight, >= 0, of the ImageNet classifier's score of each class, which is added to the logit.
        freeze_norm: Keep the BatchNorm statistics of a trainable backbone fixed. Default: true with pretrained weights.
        loss: ``cross_entropy``, ``focal`` or ``logit_adjusted``.
        focal_gamma: Focusing parameter of ``focal``, >= 0. Default: 2.
        logit_tau: Strength of ``logit_adjusted``, >= 0. 1 corrects the imbalance in full. Default: 1.
        class_weights: Weight of each class in the loss. ``none``, ``balanced`` (N / (C * count)), ``reference``
            (max(count) / count, rounded to three decimals) or ``effective`` (effective number of samples).
        effective_beta: Beta of ``effective``, in [0, 1). Common values are 0.99 to 0.9999. Default: 0.999.
        label_smoothing: Fraction of every target that is spread over all classes, in [0, 1).
        mixup: Alpha of MixUp, >= 0. 0 disables it. Together with cutmix, each is applied to half of the batches.
        cutmix: Alpha of CutMix, >= 0. 0 disables it.
        tta: Test-time augmentation. ``hflip`` averages the logits of the image and its horizontal flip.
        optimizer: Any name known to timm's optimizer factory.
        lr: Learning rate, >= 0. For timm models: of the head.
        backbone_lr_mult: Multiplier on lr for the backbone (last block; see layer_decay), > 0. timm models only.
        layer_decay: Multiplier on the learning rate from each block to the one before it, in (0, 1]. timm models only.
        weight_decay: Weight decay, >= 0. Not applied to biases and norms.
        optimizer_eps: Epsilon of the optimizer. Default: the optimizer's own (Keras's Adam uses 1e-7).
        schedule: Learning rate over the epochs: ``constant``, ``cosine``, ``step``, ``poly`` or ``tanh``.
        warmup_epochs: Epochs in which the learning rate rises to lr, >= 0.
        class_names: Class names in label order. Set by the data; stored in the checkpoint.
        input_size: Side of the images in pixels. Set by the data; stored in the checkpoint.

    Raises:
        UsageError: A value is unknown, out of its range, or has no effect with the other values.

    Example:
        >>> import torch
        >>> from animals_pl import DataInfo
        >>> model = AnimalClassifier(net="minivggnet", loss="focal")
        >>> model.set_data(DataInfo(class_names=("cat", "dog"), class_counts=(120, 80), size=32))
        >>> model.configure_model()
        >>> model.net(torch.zeros(4, 3, 32, 32, dtype=torch.uint8)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        net: str = "minivggnet",
        head: Head = "linear",
        features: Features = "pooled",
        freeze: bool = False,
        dropout: float = 0.2,
        weights: str | None = None,
        head_init: HeadInit | None = None,
        head_decay: float = 0.0,
        imagenet_prior: float = 0.0,
        freeze_norm: bool | None = None,
        loss: Loss = "cross_entropy",
        focal_gamma: float | None = None,
        logit_tau: float | None = None,
        class_weights: ClassWeights = "none",
        effective_beta: float | None = None,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        tta: TTA = "none",
        optimizer: str = "adam",
        lr: float = 1e-3,
        backbone_lr_mult: float = 1.0,
        layer_decay: float = 1.0,
        weight_decay: float = 0.0,
        optimizer_eps: float | None = None,
        schedule: Schedule = "constant",
        warmup_epochs: int = 0,
        class_names: list[str] | None = None,
        input_size: int | None = None,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        require_types(AnimalClassifier.__init__, self.hparams, "model.")
        check_hparams(self.hparams)
        self.net: Any = None  # built in configure_model, once classes and size are known
        self.data_info: DataInfo | None = None
        self.ckpt_path: Path | None = None  # checkpoint that the model was restored from
        self.calibration = Calibration()
        """How logits become probabilities."""
        self.prior: str | None = None
        """Class frequencies expected in use; see :func:`read_prior`."""
        self.image_size = 0  # side of the latest training images, in pixels

    @property
    def class_names(self) -> list[str] | None:
        """Class names in label order; ``None`` until :meth:`set_data`."""
        return self.hparams["class_names"]

    def set_data(self, info: DataInfo) -> None:
        """Set the classes, the image size and the number of training images per class.

        ``AnimalsDataModule.setup`` calls this. With plain dataloaders, call it before ``trainer.fit``.

        Args:
            info: Facts about the data. Class names and size become hyperparameters of a new model.

        Raises:
            UsageError: See :func:`check_data`.
        """
        check_data(self.hparams, info)
        if self.hparams["class_names"] is None:
            self.hparams.update(class_names=list(info.class_names), input_size=info.size)
        self.data_info = info

    def configure_model(self) -> None:
        """Build the net for the known classes and size. When a new run starts, load pretrained weights.

        Raises:
            UsageError: The classes are not known.
        """
        if self.net is not None:
            return
        hparams = self.hparams
        if hparams["class_names"] is None:
            raise UsageError(
                "the model does not know its classes. Train with an AnimalsDataModule, or call "
                "model.set_data(DataInfo(class_names, class_counts, size))."
            )
        num_classes = len(hparams["class_names"])
        net = build_net(hparams["net"], num_classes, hparams["input_size"], **net_options(hparams))
        prepare_head(net, hparams)
        # channels_last: 1.5x faster training on 2 cores; required for full tensor core throughput.
        self.net = net.to(memory_format=torch.channels_last)
        self.train_metrics, self.val_metrics, self.test_metrics = (SplitMetrics(num_classes) for _ in range(3))
        if hparams["weights"] and self._starts_training():
            self.load_weights(hparams["weights"])

    def _starts_training(self) -> bool:
        """Whether a new run starts, as opposed to a resumed run or an evaluation."""
        try:
            trainer = self.trainer
        except RuntimeError:  # no trainer is attached
            return False
        return trainer.state.fn == "fit" and trainer.ckpt_path is None

    def setup(self, stage: str) -> None:
        """Build the net and, before training, the loss.

        Raises:
            UsageError: Facts about the data are missing (see :meth:`set_data`).
        """
        self.configure_model()
        if stage != "fit":
            return
        if self.data_info is None:
            raise UsageError("call model.set_data(DataInfo(class_names, class_counts, size)) before training.")
        if is_distributed() and self.trainer.strategy.root_device.type == "cuda":
            synchronize_batchnorm(self.net)
        self.image_size, self.ckpt_path, self.calibration = self.data_info.size, None, Calibration()
        warn_of_double_correction(self.hparams, self.data_info.sampling)
        self.set_class_counts(self.data_info)
        self.mixup_cutmix = build_mixup_cutmix(self.hparams)

    def set_class_counts(self, info: DataInfo) -> None:
        """Build the loss for the number of training images per class, and set the class prior of the logits."""
        counts = np.array(info.class_counts)
        prior = model_prior(counts, self.hparams, info.sampling)
        self.calibration = replace(self.calibration, model_prior=prior, train_counts=counts)
        self.training_loss = build_loss(self.hparams, counts).to(self.device)

    def load_weights(self, weights: str) -> None:
        """Load pretrained weights into a timm model; see :meth:`TransferNet.load_weights`."""
        if not isinstance(self.net, TransferNet):
            raise UsageError(
                f"model.weights={weights!r} only applies to timm models, not to model.net={self.hparams['net']!r}. "
                "Set model.weights to null, or model.net to a timm model."
            )
        self.net.load_weights(weights, list(map(english_name, self.hparams["class_names"])), self.hparams["head_init"])

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S), uint8 or float pixels in 0…255."""
        return forward_tta(self.net, images, "none" if self.training else self.hparams["tta"])

    def _logits(self, inputs: Tensor) -> Tensor:
        """Logits (B, C) of images (B, 3, S, S), features (B, F), or features with those of the flip (B, 2, F)."""
        if inputs.dim() == PIXEL_DIMS:
            return self(inputs)
        logits = self.net.forward_head(inputs)
        return logits.mean(1) if inputs.dim() > FEATURE_DIMS else logits

    def _step(
        self, batch: Batch, metrics: SplitMetrics, loss: LossFunction = _cross_entropy, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Mean loss and logits (B, C) of a batch; updates the split's metrics.

        ``targets``: class probabilities (B, C) that replace the labels in the loss, for MixUp and CutMix.
        """
        inputs, labels = batch
        logits = self._logits(inputs)
        scores = logits if self.training else with_prior(logits, self.calibration)
        losses = loss(scores, labels if targets is None else targets)
        metrics.update(losses, scores, labels)
        return losses.mean(), logits

    def _log_epoch(self, metrics: SplitMetrics, split: str) -> None:
        self.log_dict({f"{name}/{split}": value for name, value in metrics.compute().items()}, sync_dist=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Training loss of a batch, with MixUp or CutMix if enabled."""
        inputs, labels = batch
        if inputs.dim() == PIXEL_DIMS:
            self.image_size = inputs.shape[-1]
        targets = None
        if self.mixup_cutmix is not None:
            inputs, targets = self.mixup_cutmix(inputs.float(), labels)
        loss, _ = self._step((inputs, labels), self.train_metrics, self.training_loss, targets)
        if batch_idx % 10 == 0:  # takes 2 ms, as much as training on cached features
            self.log("loss", loss, prog_bar=True, logger=False)
        return loss * share_of_batch(len(labels), loss.device) + head_penalty(self.net, self.hparams)

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits (B, C) of a batch, for callbacks; updates the validation metrics."""
        return self._step(batch, self.val_metrics)[1]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Logits (B, C) of a batch, for callbacks; updates the test metrics."""
        return self._step(batch, self.test_metrics)[1]

    def predict_step(self, batch: Batch, batch_idx: int) -> Output:
        """Calibrated class probabilities (B, C) and unknown scores (B,) of a batch."""
        return output(self(batch[0]), self.calibration)

    def on_train_epoch_start(self) -> None:
        """Reset the training metrics, and set the learning rate of the epoch."""
        self.train_metrics.reset()
        self._set_lr()

    def on_validation_epoch_start(self) -> None:
        """Reset the validation metrics."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Reset the test metrics."""
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log ``lr``, ``image_size``, ``loss/train``, ``acc/train``, ``macro_recall/train``, ``macro_f1/train``."""
        if not self.train_metrics.is_empty:
            self.log("image_size", float(self.image_size), sync_dist=True)
            self.log("lr", torch.tensor(self._epoch_lr, dtype=torch.float64), sync_dist=True)
            self._log_epoch(self.train_metrics, "train")
            self.trainer.callback_metrics  # noqa: B018  # caches the values for callbacks, before they are reset

    def on_validation_epoch_end(self) -> None:
        """Log ``loss/val``, ``acc/val``, ``macro_recall/val``, ``macro_f1/val``.

        Raises:
            TrainingError: Training has diverged.
        """
        if self.trainer.state.fn == "fit":
            loss = self.val_metrics.loss.compute().item()
            check_convergence(loss, self.current_epoch, self.hparams, self.trainer.precision)
        self._log_epoch(self.val_metrics, "val")

    def on_test_epoch_end(self) -> None:
        """Log ``loss/test``, ``acc/test``, ``macro_recall/test``, ``macro_f1/test``."""
        self._log_epoch(self.test_metrics, "test")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Restore the calibration and an interrupted epoch's metrics; drop the scheduler state, which is recomputed."""
        checkpoint["lr_schedulers"] = []
        if "calibration" in checkpoint or self.prior:
            self.calibration = calibration_of(checkpoint, self.prior)
        if "train_sums" in checkpoint:
            self.train_metrics.continue_from(checkpoint["train_sums"])
            self.image_size = checkpoint["image_size"]

    def on_train_start(self) -> None:
        """Set the learning rate of a run that is resumed mid-epoch."""
        self._set_lr()

    def _set_lr(self) -> None:
        """Compute the epoch's learning rate: ``max_epochs`` of a resumed run may have changed."""
        scheduler = self.lr_schedulers()
        if isinstance(scheduler, Scheduler):
            scheduler.step(epoch=self.current_epoch)
        self._epoch_lr = self.trainer.optimizers[0].param_groups[-1]["lr"]  # changes before on_train_epoch_end

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Store the version of animals_pl, the calibration, and the epoch's training metrics and image size so far."""
        checkpoint["animals_pl_version"] = __version__
        checkpoint["calibration"] = calibration_state(self.calibration)
        if self.trainer.state.fn == "fit" and not self.train_metrics.is_empty:
            checkpoint |= {"train_sums": self.train_metrics.sums(), "image_size": self.image_size}

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer and schedule; see :mod:`~animals_pl.training.optimization`."""
        return build_optimizer(self.net, self.hparams, epochs=self.trainer.max_epochs or 1)

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Step timm's schedule by epoch; Lightning's learning rate finder uses its own, stepped by batch."""
        if isinstance(scheduler, Scheduler):
            scheduler.step(epoch=self.current_epoch + 1)
        else:
            scheduler.step()
