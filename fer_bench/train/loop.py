"""The epoch loop, from a checkpoint where there is one."""

import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel

from fer_bench.allocation import release_freed_memory
from fer_bench.augment import augment, mix
from fer_bench.models import CLASSES, place, to_gray, to_input
from fer_bench.train import swa
from fer_bench.train.precision import using_threads
from fer_bench.train.schedule import class_weights, derive, lr_factor, make_optimizer
from fer_bench.train.state import (
    DivergedError,
    Engine,
    Fitted,
    Job,
    Progress,
    State,
    StoppedError,
    load_checkpoint,
    own_precision,
    restore,
    save,
)
from fer_bench.train.steps import Averaging, make_step

CHECKPOINT_SECONDS = 120.0

CHECK_STEPS = 50
"""Steps between two looks at the loss, each of which waits for the device."""

MOST_BAD_STEPS = 10
"""Steps with a loss that is not finite, one after the other, before a run counts as diverged."""


def fit(
    job: Job,
    engine: Engine,
    *,
    checkpoint: Path | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Fitted:
    """Fit a network over its whole schedule, going on from ``checkpoint`` where there is one.

    Raises:
        DivergedError: the loss had no finite value for ten steps, or on the validation part.
        StoppedError: ``should_stop`` said so; the checkpoint is on disk.
        torch.OutOfMemoryError: not even two images at a time fit.
    """
    engine, state = _begun(job, engine, checkpoint)
    images = torch.from_numpy(job.images).to(engine.device)
    targets = torch.from_numpy(_targets(job)).to(engine.device)
    weight = torch.from_numpy(class_weights(job.labels, job.member.train.class_weights)).to(engine.device)
    try:
        with using_threads(state.threads):
            while state.epoch < job.member.train.epochs:
                _epoch(job, engine, state, (images, targets), weight, checkpoint, should_stop, report)
    except StoppedError:
        if checkpoint is not None:
            save(state, checkpoint)
        raise
    return Fitted(state.scored, state.history, state.seconds, state.micro_batch, state.precision, state.threads)


def _targets(job: Job) -> np.ndarray:
    """Shares of the classes (N, 7) float32 that each image is to be given, before any smoothing or mixing."""
    own, how = np.eye(CLASSES, dtype=np.float32)[job.labels], job.member.train.distill
    if job.teacher is None or how is None:
        return own
    return (1 - how.weight) * own + np.float32(how.weight) * job.teacher


def _begun(job: Job, engine: Engine, checkpoint: Path | None) -> tuple[Engine, State]:
    """Begin, or go on from the checkpoint where there is one, in its precision; its tensors are freed on return."""
    held = None if checkpoint is None else load_checkpoint(checkpoint, engine.device)
    if held is None:
        return engine, _start(job, engine)
    engine = replace(engine, precision=own_precision(held, engine))
    state = _start(job, engine)
    restore(state, held)
    return engine, state


def _start(job: Job, engine: Engine) -> State:
    from timm.utils import ModelEmaV3

    train = job.member.train
    module = place(job.network.module, engine.device).train()
    zero = torch.zeros((), device=engine.device)
    return State(
        module=module,
        optimizer=make_optimizer(job.network, train),
        scaler=torch.amp.GradScaler(engine.device.type, enabled=engine.precision == "fp16"),
        ema=ModelEmaV3(module, decay=train.ema, use_warmup=True) if train.ema else None,
        swa=AveragedModel(module) if train.swa else None,
        forward=torch.compile(module) if engine.compiles else module,
        micro_batch=min(engine.micro_batch or job.batch, job.batch),
        threads=engine.threads or torch.get_num_threads(),
        precision=engine.precision,
        loss_sum=zero.clone(),
        bad_steps=zero.clone(),
    )


def _epoch(
    job: Job,
    engine: Engine,
    state: State,
    data: tuple[Tensor, Tensor],
    weight: Tensor,
    checkpoint: Path | None,
    should_stop: Callable[[], bool],
    report: Callable[[Progress], None],
) -> None:
    """Run one epoch from where ``state`` is, add its line to the history, write checkpoints on the way."""
    train, total = job.member.train, job.steps * job.member.train.epochs
    order_seed = torch.Generator().manual_seed(derive(job.seed, state.epoch, "order"))
    order = torch.randperm(len(job.images), generator=order_seed).to(engine.device)
    images, targets = data
    network = replace(job.network, side=job.member.side_at(state.epoch))
    averaging = None if state.ema is None else Averaging.of(state.ema, state.module)
    saved = last = time.monotonic()
    while state.step < job.steps:
        if should_stop():
            raise StoppedError
        rows = order[state.step * train.batch_size : (state.step + 1) * train.batch_size].repeat(train.repeats)
        done = state.epoch * job.steps + state.step
        factor = lr_factor(train, done, total)
        for group in state.optimizer.param_groups:
            group["lr"] = train.lr * group["lr_scale"] * factor
        generator = torch.Generator().manual_seed(derive(job.seed, state.epoch, state.step, "augment"))
        gray = augment(to_gray(images[rows]), job.member.augment, generator, network.sampled_side)
        target = targets[rows]
        if train.mixup or train.cutmix:
            gray, target = mix(gray, target, train.mixup, train.cutmix, generator)
        dropout = derive(job.seed, state.epoch, state.step, "dropout")
        make_step(state, engine, to_input(gray, network), target, weight, train, done, dropout)
        if averaging is not None:
            averaging.update(done + 1)
        state.step += 1
        if state.step % CHECK_STEPS == 0 or state.step == job.steps:
            _refuse_divergence(state)
        now = time.monotonic()
        state.epoch_seconds, last = state.epoch_seconds + now - last, now
        report(_progress(job, state))
        if checkpoint is not None and now - saved > CHECKPOINT_SECONDS:
            save(state, checkpoint)
            saved = last = time.monotonic()
    where = _progress(job, state)
    entry = _close_epoch(job, engine, state, images)
    if checkpoint is not None:
        save(state, checkpoint)
    report(replace(where, entry=entry))


def _refuse_divergence(state: State) -> None:
    if int(state.bad_steps) >= MOST_BAD_STEPS:
        raise DivergedError(f"the loss had no finite value for {int(state.bad_steps)} steps in epoch {state.epoch + 1}")


def _progress(job: Job, state: State) -> Progress:
    epochs, done = job.member.train.epochs, state.epoch * job.steps + state.step
    spent = state.seconds + state.epoch_seconds
    left = spent / max(1, done) * (epochs * job.steps - done)
    speed = state.step * job.batch / max(state.epoch_seconds, 1e-9)
    steps, loss_sum = state.step, state.loss_sum
    return Progress(state.epoch + 1, epochs, steps, job.steps, lambda: float(loss_sum) / steps, speed, left)


def _close_epoch(job: Job, engine: Engine, state: State, images: Tensor) -> dict[str, float]:
    """Validate the weights that would be scored, for the history alone: no epoch is ever picked."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    start = time.monotonic()
    release_freed_memory()
    if state.swa is not None and state.epoch >= job.member.train.epochs - job.member.train.swa_epochs:
        state.swa.update_parameters(state.module)
        swa.renew_statistics(state, state.swa.module, job, engine, images)
    loss, accuracy = job.validate(state.scored)
    release_freed_memory()
    if not math.isfinite(loss):
        raise DivergedError(f"the validation loss is {loss} after epoch {state.epoch + 1}")
    seconds = state.epoch_seconds
    state.seconds += seconds + time.monotonic() - start
    state.epoch += 1
    entry = {
        "epoch": state.epoch,
        "train_loss": round(float(state.loss_sum) / job.steps, 6),
        "validation_loss": round(loss, 6),
        "validation_accuracy": round(accuracy, 6),
        "learning_rate": float(f"{max(g['lr'] for g in state.optimizer.param_groups):.6g}"),
        "images_per_second": round(job.steps * job.batch / max(seconds, 1e-9), 1),
        "seconds": round(seconds, 2),
    }
    state.history.append(entry)
    state.step, state.epoch_seconds, state.loss_sum = 0, 0.0, torch.zeros_like(state.loss_sum)
    return entry
