"""The LightningModule: loss, metrics, optimizer and schedule around one plain net."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import lightning as L
import numpy as np
import torch
from timm.optim import create_optimizer_v2, list_optimizers
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import MeanMetric
from torchmetrics.classification import MulticlassConfusionMatrix
from torchvision.transforms import v2

from animals_pl.data.catalog import english_name
from animals_pl.data.class_weights import ClassWeights, class_weights
from animals_pl.data.info import DataInfo
from animals_pl.data.sampling import Sampling
from animals_pl.errors import UsageError, did_you_mean
from animals_pl.evaluation.metrics import summarise
from animals_pl.models.layers import TTA, forward_tta
from animals_pl.models.registry import FROM_SCRATCH, build_net
from animals_pl.models.transfer import Features, Head, TransferNet
from animals_pl.training.losses import ClassificationLoss, Loss
from animals_pl.training.parameter_groups import parameter_groups

HeadInit = Literal["imagenet", "random"]
Schedule = Literal["constant", "cosine", "step", "poly", "tanh"]
Batch = tuple[Tensor, Tensor]
FEATURE_DIMS, PIXEL_DIMS = 2, 4
"""Of a batch of features (B, F) and of images (B, 3, S, S)."""
LossFunction = Callable[[Tensor, Tensor], Tensor]
_cross_entropy = partial(F.cross_entropy, reduction="none")


class SplitMetrics(nn.Module):
    """Loss and confusion matrix of one split over an epoch, exact over any number of processes.

    Args:
        num_classes: Number of classes.
    """

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.loss = MeanMetric()
        self.confusion = MulticlassConfusionMatrix(num_classes)

    def update(self, losses: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: losses (B,), logits (B, C), labels (B,)."""
        self.loss.update(losses.detach())
        self.confusion.update(logits.detach(), labels)

    def reset(self) -> None:
        """Forget everything, for the next epoch."""
        self.loss.reset()
        self.confusion.reset()

    def matrix(self) -> np.ndarray:
        """Return the confusion matrix (C, C) of all processes: rows the truth, columns the prediction."""
        return self.confusion.compute().cpu().numpy()

    def compute(self) -> dict[str, float]:
        """Return ``loss``, ``acc``, ``macro_recall`` and ``macro_f1`` of all processes."""
        return {"loss": self.loss.compute().item(), **summarise(self.matrix())}


class AnimalClassifier(L.LightningModule):
    """Trains one net to tell ``class_names`` apart.

    Args:
        net: ``shallownet``, ``lenet``, ``minivggnet`` or any timm model, with or without a weights tag.
        head: ``linear`` (dropout → dense) or ``dense`` (dense 128 → ReLU → dropout → dense), for timm nets.
        features: ``pooled`` or ``pre_logits``, for timm nets: what the head sees.
        freeze: Keep the backbone as it is and train the head alone, for timm nets.
        dropout: Probability before the last layer, in [0, 1), for timm nets.
        weights: ``imagenet``, a .safetensors or .pth file, or null for random weights. Loaded at ``fit`` only.
        head_init: How a linear head starts: ``imagenet`` (classes that ImageNet knows from its classifier, where the
            weights come with one and ``features`` are what it sees; others as with random) or ``random``.
        freeze_norm: Keep the BatchNorm statistics of a backbone that learns as they are; null: where it is pretrained.
        loss: ``cross_entropy``, ``focal`` or ``logit_adjusted``.
        focal_gamma: How much ``focal`` turns to images that are still hard, 0 or more.
        logit_tau: How strongly ``logit_adjusted`` corrects the imbalance: 1 in full, 0 not at all.
        class_weights: Factor of each class's loss: ``none``, ``balanced`` (N / (C · count)), ``reference``
            (max(count) / count, rounded to three decimals) or ``effective`` (by the effective number of samples).
        effective_beta: For ``effective``, in [0, 1): 0.99 to 0.9999 are usual; the nearer to 1, the stronger.
        label_smoothing: Part of every target that is spread over all classes, in [0, 1).
        mixup: Alpha of MixUp: training images are blended in pairs; 0: not. With cutmix, each takes half the batches.
        cutmix: Alpha of CutMix: a rectangle of each training image comes from another one; 0: not.
        tta: Test-time augmentation. "hflip" averages the logits of the image and its horizontal flip.
        optimizer: A name that timm's optimizer factory knows.
        lr: Learning rate, of a timm net's head.
        backbone_lr_mult: Learning rate of a timm net's last block as a part of ``lr``, above 0.
        layer_decay: Each block of a timm net learns at this part of the rate of the one after it, in (0, 1].
        weight_decay: Weight decay; biases and norms are spared.
        optimizer_eps: The optimizer's epsilon; null: its own default (Keras's Adam has 1e-7).
        schedule: Learning rate as a function of the epoch: ``constant`` or one of timm's, ``cosine``, ``step``,
            ``poly``, ``tanh``.
        warmup_epochs: Epochs in which the learning rate rises to ``lr``.
        class_names: Label order; null at ``fit``: the folders of the dataset. Belongs to the checkpoint.
        input_size: Side of the images in pixels; null at ``fit``: ``data.size``. Belongs to the checkpoint.

    Raises:
        UsageError: The optimizer is unknown, or a number is out of its range.
    """

    def __init__(
        self,
        net: str = "minivggnet",
        head: Head = "linear",
        features: Features = "pooled",
        freeze: bool = False,
        dropout: float = 0.2,
        weights: str | None = None,
        head_init: HeadInit = "imagenet",
        freeze_norm: bool | None = None,
        loss: Loss = "cross_entropy",
        focal_gamma: float = 2.0,
        logit_tau: float = 1.0,
        class_weights: ClassWeights = "none",
        effective_beta: float = 0.999,
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
        _require_optimizer(optimizer)
        for key, value, fits, range_ in (
            ("dropout", dropout, 0 <= dropout < 1, "[0, 1)"),
            ("focal_gamma", focal_gamma, focal_gamma >= 0, "0 or above"),
            ("logit_tau", logit_tau, logit_tau >= 0, "0 or above"),
            ("effective_beta", effective_beta, 0 <= effective_beta < 1, "[0, 1)"),
            ("label_smoothing", label_smoothing, 0 <= label_smoothing < 1, "[0, 1)"),
            ("mixup", mixup, mixup >= 0, "0 or above"),
            ("cutmix", cutmix, cutmix >= 0, "0 or above"),
            ("lr", lr, lr >= 0, "0 or above"),
            ("backbone_lr_mult", backbone_lr_mult, backbone_lr_mult > 0, "above 0"),
            ("layer_decay", layer_decay, 0 < layer_decay <= 1, "(0, 1]"),
            ("weight_decay", weight_decay, weight_decay >= 0, "0 or above"),
            ("warmup_epochs", warmup_epochs, warmup_epochs >= 0, "0 or above"),
        ):
            if not fits:
                raise UsageError(f"model.{key}={value} is out of range; choose a value {range_}")
        self.net: Any = None  # built in configure_model, once classes and size are known
        self.data_info: DataInfo | None = None
        self.image_size = 0
        """Side of the latest training images, in pixels."""

    @property
    def class_names(self) -> list[str] | None:
        """Class names in label order; ``None`` until :meth:`set_data`."""
        return self.hparams["class_names"]

    def set_data(self, info: DataInfo) -> None:
        """Tell the model which classes it learns, at which image size, and how many training images each has.

        The datamodule's ``setup`` calls this. With plain dataloaders, call it before ``trainer.fit``.

        Args:
            info: The facts. Class names and size become hyper-parameters of a new model.

        Raises:
            UsageError: The class names differ from those of the checkpoint.
        """
        if self.hparams["class_names"] is None:
            self.hparams["class_names"], self.hparams["input_size"] = list(info.class_names), info.size
        elif list(info.class_names) != self.hparams["class_names"]:
            raise UsageError(
                f"the data has the classes {', '.join(info.class_names)}, but the model was trained on "
                f"{', '.join(self.hparams['class_names'])}; use data with the model's classes, or a new model"
            )
        self.data_info = info

    def configure_model(self) -> None:
        """Build the net for the known classes and size; at the start of a new training, load pretrained weights.

        Raises:
            UsageError: The classes are not known.
        """
        if self.net is not None:
            return
        hparams = self.hparams
        if hparams["class_names"] is None:
            raise UsageError(
                "the model does not know its classes; call model.set_data(DataInfo(class_names, class_counts, size)), "
                "or train with an AnimalsDataModule"
            )
        num_classes = len(hparams["class_names"])
        options = {key: hparams[key] for key in ("head", "features", "freeze", "freeze_norm", "dropout")}
        if options["freeze_norm"] is None:
            options["freeze_norm"] = hparams["weights"] is not None and hparams["net"] not in FROM_SCRATCH
        net = build_net(hparams["net"], num_classes, hparams["input_size"], **options)
        # channels_last: 1.5x faster training on 2 cores; required for full tensor core throughput.
        self.net = net.to(memory_format=torch.channels_last)
        self.train_metrics = SplitMetrics(num_classes)
        self.val_metrics = SplitMetrics(num_classes)
        self.test_metrics = SplitMetrics(num_classes)
        if hparams["weights"] and self._starts_training():
            self._load_weights(hparams["weights"])

    def _starts_training(self) -> bool:
        """Whether a new training begins: not a resumed one, nor an evaluation."""
        trainer = self._trainer
        return trainer is not None and trainer.state.fn == "fit" and trainer.ckpt_path is None

    def setup(self, stage: str) -> None:
        """Build the net and, before training, the loss from the class counts.

        Raises:
            UsageError: The class counts are not known.
        """
        self.configure_model()
        if stage != "fit":
            return
        if self.data_info is None:
            raise UsageError("call model.set_data(DataInfo(class_names, class_counts, size)) before training")
        self.image_size = self.data_info.size
        self._warn_of_double_correction(self.data_info.sampling)
        self.training_loss = self._build_loss(np.array(self.data_info.class_counts))
        self.mixup_cutmix = self._build_mixup_cutmix()

    def _build_loss(self, counts: np.ndarray) -> ClassificationLoss:
        hparams = self.hparams
        weights = class_weights(hparams["class_weights"], counts, hparams["effective_beta"])
        numbers = (hparams["focal_gamma"], hparams["logit_tau"], hparams["label_smoothing"])
        return ClassificationLoss(counts, hparams["loss"], weights, *numbers).to(self.device)

    def _build_mixup_cutmix(self) -> nn.Module | None:
        """Transform of images and labels (B,) into blended images and targets (B, C)."""
        num_classes = len(self.hparams["class_names"])
        kinds = (("mixup", v2.MixUp), ("cutmix", v2.CutMix))
        wanted = [kind(alpha=self.hparams[key], num_classes=num_classes) for key, kind in kinds if self.hparams[key]]
        return v2.RandomChoice(wanted) if wanted else None

    def _load_weights(self, weights: str) -> None:
        if not isinstance(self.net, TransferNet):
            raise UsageError(
                f"model.weights={weights!r}: model.net={self.hparams['net']!r} is trained from scratch; "
                "set model.weights to null or choose a timm net"
            )
        names = [english_name(name) for name in self.hparams["class_names"]]
        self.net.load_weights(weights, names if self.hparams["head_init"] == "imagenet" else [])

    def _warn_of_double_correction(self, sampling: Sampling) -> None:
        """Warn where sampling, class weights and loss together correct the imbalance more than in full."""
        weights, loss, tau = (self.hparams[key] for key in ("class_weights", "loss", "logit_tau"))
        strengths = {
            f"data.sampling={sampling}": {"shuffle": 0, "weighted_sqrt": 0.5, "weighted": 1}[sampling],
            f"model.class_weights={weights}": int(weights != "none"),
            f"model.loss={loss}": tau if loss == "logit_adjusted" else 0,
        }
        corrections = [setting for setting, strength in strengths.items() if strength]
        if len(corrections) > 1 and sum(strengths.values()) > 1:
            L.pytorch.utilities.rank_zero_warn(
                f"{' and '.join(corrections)} correct the same class imbalance: rare classes count twice; keep one"
            )

    def forward(self, images: Tensor) -> Tensor:
        """Turn (B, 3, S, S) pixels in 0…255, uint8 or float, into (B, C) logits."""
        return forward_tta(self.net, images, "none" if self.training else self.hparams["tta"])

    def _logits(self, images: Tensor) -> Tensor:
        """Turn images, or features that have been through the frozen backbone already, into (B, C) logits.

        Args:
            images: (B, 3, S, S), or cached features (B, F), or (B, 2, F) with those of the mirror images.
        """
        if images.dim() == PIXEL_DIMS:
            return self(images)
        logits = self.net.forward_head(images)
        return logits.mean(1) if images.dim() > FEATURE_DIMS else logits

    def _step(
        self, batch: Batch, metrics: SplitMetrics, loss: LossFunction = _cross_entropy, targets: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the loss of a batch, the mean of its images' losses, and its logits; note both for the epoch.

        Args:
            batch: Images, see :meth:`_logits`, and labels (B,).
            metrics: The split's metrics.
            loss: Logits (B, C) and targets → losses (B,).
            targets: Probabilities (B, C) in place of the labels, of images that are blended.
        """
        images, labels = batch
        logits = self._logits(images)
        losses = loss(logits, labels if targets is None else targets)
        metrics.update(losses, logits, labels)
        return losses.mean(), logits

    def _log_epoch(self, metrics: SplitMetrics, split: str) -> None:
        self.log_dict({f"{name}/{split}": value for name, value in metrics.compute().items()}, sync_dist=True)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the weighted loss of a batch, blended where that is asked for."""
        images, labels = batch
        if images.dim() == PIXEL_DIMS:
            self.image_size = images.shape[-1]
        targets = None
        if self.mixup_cutmix is not None:
            images, targets = self.mixup_cutmix(images.float(), labels)
        loss, _ = self._step((images, labels), self.train_metrics, self.training_loss, targets)
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Note a batch for the epoch's metrics, and return its logits (B, C) for callbacks."""
        return self._step(batch, self.val_metrics)[1]

    def test_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Note a batch for the test's metrics, and return its logits (B, C) for callbacks."""
        return self._step(batch, self.test_metrics)[1]

    def predict_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the probabilities (B, C) of a batch."""
        return self(batch[0]).float().softmax(1)

    def on_train_epoch_start(self) -> None:
        """Begin the epoch's metrics anew."""
        self.train_metrics.reset()

    def on_validation_epoch_start(self) -> None:
        """Begin the epoch's metrics anew."""
        self.val_metrics.reset()

    def on_test_epoch_start(self) -> None:
        """Begin the test's metrics anew."""
        self.test_metrics.reset()

    def on_train_epoch_end(self) -> None:
        """Log ``image_size``, ``loss/train``, ``acc/train``, ``macro_recall/train``, ``macro_f1/train``.

        Resumed from a checkpoint of its validation, an epoch ends without a batch: there is nothing to log.
        """
        if self.train_metrics.loss.update_called:
            self.log("image_size", float(self.image_size), sync_dist=True)
            self._log_epoch(self.train_metrics, "train")

    def on_validation_epoch_end(self) -> None:
        """Log the same of the validation images."""
        self._log_epoch(self.val_metrics, "val")

    def on_test_epoch_end(self) -> None:
        """Log the same of the test images."""
        self._log_epoch(self.test_metrics, "test")

    def configure_optimizers(self) -> Any:
        """Build the optimizer and the schedule by name through timm's factories."""
        hparams = self.hparams
        eps = {} if hparams["optimizer_eps"] is None else {"eps": hparams["optimizer_eps"]}
        rates = {key: hparams[key] for key in ("lr", "weight_decay", "backbone_lr_mult", "layer_decay")}
        groups = parameter_groups(self.net, **rates)
        optimizer = create_optimizer_v2(groups, hparams["optimizer"], lr=hparams["lr"], **eps)
        schedule, warmup_epochs = hparams["schedule"], hparams["warmup_epochs"]
        if schedule == "constant" and not warmup_epochs:
            return optimizer
        epochs = self.trainer.max_epochs or 1
        # timm has no constant schedule with warm-up; steps by a factor of 1 are one.
        options = {"sched": "step", "decay_rate": 1.0} if schedule == "constant" else {"sched": schedule}
        scheduler, _ = create_scheduler_v2(
            optimizer,
            num_epochs=epochs,
            warmup_epochs=warmup_epochs,
            decay_epochs=max(1, epochs // 3),
            **options,
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Tell timm's scheduler which epoch comes next; Lightning's search for a learning rate has one per step."""
        if isinstance(scheduler, Scheduler):
            scheduler.step(epoch=self.current_epoch + 1)
        else:
            scheduler.step()


def _require_optimizer(name: str) -> None:
    known = [str(optimizer) for optimizer in list_optimizers()]
    if name.lower() not in known:
        hint = did_you_mean(name.lower(), known)
        raise UsageError(f"model.optimizer={name!r} is unknown; {hint}timm.optim.list_optimizers() names them all")
