"""What a step is made of, as pure functions: seeds, learning rates, loss weights; the optimizer."""

import hashlib
import math

import numpy as np
import torch

from fer_bench.config import Train
from fer_bench.models import CLASSES, Network, parameter_groups


def derive(seed: int, *path: object) -> int:
    """A 63-bit seed for one purpose, from the run's seed and the path to the purpose."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) >> 1


def lr_factor(train: Train, step: int, total: int) -> float:
    """The learning rate of a step (from 0) as a share of the peak, for ``total`` steps in all."""
    if train.schedule == "constant":
        return 1.0
    warm = round(train.warmup * total)
    if step < warm:
        share = (step + 1) / warm
        return share if train.schedule == "cosine" else 0.04 + 0.96 * (1 - math.cos(math.pi * share)) / 2
    share = (step - warm + 1) / (total - warm)
    return train.final_lr + (1 - train.final_lr) * (1 + math.cos(math.pi * share)) / 2


def class_weights(labels: np.ndarray, kind: str) -> np.ndarray:
    """Loss weights (7,) float32 whose mean over ``labels`` (N,) is 1; a class without images has weight 0."""
    counts = np.bincount(labels, minlength=CLASSES).astype(np.float64)
    power = {"none": 0.0, "sqrt": -0.5, "balanced": -1.0}[kind]
    weights = np.where(counts > 0, np.maximum(counts, 1) ** power, 0)
    return (weights * len(labels) / (weights * counts).sum()).astype(np.float32)


def make_optimizer(network: Network, train: Train) -> torch.optim.Optimizer:
    """The optimizer over parameter groups with their ``lr_scale``; its learning rates are set in every step."""
    groups = parameter_groups(network, train)
    if train.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=train.lr, momentum=train.momentum, nesterov=train.momentum > 0)
    kind = torch.optim.AdamW if train.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=train.lr, fused=True)
