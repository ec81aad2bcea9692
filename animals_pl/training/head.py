"""Train the head of a frozen backbone on cached features, without a Trainer."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from animals_pl.data.sampling import KeyBatchSampler
from animals_pl.training.callbacks.batch_seed import seed_batch
from animals_pl.training.classifier import AnimalClassifier
from animals_pl.training.head_options import head_penalty
from animals_pl.training.losses import build_loss
from animals_pl.training.optimization import build_optimizer


def train_head(
    model: AnimalClassifier,
    features: Tensor,
    labels: np.ndarray,
    *,
    epochs: int,
    batch_size: int,
    seed: int,
    stop_after: int | None = None,
    after_epoch: Callable[[], None] | None = None,
) -> None:
    """Train the head of ``model.net`` from its current weights, as ``fit`` does with cached features.

    Batches, dropout, loss, optimizer and schedule are those of ``fit``, and so are the resulting weights. It takes a
    fraction of the time, because nothing is validated, logged or saved.

    Args:
        model: A model on the CPU, with its net and :meth:`~AnimalClassifier.set_data` called.
        features: Training features (N, F).
        labels: Their class indices (N,).
        epochs: Number of epochs of the schedule.
        batch_size: Images per batch.
        seed: Seed of the order and of dropout; ``data.seed`` in ``fit``.
        stop_after: Number of epochs to train, if below ``epochs``.
        after_epoch: Called after each epoch, with the net in evaluation mode.
    """
    net, hparams, info = model.net, model.hparams, model.data_info
    assert info is not None
    loss = build_loss(hparams, np.bincount(labels, minlength=len(info.class_names)))
    optimizer: Any = build_optimizer(net, hparams, epochs)
    schedule = None
    if isinstance(optimizer, dict):
        optimizer, schedule = optimizer["optimizer"], optimizer["lr_scheduler"]["scheduler"]
    targets = torch.from_numpy(labels)
    epoch = 0
    sampler = KeyBatchSampler(labels, batch_size, info.sampling, seed, lambda _: info.size, lambda: (epoch, 0))
    for epoch in range(stop_after or epochs):
        net.train()
        for number, keys in enumerate(sampler):
            seed_batch(seed, 0, epoch, number)
            chosen = [key.index for key in keys]
            optimizer.zero_grad()
            (loss(net.forward_head(features[chosen]), targets[chosen]).mean() + head_penalty(net, hparams)).backward()
            optimizer.step()
        if schedule is not None:
            schedule.step(epoch=epoch + 1)
        net.eval()
        if after_epoch is not None:
            after_epoch()


def train_best_head(
    model: AnimalClassifier,
    features: Tensor,
    labels: np.ndarray,
    val_features: Tensor,
    val_labels: np.ndarray,
    **options: Any,
) -> int:
    """Train as :func:`train_head`, and keep the head of the epoch with the lowest validation loss.

    Args:
        model: See :func:`train_head`.
        features: Training features (N, F).
        labels: Their class indices (N,).
        val_features: Validation features (M, V, F) of V views of each image, whose logits are averaged.
        val_labels: Their class indices (M,).
        **options: Further arguments of :func:`train_head`.

    Returns:
        The number of epochs that the kept head was trained for.
    """
    best: dict[str, Any] = {"loss": math.inf, "epochs": 0, "head": model.net.head.state_dict()}
    epochs = itertools.count(1)
    targets = torch.from_numpy(val_labels)

    def keep_if_better() -> None:
        loss, epoch = F.cross_entropy(head_logits(model, val_features), targets).item(), next(epochs)
        if loss < best["loss"]:
            best.update(loss=loss, epochs=epoch, head=copy.deepcopy(model.net.head.state_dict()))

    train_head(model, features, labels, after_epoch=keep_if_better, **options)
    model.net.head.load_state_dict(best["head"])
    return int(best["epochs"])


def head_logits(model: AnimalClassifier, features: Tensor) -> Tensor:
    """Mean logits (N, C) of the V views of each image, from their features (N, V, F)."""
    with torch.no_grad():
        logits: Tensor = model.net.forward_head(features).mean(1)
    return logits
