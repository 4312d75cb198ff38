"""Training: our epoch beside bare steps, beside the usual loop, and what each setting of the engine brings."""

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fer_bench.config import Augment, Member, Train
from fer_bench.models import Network, build, place
from fer_bench.train import Engine, Job, Progress, autocast, choose_engine, fit, keep_freed_memory
from measure import Row, Setting, Work, calls_of, in_turns, repeated, seconds_of, synchronize

RECIPE = Augment(flip=0.5, shift=0.08, rotate=15, scale=0.1, brightness=0.15, contrast=0.2, erase=0.2)
BATCH = 64
"""Of the CPU suite; on CUDA it is twice that, as in suites/full.yaml."""


def member(backbone: str, side: int, setting: Setting) -> Member:
    """Give a network with the recipe of the shipped suites."""
    batch = (BATCH if setting.device.type == "cpu" else 2 * BATCH) if not setting.is_quick else 8
    train = Train(batch_size=batch, label_smoothing=0.1, ema=0.998, lr=1e-3)
    return Member(name="m", backbone=backbone, pretrained=False, image_size=side, train=train, augment=RECIPE)


def faces(n: int) -> tuple[np.ndarray, np.ndarray]:
    """Random faces (n, 48, 48) uint8 and labels (n,): no step depends on what they show."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, 48, 48), dtype=np.uint8), rng.integers(0, 7, n)


def made(this: Member, setting: Setting) -> tuple[Network, str]:
    """A network and its precision here."""
    torch.manual_seed(0)
    network = build(this, None)
    return network, choose_engine(network, this, setting.device).precision


@dataclass
class Bare:
    """Forward, backward and step of a network on one batch that stays on the device."""

    network: Network
    this: Member
    device: torch.device
    precision: str
    is_channels_last: bool = True
    compiles: bool = False

    def __post_init__(self) -> None:
        """Put the network and its batch on the device."""
        module = self.network.module.to(self.device).train()
        shape = (self.this.train.batch_size, self.network.channels, self.network.side, self.network.side)
        self.x = torch.randn(shape, device=self.device)
        if self.is_channels_last:
            place(module, self.device)
            self.x = self.x.contiguous(memory_format=torch.channels_last)
        self.y = torch.randint(0, 7, shape[:1], device=self.device)
        self.forward: Callable[[Tensor], Tensor] = torch.compile(module) if self.compiles else module
        self.optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3, fused=True)

    def __call__(self) -> None:
        """Make one step."""
        with autocast(self.device, self.precision):
            logits = self.forward(self.x)
        F.cross_entropy(logits.float(), self.y, label_smoothing=0.1).backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def epochs(setting: Setting) -> list[Row]:
    """Measure our epoch against bare steps: the share of the time that is the network itself."""
    return [_epoch(member(b, side, setting), setting) for b in setting.backbones for side in setting.sides]


def _epoch(this: Member, setting: Setting) -> Row:
    keep_freed_memory()
    network, precision = made(this, setting)
    bare = Bare(made(this, setting)[0], this, setting.device, precision)
    steps = calls_of(bare, setting)
    found = beside_our_epochs(network, this, setting, precision, steps, {"bare steps": repeated(bare, steps)})
    aim = ">= 0.90" if setting.device.type == "cuda" or this.image_size == 48 else ">= 0.95"
    facts = _facts(this, precision, steps)
    return Row(f"{this.backbone}, {this.image_size} px", found, "bare steps", "our epoch", aim, facts)


def beside_our_epochs(
    network: Network, this: Member, setting: Setting, precision: str, steps: int, others: dict[str, Work]
) -> dict[str, list[float]]:
    """Seconds of whole epochs of ``train.fit``, in turns with other work, which runs where an epoch is reported.

    The first epoch and the first round of the others are dropped.
    """
    images, labels = faces(steps * this.train.batch_size)
    found: dict[str, list[float]] = {"our epoch": [], **{name: [] for name in others}}
    began = [time.perf_counter()]

    def report(where: Progress) -> None:
        if where.entry is None:
            return
        synchronize(setting.device)
        found["our epoch"].append(time.perf_counter() - began[0])
        for name, work in others.items():
            found[name].append(seconds_of(work, setting.device))
        began[0] = time.perf_counter()

    train = this.train.model_copy(update={"epochs": setting.repeats + 1})
    job = Job(network, this.model_copy(update={"train": train}), images, labels, 0, lambda module: (0.0, 0.0))
    fit(job, Engine(setting.device, precision), report=report)
    return {name: seconds[1:] for name, seconds in found.items()}


def _facts(this: Member, precision: str, steps: int) -> dict[str, object]:
    return {"batch": this.train.batch_size, "precision": precision, "steps": steps}


# ---- the usual loop


class Usual(torch.utils.data.Dataset):
    """Faces as most scripts read them: one image at a time, through torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, network: Network) -> None:
        from torchvision import transforms as t

        self.images, self.labels = images, labels
        self.change = t.Compose(
            [
                t.ToPILImage(),
                t.RandomHorizontalFlip(),
                t.RandomAffine(15, translate=(0.08, 0.08), scale=(0.9, 1.1)),
                t.ColorJitter(brightness=0.15, contrast=0.2),
                t.Resize(network.side),
                t.Grayscale(network.channels),
                t.ToTensor(),
                t.Normalize(network.mean, network.std),
                t.RandomErasing(0.2),
            ]
        )

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Read and change one image."""
        return self.change(self.images[row]), int(self.labels[row])


@dataclass
class UsualLoop:
    """An epoch over a DataLoader: same network, precision and optimizer, nothing that a careful script leaves out."""

    network: Network
    this: Member
    setting: Setting
    precision: str
    steps: int
    workers: int

    def __post_init__(self) -> None:
        """Put the network on the device and start the workers."""
        device, batch = self.setting.device, self.this.train.batch_size
        self.module = self.network.module.to(device).train()
        self.optimizer = torch.optim.AdamW(self.module.parameters(), lr=1e-3)
        self.loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            Usual(*faces(self.steps * batch), self.network),
            batch_size=batch,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if self.workers else None,
        )

    def __call__(self) -> None:
        """Run one epoch."""
        device = self.setting.device
        for x, y in self.loader:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(device, self.precision):
                loss = F.cross_entropy(self.module(x), y, label_smoothing=0.1)
            loss.backward()
            self.optimizer.step()


def loops(setting: Setting) -> list[Row]:
    """Measure the usual loop against our epoch: how many times longer it takes."""
    return [_loop(member(b, side, setting), setting) for b in setting.backbones for side in setting.sides]


def _loop(this: Member, setting: Setting) -> Row:
    keep_freed_memory()
    network, precision = made(this, setting)
    bare = Bare(made(this, setting)[0], this, setting.device, precision)
    steps = calls_of(bare, setting)
    cores = os.cpu_count() or 1
    if setting.device.type == "cuda":
        steps = max(2, steps // 4)  # the other side takes many times as long
        usual = UsualLoop(made(this, setting)[0], this, setting, precision, steps, cores)
    else:
        choices = [UsualLoop(made(this, setting)[0], this, setting, precision, steps, n) for n in (0, cores)]
        usual = min(choices, key=lambda loop: [seconds_of(loop, setting.device) for _ in range(2)][1])
    found = beside_our_epochs(network, this, setting, precision, steps, {"usual loop": usual})
    aim = ">= 5" if setting.device.type == "cuda" and this.image_size <= 112 else "> 1"
    facts = _facts(this, precision, steps) | {"workers": usual.workers}
    return Row(f"{this.backbone}, {this.image_size} px", found, "usual loop", "our epoch", aim, facts)


# ---- precision, layout, compilation


def settings(setting: Setting) -> list[Row]:
    """Measure what half precision, channels-last and compilation bring, each on top of the one before."""
    sides = (48,) if setting.is_quick else (96,)
    return [row for b in setting.backbones for side in sides for row in _settings(member(b, side, setting), setting)]


def _settings(this: Member, setting: Setting) -> Iterator[Row]:
    keep_freed_memory()
    cases = {name: bare for name, bare in _cases(this, setting) if bare is not None}
    steps = calls_of(next(iter(cases.values())), setting)
    found = in_turns({name: repeated(bare, steps) for name, bare in cases.items()}, setting)
    names = list(found)
    for before, after in itertools.pairwise(names):
        yield Row(
            f"{this.backbone}, {this.image_size} px: {after}", found, before, after, None, _facts(this, "", steps)
        )


def _cases(this: Member, setting: Setting) -> Iterator[tuple[str, Bare | None]]:
    half = "bf16" if _has_bf16(setting.device) else "fp32"
    for name, precision, is_channels_last, compiles in (
        ("fp32", "fp32", False, False),
        ("+ bf16", half, False, False),
        ("+ channels-last", half, True, False),
        ("+ compiled", half, True, True),
    ):
        if name == "+ bf16" and half == "fp32":
            continue  # this processor has no instructions for it and would be ten times slower
        bare = Bare(made(this, setting)[0], this, setting.device, precision, is_channels_last, compiles)
        yield name, _working(bare)


def _working(bare: Bare) -> Bare | None:
    """Make the step once; None where there is no compiler for ``torch.compile``."""
    try:
        bare()
    except Exception as error:  # a missing compiler fails in many ways
        if not bare.compiles:
            raise
        warnings.warn(f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:100]}", stacklevel=2)
        return None
    return bare


def _has_bf16(device: torch.device) -> bool:
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
