"""Stochastic weight averaging: the plain mean of the weights after each of the last epochs (arXiv 1803.05407).

What batch normalisation learned belongs to the weights of one step, so the mean gets statistics of its own, of one more
epoch of changed images.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, update_bn

from fer_bench.augment import augment
from fer_bench.config import Train
from fer_bench.models import to_gray, to_input
from fer_bench.train.precision import autocast
from fer_bench.train.schedule import derive
from fer_bench.train.state import Engine, Job


def counts(train: Train, epoch: int) -> bool:
    """Whether the weights at the end of an epoch, counted from 0, enter the mean."""
    return epoch >= train.epochs - max(1, round(train.swa * train.epochs))


def renew_statistics(averaged: AveragedModel, job: Job, engine: Engine, images: Tensor) -> None:
    """Give the mean's batch normalisation the statistics of an epoch of changed images, from (N, 48, 48) uint8."""
    torch.manual_seed(derive(job.seed, job.member.train.epochs, "swa"))
    with autocast(engine.device, engine.precision):
        update_bn(_batches(job, images), averaged.module)


def _batches(job: Job, images: Tensor) -> Iterator[Tensor]:
    train, epoch = job.member.train, job.member.train.epochs
    network = replace(job.network, side=job.member.image_size)
    order = torch.Generator().manual_seed(derive(job.seed, epoch, "order"))
    rows = torch.randperm(len(images), generator=order)[: job.steps * train.batch_size].to(images.device)
    for step, some in enumerate(rows.split(train.batch_size)):
        generator = torch.Generator().manual_seed(derive(job.seed, epoch, step, "augment"))
        yield to_input(augment(to_gray(images[some]), job.member.augment, generator), network)
