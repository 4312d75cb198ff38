"""A few steps of a network from scratch, and what they tell of its time and memory."""

import gc
import math
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fer_bench.augment import augment
from fer_bench.config import Member
from fer_bench.data.faces import SIDE
from fer_bench.models import Network, build, place, to_gray, to_input
from fer_bench.suite.memory import grown
from fer_bench.train import (
    Engine,
    autocast,
    choose_engine,
    is_full,
    make_optimizer,
    using_threads,
)

PROBE_IMAGES = {"cpu": 32, "cuda": 128}
MEMORY_IMAGES = 8
"""Enough for bytes, which grow with the images alone."""
MOST_CHANGED = 512
"""Images of a batch that are augmented to time it."""


@dataclass(frozen=True)
class Measured:
    """What a few steps of a network on a device told."""

    parameters: int
    image_seconds: float
    """Forward and backward pass of one image more in a batch."""
    step_seconds: float
    """What a step costs besides: its passes whatever their batch, augmentation, optimizer and averaged weights."""
    image_bytes: int
    """Activations that one image keeps for the backward pass."""
    largest_bytes: int = 0
    """The largest of them."""
    pass_bytes: int = 0
    """What one image more takes at most while a batch goes forward and back, as the process or device showed."""
    scored_bytes: int = 0
    """What one image holds at most in a forward pass alone."""
    micro_batch: int | None = None
    """Images of a pass, where the machine cuts a batch."""


def measure(member: Member, device: torch.device) -> Measured:
    """Run a few steps of a network from scratch, of as many images as fit; keeps no memory of a device."""
    try:
        return _measure(member, device)
    finally:
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()  # runs in other processes need it


def _measure(member: Member, device: torch.device) -> Measured:
    network = build(member, None)
    engine = choose_engine(network, member, device)
    place(network.module, device).train()
    images = min(PROBE_IMAGES.get(device.type, 8), max(2, member.train.batch_size))
    while True:
        try:
            with using_threads(engine.threads):
                return _measured(network, member, engine, images)
        except RuntimeError as error:
            if images <= 2 or not is_full(error):
                raise
        images //= 2
        torch.cuda.empty_cache()


def _measured(network: Network, member: Member, engine: Engine, images: int) -> Measured:
    device, precision = engine.device, engine.precision
    x = torch.zeros(images, network.channels, network.side, network.side, device=device)
    x = x.contiguous(memory_format=torch.channels_last)
    kept, largest, scored = _bytes(network.module, x[:MEMORY_IMAGES], precision)
    image_seconds, pass_seconds, taken = _line(network.module, x, precision)
    scored = max(scored, _scoring(network.module, x, precision))
    passes = math.ceil(member.train.batch_size / (engine.micro_batch or member.train.batch_size))
    optimizer = make_optimizer(network, member.train)
    optimizer.step()  # makes its state
    update = _update(network.module, optimizer, member)
    step_seconds = pass_seconds * passes + min(_seconds(device, update) for _ in range(2))
    step_seconds += _augmenting(network, member, device)
    return Measured(network.parameters, image_seconds, step_seconds, kept, largest, taken, scored, engine.micro_batch)


def _line(module: nn.Module, x: Tensor, precision: str) -> tuple[float, float, int]:
    """Seconds of forward and backward passes: for one image more, for a batch whatever its size; bytes of an image."""
    few = x[: max(1, len(x) // 4)]
    (short, less), (long, more) = (_twice(module, part, precision) for part in (few, x))
    images = len(x) - len(few)
    image = min((long - short) / images, long / len(x))
    seconds = (image, long - image * len(x)) if image > 0 else (long / len(x), 0.0)
    return *seconds, max(0, more - less) // images


def _twice(module: nn.Module, x: Tensor, precision: str) -> tuple[float, int]:
    """Seconds of the faster of two passes, and the bytes that both took at most."""
    seconds: list[float] = []

    def both() -> None:
        seconds.extend(_seconds(x.device, partial(_pass, module, x, precision)) for _ in range(2))

    taken = grown(x.device, both)
    return min(seconds), taken


def _scoring(module: nn.Module, x: Tensor, precision: str) -> int:
    """Bytes that one image more takes at most in a forward pass alone."""
    few = x[: max(1, len(x) // 4)]
    less, more = (grown(x.device, partial(_held, module, part, precision)) for part in (few, x))
    return max(0, more - less) // (len(x) - len(few))


def _augmenting(network: Network, member: Member, device: torch.device) -> float:
    """Seconds for the changes of a batch's images and their upscaling."""
    batch = member.train.batch_size * member.train.repeats
    images = torch.zeros(min(batch, MOST_CHANGED), SIDE, SIDE, dtype=torch.uint8, device=device)
    generator = torch.Generator().manual_seed(0)

    def change() -> None:
        to_input(augment(to_gray(images), member.augment, generator, network.sampled_side), network)

    return min(_seconds(device, change) for _ in range(2)) * batch / len(images)


def _update(module: nn.Module, optimizer: torch.optim.Optimizer, member: Member) -> Callable[[], None]:
    from timm.utils import ModelEmaV3

    ema = ModelEmaV3(module, decay=member.train.ema) if member.train.ema else None

    def update() -> None:
        optimizer.step()
        if ema is not None:
            ema.update(module)

    return update


def _seconds(device: torch.device, work: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def _pass(module: nn.Module, x: Tensor, precision: str) -> None:
    with autocast(x.device, precision):
        loss = module(x).float().square().mean()
    loss.backward()


def _bytes(module: nn.Module, x: Tensor, precision: str) -> tuple[int, int, int]:
    """Bytes an image: kept for the backward pass, the largest of it, held at most without one."""
    half = len(x) // 2
    (less, _), (more, largest) = (_kept(module, part, precision) for part in (x[:half], x))
    scored = [_held(module, part, precision) for part in (x[:half], x)]
    each = len(x) - half
    return max(0, more - less) // each, largest // len(x), max(0, scored[1] - scored[0]) // each


def _kept(module: nn.Module, x: Tensor, precision: str) -> tuple[int, int]:
    """Bytes that autograd keeps from the forward to the backward pass, beside parameters and input; the largest."""
    own = {p.untyped_storage().data_ptr() for p in (x, *module.parameters())}
    kept: dict[int, int] = {}
    largest = 0

    def note(tensor: Tensor) -> Tensor:
        nonlocal largest
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            largest = max(largest, storage.nbytes() if tensor.shape[:1] == (len(x),) else 0)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        _pass(module, x, precision)
    return sum(kept.values()), largest


def _held(module: nn.Module, x: Tensor, precision: str) -> int:
    """Bytes of the tensors that a forward pass for scoring makes and holds at once, at most."""
    module.eval()
    try:
        with torch.inference_mode(), autocast(x.device, precision), _Live() as live:
            module(x)
    finally:
        module.train()
    return live.most


class _Live(TorchDispatchMode):
    """Adds up the bytes of tensors from where an operator makes them to where they are freed."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operator and note what it made."""
        made = func(*args, **(kwargs or {}))
        given = {id(storage) for storage in _storages((args, kwargs))}
        for storage in _storages(made):
            if id(storage) not in given and id(storage) not in self._sizes:
                self._sizes[id(storage)] = storage.nbytes()
                self.now += storage.nbytes()
                weakref.finalize(storage, self._freed, id(storage))
        self.most = max(self.most, self.now)
        return made

    def _freed(self, key: int) -> None:
        self.now -= self._sizes.pop(key)


def _storages(values: Any) -> list[Any]:
    return [leaf.untyped_storage() for leaf in tree_leaves(values) if isinstance(leaf, Tensor)]
