"""One optimizer step: micro-batches that fit into memory, sharpness-aware steps, the averaged weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fer_bench.config import Train
from fer_bench.train.precision import autocast
from fer_bench.train.state import Engine, State

Done = TypeVar("Done")


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


def make_step(
    state: State, engine: Engine, x: Tensor, target: Tensor, weight: Tensor, train: Train, number: int, seed: int
) -> None:
    """One optimizer step, the ``number``-th of the run from 0; ``seed`` is that of dropout."""
    loss = _gradients(state, engine, x, target, weight, train, seed)
    if train.sam and number % train.sam.every == 0:
        _sharpen(state, train.sam.radius, lambda: _gradients(state, engine, x, target, weight, train, seed))
    if train.clip_grad:
        state.scaler.unscale_(state.optimizer)
        nn.utils.clip_grad_norm_(state.module.parameters(), train.clip_grad)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    finite = torch.isfinite(loss)
    state.bad_steps = torch.where(finite, torch.zeros_like(state.bad_steps), state.bad_steps + 1)
    state.loss_sum = state.loss_sum + torch.where(finite, loss, torch.zeros_like(loss))


def _gradients(
    state: State, engine: Engine, x: Tensor, target: Tensor, weight: Tensor, train: Train, seed: int
) -> Tensor:
    """Set the gradients of a batch's mean loss."""

    def whole() -> Tensor:
        state.optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        return _backward(state, engine, x, target, weight, train.label_smoothing)

    return in_parts(state, whole)


def in_parts(state: State, work: Callable[[], Done]) -> Done:
    """Do work in the state's micro-batches, again from its start with halved ones while they do not fit into memory."""
    while True:
        try:
            return work()
        except RuntimeError as error:
            if state.micro_batch <= 2 or not is_full(error):
                raise
        torch.cuda.empty_cache()
        state.micro_batch = (state.micro_batch + 1) // 2


def _backward(state: State, engine: Engine, x: Tensor, target: Tensor, weight: Tensor, smoothing: float) -> Tensor:
    """Add up the gradients of the batch's mean loss; returns that loss, a scalar on the device."""
    total = torch.zeros((), device=x.device)
    for part, share in zip(x.split(state.micro_batch), target.split(state.micro_batch), strict=True):
        with autocast(engine.device, engine.precision):
            logits = state.forward(part)
        loss = F.cross_entropy(logits.float(), share, weight=weight, label_smoothing=smoothing) * (len(part) / len(x))
        state.scaler.scale(loss).backward()
        total += loss.detach()
    return total


@torch.no_grad()
def _sharpen(state: State, radius: float, gradients: Callable[[], Tensor]) -> None:
    """Replace the gradients by those ``radius`` uphill of the weights (sharpness-aware minimisation, arXiv 2010.01412).

    A scaled loss points the same way, so half precision needs no more. Where gradients are not finite nothing moves, or
    running statistics would be lost; otherwise those move once a step.
    """
    moved: list[Tensor] = [p for p in state.module.parameters() if p.grad is not None]
    slopes = [p.grad for p in moved if p.grad is not None]
    norm = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(slope) for slope in slopes]))
    scale = torch.where(torch.isfinite(norm) & (norm > 0), radius / norm, torch.zeros_like(norm))
    uphill = [torch.nan_to_num(slope * scale, 0.0, 0.0, 0.0) for slope in slopes]
    kept = [p.clone() for p in moved]
    torch._foreach_add_(moved, uphill)
    still = [m for m in state.module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    momenta = [m.momentum for m in still]
    for module in still:
        module.momentum = 0.0
    try:
        with torch.enable_grad():
            gradients()
    finally:
        torch._foreach_copy_(moved, kept)
        for module, momentum in zip(still, momenta, strict=True):
            module.momentum = momentum
