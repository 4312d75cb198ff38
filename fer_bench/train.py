"""The epoch loop: precision, schedule, averaged weights, checkpoints, guards against divergence and full memory.

All randomness of a step is a pure function of (seed, epoch, step), so a run that was stopped anywhere goes on with
the same bits and a checkpoint holds no random state. Nothing in a step waits for the device.
"""

import contextlib
import ctypes
import hashlib
import io
import json
import math
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench.augment import augment, mix
from fer_bench.config import Member, Train
from fer_bench.errors import UserError
from fer_bench.files import cache_dir, write_atomic
from fer_bench.models import CLASSES, Network, parameter_groups, place, to_gray, to_input

CHECKPOINT_SECONDS = 120.0
CHECK_STEPS = 50
"""Steps between two looks at the loss, each of which waits for the device."""
MOST_BAD_STEPS = 10
"""Steps with a loss that is not finite, one after the other, before a run counts as diverged."""


class DivergedError(Exception):
    """The loss has no finite value any more."""


class StoppedError(Exception):
    """The run was asked to stop and has written its checkpoint."""


@dataclass(frozen=True)
class Engine:
    """What a machine decides and a record notes, without being part of a run's identity."""

    device: torch.device
    precision: str = "fp32"
    micro_batch: int | None = None


@dataclass(frozen=True)
class Job:
    """One network, its data and its settings: (N, 48, 48) uint8 faces with labels (N,) in 0..6."""

    network: Network
    member: Member
    images: np.ndarray
    labels: np.ndarray
    seed: int
    validate: Callable[[nn.Module], tuple[float, float]]
    """(module with the weights to be scored) -> (loss, accuracy) on the validation part, for the history only."""

    @property
    def steps(self) -> int:
        """Full batches of an epoch; the rest of an epoch's random order is left out."""
        return max(1, len(self.images) // self.member.train.batch_size)

    @property
    def batch(self) -> int:
        """Images of a step: the batch size, or all images where there are fewer."""
        return min(self.member.train.batch_size, len(self.images))


@dataclass
class State:
    """All that changes while a network is fitted."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Any
    micro_batch: int
    loss_sum: Tensor
    bad_steps: Tensor
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Progress:
    """Where a run is, for whoever shows it. ``loss`` waits for the device: ask about once a second."""

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: Callable[[], float]
    images_per_second: float
    seconds_left: float
    entry: dict[str, float] | None = None
    """The history's line of an epoch that has just ended."""

    @property
    def steps_made(self) -> tuple[int, int]:
        """Steps of the whole run: made, and in all."""
        return (self.epoch - 1) * self.steps + self.step, self.epochs * self.steps


@dataclass(frozen=True)
class Fitted:
    """A finished run: the weights to score, and what happened."""

    module: nn.Module
    history: list[dict[str, float]]
    seconds: float
    micro_batch: int
    precision: str


def autocast(device: torch.device, precision: str) -> contextlib.AbstractContextManager:
    """The autocast context of a precision; none for fp32."""
    kinds = {"bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.amp.autocast(device.type, kinds[precision]) if precision in kinds else contextlib.nullcontext()


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory instead of handing it back and clearing it anew in every step.

    Raised CPU training of small networks by 9 to 36 % where it was measured (benchmark/LOG.md). Returns whether it
    was possible.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
        mmap_threshold, trim_threshold = -3, -1
        return bool(libc.mallopt(mmap_threshold, 1 << 30)) and bool(libc.mallopt(trim_threshold, 2**31 - 1))
    except (OSError, AttributeError):
        return False


def choose_precision(network: Network, member: Member, device: torch.device) -> str:
    """Resolve ``precision: auto``: bf16 (else fp16) on CUDA; on the CPU the faster of fp32 and bf16 for the network.

    A CPU without bf16 instructions takes fp32 unprobed. bf16 must win by a fifth, so that chance does not decide.
    """
    refuse_precision(member, device)
    wanted = member.train.precision
    if wanted != "auto":
        return wanted
    if device.type == "cuda":
        with torch.cuda.device(device):  # older GPUs emulate bf16, slowly
            return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type != "cpu" or not torch.cpu._is_avx512_bf16_supported():
        return "fp32"
    return _remembered(network, member)


def refuse_precision(member: Member, device: torch.device) -> None:
    """Raise a UserError where a member asks for a precision that the device does not train in."""
    if member.train.precision == "fp16" and device.type != "cuda":
        raise UserError(f"train.precision: fp16 needs a CUDA device, this run is on {device}; use auto, bf16 or fp32")


def _remembered(network: Network, member: Member) -> str:
    """The probe's answer, asked once a network and machine, so that a run never changes its mind half-way."""
    path = cache_dir() / "precision.json"
    try:
        known = json.loads(path.read_bytes())
    except (OSError, ValueError):
        known = {}
    key = f"{platform.node()} {torch.__version__} {member.backbone} {network.side} {sorted(member.options.items())}"
    if key not in known:
        faster = _probe_seconds(network, "fp32") > 1.2 * _probe_seconds(network, "bf16")
        known[key] = "bf16" if faster else "fp32"
        with contextlib.suppress(OSError):
            write_atomic(path, json.dumps(known, indent=1, sort_keys=True).encode())
    return known[key]


def _probe_seconds(network: Network, precision: str) -> float:
    """Best of three forward and backward passes of 16 blank images on the CPU, after one to warm up."""
    x = torch.zeros(16, network.channels, network.side, network.side).contiguous(memory_format=torch.channels_last)
    state = {name: value.clone() for name, value in network.module.state_dict().items()}
    seconds = []
    for _ in range(4):
        start = time.perf_counter()
        with autocast(torch.device("cpu"), precision):
            loss = network.module(x).float().square().mean()
        loss.backward()
        seconds.append(time.perf_counter() - start)
    network.module.zero_grad(set_to_none=True)
    network.module.load_state_dict(state)
    return min(seconds[1:])


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
    state = _start(job, engine)
    if checkpoint is not None:
        _go_on(state, checkpoint, engine.device)
    data = torch.from_numpy(job.images).to(engine.device), torch.from_numpy(job.labels).to(engine.device)
    weight = torch.from_numpy(class_weights(job.labels, job.member.train.class_weights)).to(engine.device)
    try:
        while state.epoch < job.member.train.epochs:
            _epoch(job, engine, state, data, weight, checkpoint, should_stop, report)
    except StoppedError:
        if checkpoint is not None:
            save(state, checkpoint)
        raise
    module = state.ema.module if state.ema is not None else state.module
    return Fitted(module, state.history, state.seconds, state.micro_batch, engine.precision)


def _go_on(state: State, checkpoint: Path, device: torch.device) -> None:
    """Put the checkpoint, where there is one, into ``state``; its tensors are freed on return."""
    held = load_checkpoint(checkpoint, device)
    if held is not None:
        restore(state, held)


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
        micro_batch=engine.micro_batch or job.batch,
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
    images, labels = data
    averaging = None if state.ema is None else Averaging.of(state.ema, state.module)
    saved = last = time.monotonic()
    while state.step < job.steps:
        if should_stop():
            raise StoppedError
        rows = order[state.step * train.batch_size : (state.step + 1) * train.batch_size]
        done = state.epoch * job.steps + state.step
        factor = lr_factor(train, done, total)
        for group in state.optimizer.param_groups:
            group["lr"] = train.lr * group["lr_scale"] * factor
        generator = torch.Generator().manual_seed(derive(job.seed, state.epoch, state.step, "augment"))
        gray = augment(to_gray(images[rows]), job.member.augment, generator)
        target = F.one_hot(labels[rows], CLASSES).float()
        if train.mixup or train.cutmix:
            gray, target = mix(gray, target, train.mixup, train.cutmix, generator)
        torch.manual_seed(derive(job.seed, state.epoch, state.step, "dropout"))
        _step(state, engine, to_input(gray, job.network), target, weight, train)
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
    entry = _close_epoch(job, engine, state)
    if checkpoint is not None:
        save(state, checkpoint)
    report(replace(where, entry=entry))


def is_full(error: Exception) -> bool:
    """Whether an error means that memory is full: the libraries below torch have words of their own for it."""
    words = "out of memory", "can't allocate memory", "ALLOC_FAILED"
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(word in str(error) for word in words)


@dataclass(frozen=True)
class Averaging:
    """timm's average of a network, its tensors looked up once an epoch instead of in every step."""

    ema: Any
    averages: list[Tensor]
    values: list[Tensor]
    counts: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, ema: Any, module: nn.Module) -> "Averaging":
        """Pair the tensors of an average with those of its network."""
        pairs = list(zip(ema.module.state_dict().values(), module.state_dict().values(), strict=True))
        moving = [pair for pair in pairs if pair[0].is_floating_point()]
        still = [pair for pair in pairs if not pair[0].is_floating_point()]
        return cls(ema, [average for average, _ in moving], [value for _, value in moving], still)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take the network's values after a step, counted from 1, into the average; counters are copied."""
        torch._foreach_lerp_(self.averages, self.values, weight=1.0 - self.ema.get_decay(step))
        if self.counts:
            torch._foreach_copy_([own for own, _ in self.counts], [theirs for _, theirs in self.counts])


def _step(state: State, engine: Engine, x: Tensor, target: Tensor, weight: Tensor, train: Train) -> None:
    """One optimizer step on a batch, in micro-batches that are halved while they do not fit into memory."""
    while True:
        try:
            loss = _backward(state, engine, x, target, weight, train.label_smoothing)
            break
        except RuntimeError as error:
            if state.micro_batch <= 2 or not is_full(error):
                raise
        state.optimizer.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        state.micro_batch = (state.micro_batch + 1) // 2
    if train.clip_grad:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.module.parameters(), train.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    finite = torch.isfinite(loss)
    state.bad_steps = torch.where(finite, torch.zeros_like(state.bad_steps), state.bad_steps + 1)
    state.loss_sum = state.loss_sum + torch.where(finite, loss, torch.zeros_like(loss))


def _backward(state: State, engine: Engine, x: Tensor, target: Tensor, weight: Tensor, smoothing: float) -> Tensor:
    """Add up the gradients of the batch's mean loss; returns that loss, a scalar on the device."""
    total = torch.zeros((), device=x.device)
    for part, share in zip(x.split(state.micro_batch), target.split(state.micro_batch), strict=True):
        with autocast(engine.device, engine.precision):
            logits = state.module(part)
        loss = F.cross_entropy(logits.float(), share, weight=weight, label_smoothing=smoothing) * (len(part) / len(x))
        state.scaler.scale(loss).backward()
        total += loss.detach()
    return total


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


def _close_epoch(job: Job, engine: Engine, state: State) -> dict[str, float]:
    """Validate the weights that would be scored, for the history alone: no epoch is ever picked."""
    if engine.device.type == "cuda":
        torch.cuda.synchronize(engine.device)
    start = time.monotonic()
    loss, accuracy = job.validate(state.ema.module if state.ema is not None else state.module)
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


def save(state: State, path: Path) -> None:
    """Write a checkpoint that appears whole or not at all."""
    held: dict[str, Any] = {
        "module": state.module.state_dict(),
        "ema": None if state.ema is None else state.ema.module.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        **{name: getattr(state, name) for name in _PLAIN},
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_atomic(path, buffer.getvalue())


_PLAIN = ("micro_batch", "loss_sum", "bad_steps", "epoch", "step", "seconds", "epoch_seconds", "history")


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint's values; None where there is none, or where the file is damaged and a new start is the remedy."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a damaged file can fail in any part of the reader
        return None


def restore(state: State, held: dict[str, Any]) -> None:
    """Put a checkpoint's values into ``state``."""
    state.module.load_state_dict(held["module"])
    if state.ema is not None:
        state.ema.module.load_state_dict(held["ema"])
    state.optimizer.load_state_dict(held["optimizer"])
    state.scaler.load_state_dict(held["scaler"])
    for name in _PLAIN:
        setattr(state, name, held[name])
