"""Stochastic weight averaging: the plain mean of the weights after each of the last epochs (arXiv 1803.05407).

What batch normalisation learned belongs to the weights of one step, so the mean gets statistics of its own, of one more
epoch of changed images.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from fer_bench.augment import augment
from fer_bench.models import to_gray, to_input
from fer_bench.train.precision import autocast
from fer_bench.train.schedule import derive
from fer_bench.train.state import Engine, Job, State
from fer_bench.train.steps import in_parts


def renew_statistics(state: State, mean: nn.Module, job: Job, engine: Engine, images: Tensor) -> None:
    """Give the mean's batch normalisation the statistics of an epoch of changed images, from (N, 48, 48) uint8.

    Batches are cut as in training, where memory asks for it.
    """

    def whole() -> None:
        torch.manual_seed(derive(job.seed, job.member.train.epochs, "swa"))
        parts = (part for batch in _batches(job, images) for part in batch.split(state.micro_batch))
        with autocast(engine.device, engine.precision):
            update_bn(parts, mean)

    in_parts(state, whole)


def _batches(job: Job, images: Tensor) -> Iterator[Tensor]:
    train, epoch = job.member.train, job.member.train.epochs
    network = replace(job.network, side=job.member.image_size)
    order = torch.Generator().manual_seed(derive(job.seed, epoch, "order"))
    rows = torch.randperm(len(images), generator=order)[: job.steps * train.batch_size].to(images.device)
    for step, some in enumerate(rows.split(train.batch_size)):
        generator = torch.Generator().manual_seed(derive(job.seed, epoch, step, "augment"))
        gray = augment(to_gray(images[some]), job.member.augment, generator, network.sampled_side)
        yield to_input(gray, network)
