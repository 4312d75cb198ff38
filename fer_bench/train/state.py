"""What a run is given, what it changes, and what it leaves: jobs, state, progress, checkpoints."""

import io
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from fer_bench.config import Member
from fer_bench.files import write_atomic
from fer_bench.models import Network


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
    threads: int | None = None
    """Of the CPU; those that torch has where it is None."""
    compiles: bool = False
    """Whether ``torch.compile`` makes the network's passes."""


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
    teacher: np.ndarray | None = None
    """Shares of the classes (N, 7) float32 that another model gives each image, for ``distill``."""

    @property
    def steps(self) -> int:
        """Full batches of an epoch; the rest of an epoch's random order is left out."""
        return max(1, len(self.images) // self.member.train.batch_size)

    @property
    def batch(self) -> int:
        """Images of a step, copies counted: the batch size, or all images where there are fewer, times ``repeats``."""
        return min(self.member.train.batch_size, len(self.images)) * self.member.train.repeats


@dataclass
class State:
    """All that changes while a network is fitted."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    ema: Any
    swa: AveragedModel | None
    """The mean of the weights of the last epochs."""
    forward: Callable[[Tensor], Tensor]
    """The module, compiled or not."""
    micro_batch: int
    threads: int
    precision: str
    loss_sum: Tensor
    bad_steps: Tensor
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def scored(self) -> nn.Module:
        """The module whose weights count: the averaged ones where there are any."""
        if self.swa is not None and int(self.swa.n_averaged):
            return self.swa.module
        return self.module if self.ema is None else self.ema.module


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
    threads: int


def save(state: State, path: Path) -> None:
    """Write a checkpoint that appears whole or not at all."""
    held: dict[str, Any] = {
        "module": state.module.state_dict(),
        "ema": None if state.ema is None else state.ema.module.state_dict(),
        "swa": None if state.swa is None else state.swa.state_dict(),
        "optimizer": state.optimizer.state_dict(),
        "scaler": state.scaler.state_dict(),
        "precision": state.precision,
        **{name: getattr(state, name) for name in _PLAIN},
    }
    buffer = io.BytesIO()
    torch.save(held, buffer)
    write_atomic(path, buffer.getvalue())


_PLAIN = ("micro_batch", "threads", "loss_sum", "bad_steps", "epoch", "step", "seconds", "epoch_seconds", "history")


def load_checkpoint(path: Path, device: torch.device) -> dict[str, Any] | None:
    """A checkpoint's values; None where there is none, or where the file is damaged and a new start is the remedy."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location=device, weights_only=True)
    except Exception:  # a damaged file can fail in any part of the reader
        return None


def own_precision(held: dict[str, Any], engine: Engine) -> str:
    """The precision that a checkpoint was trained in, where the device has it."""
    found = held.get("precision", engine.precision)
    return engine.precision if found == "fp16" and engine.device.type != "cuda" else found


def restore(state: State, held: dict[str, Any]) -> None:
    """Put a checkpoint's values into ``state``, which takes no more threads than the process has now."""
    state.module.load_state_dict(held["module"])
    if state.ema is not None:
        state.ema.module.load_state_dict(held["ema"])
    if state.swa is not None:
        state.swa.load_state_dict(held["swa"])
    state.optimizer.load_state_dict(held["optimizer"])
    state.scaler.load_state_dict(held["scaler"])
    for name in _PLAIN:
        setattr(state, name, held.get(name, getattr(state, name)))
    state.threads = min(state.threads, torch.get_num_threads())
