"""Training: our epoch beside bare steps, beside the usual loop, and what each setting of the engine brings."""

import itertools
import os
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fer_bench.allocation import keep_freed_memory
from fer_bench.config import Augment, Member, Train
from fer_bench.models import Network, build, place
from fer_bench.models.depthwise import DepthwiseConv2d
from fer_bench.train import Engine, Job, Progress, autocast, choose_engine, fit, using_threads
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


def made(this: Member, setting: Setting) -> tuple[Network, Engine]:
    """A network and its precision here."""
    torch.manual_seed(0)
    network = build(this, None)
    return network, choose_engine(network, this, setting.device)


@dataclass
class Bare:
    """Forward, backward and step of a network on one batch that stays on the device."""

    network: Network
    this: Member
    device: torch.device
    precision: str
    is_channels_last: bool = True
    compiles: bool = False
    has_products: bool = True

    def __post_init__(self) -> None:
        """Put the network and its batch on the device."""
        module = self.network.module.to(self.device).train()
        shape = (self.this.train.batch_size, self.network.channels, self.network.side, self.network.side)
        self.x = torch.randn(shape, device=self.device)
        if self.is_channels_last:
            place(module, self.device) if self.has_products else module.to(memory_format=torch.channels_last)
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
    network, engine = made(this, setting)
    bare = Bare(made(this, setting)[0], this, setting.device, engine.precision)
    steps = calls_of(bare, setting)
    found = beside_our_epochs(network, this, setting, engine, steps, {"bare steps": repeated(bare, steps)}, bare)
    aim = ">= 0.90" if setting.device.type == "cuda" or this.image_size == 48 else ">= 0.95"
    facts = _facts(this, engine.precision, steps)
    return Row(f"{this.backbone}, {this.image_size} px", found, "bare steps", "our epoch", aim, facts)


def beside_our_epochs(
    network: Network, this: Member, setting: Setting, engine: Engine, steps: int, others: dict[str, Work], warm: Work
) -> dict[str, list[float]]:
    """Seconds of whole epochs of ``train.fit``, in turns with other work, which runs where an epoch is reported.

    The first epoch and the first round of the others are dropped. An epoch ends with handing back memory, which the
    next step has to get again: ``warm`` is a step that does it, for the others and for our next epoch.
    """
    images, labels = faces(steps * this.train.batch_size)
    found: dict[str, list[float]] = {"our epoch": [], **{name: [] for name in others}}
    began = [time.perf_counter()]

    def report(where: Progress) -> None:
        if where.entry is None:
            return
        synchronize(setting.device)
        found["our epoch"].append(time.perf_counter() - began[0])
        warm()
        for name, work in others.items():
            found[name].append(seconds_of(work, setting.device))
        began[0] = time.perf_counter()

    train = this.train.model_copy(update={"epochs": setting.repeats + 1})
    job = Job(network, this.model_copy(update={"train": train}), images, labels, 0, lambda module: (0.0, 0.0))
    fit(job, engine, report=report)
    return {name: seconds[1:] for name, seconds in found.items()}


def _facts(this: Member, precision: str, steps: int) -> dict[str, object]:
    return {"batch": this.train.batch_size, "precision": precision, "steps": steps}


# ---- the usual loop


class Usual(torch.utils.data.Dataset):
    """Faces as most scripts read them: one image at a time, through torchvision's transforms."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, network: Network, changes: Sequence[object]) -> None:
        from torchvision import transforms as t

        self.images, self.labels = images, labels
        ends = [t.Resize(network.side), t.Grayscale(network.channels), t.ToTensor()]
        before, after = ([c for c in changes if isinstance(c, t.RandomErasing) is late] for late in (False, True))
        normal = t.Normalize(network.mean, network.std)
        self.change = t.Compose([t.ToPILImage(), *before, *ends, normal, *after])

    def __len__(self) -> int:
        """Count the images."""
        return len(self.images)

    def __getitem__(self, row: int) -> tuple[Tensor, int]:
        """Read and change one image."""
        return self.change(self.images[row]), int(self.labels[row])


def recipe() -> list[object]:
    """The recipe of ``member`` in torchvision's transforms."""
    from torchvision import transforms as t

    return [
        t.RandomHorizontalFlip(),
        t.RandomAffine(15, translate=(0.08, 0.08), scale=(0.9, 1.1)),
        t.ColorJitter(brightness=0.15, contrast=0.2),
        t.RandomErasing(0.2),
    ]


@dataclass
class UsualLoop:
    """An epoch over a DataLoader: same network, precision and optimizer, nothing that a careful script leaves out."""

    network: Network
    this: Member
    device: torch.device
    precision: str
    data: Usual
    workers: int

    def __post_init__(self) -> None:
        """Put the network on the device and make the loader."""
        train, device = self.this.train, self.device
        self.module = self.network.module.to(device).train()
        kind = torch.optim.Adam if train.optimizer == "adam" else torch.optim.AdamW
        self.optimizer = kind(self.module.parameters(), lr=train.lr)
        self.loader: torch.utils.data.DataLoader = torch.utils.data.DataLoader(
            self.data,
            batch_size=train.batch_size,
            shuffle=True,
            drop_last=True,
            num_workers=self.workers,
            persistent_workers=self.workers > 0,
            pin_memory=device.type == "cuda",
            prefetch_factor=4 if self.workers else None,
        )

    def __call__(self, should_stop: Callable[[], bool] = lambda: False) -> None:
        """Run one epoch, or what of it comes before ``should_stop`` says so."""
        smoothing = self.this.train.label_smoothing
        for x, y in self.loader:
            if should_stop():
                return
            x, y = x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)
            self.optimizer.zero_grad(set_to_none=True)
            with autocast(self.device, self.precision):
                loss = F.cross_entropy(self.module(x), y, label_smoothing=smoothing)
            loss.backward()
            self.optimizer.step()


def faster(make: Callable[[int], UsualLoop], device: torch.device) -> UsualLoop:
    """The usual loop with as many workers as cores; on a CPU without any where its second epoch is faster so."""
    cores = os.cpu_count() or 1
    if device.type == "cuda":
        return make(cores)
    return min([make(0), make(cores)], key=lambda loop: [seconds_of(loop, device) for _ in range(2)][1])


def with_threads(count: int, work: Work) -> Work:
    """Do work with so many threads: where our epochs take fewer, the others keep theirs."""

    def threaded() -> None:
        with using_threads(count):
            work()

    return threaded


def loops(setting: Setting) -> list[Row]:
    """Measure the usual loop against our epoch: how many times longer it takes."""
    return [_loop(member(b, side, setting), setting) for b in setting.backbones for side in setting.sides]


def _loop(this: Member, setting: Setting) -> Row:
    keep_freed_memory()
    network, engine = made(this, setting)
    bare = Bare(made(this, setting)[0], this, setting.device, engine.precision)
    steps = calls_of(bare, setting)
    if setting.device.type == "cuda":
        steps = max(2, steps // 4)  # the other side takes many times as long
    data = Usual(*faces(steps * this.train.batch_size), network, recipe())
    usual = faster(
        lambda n: UsualLoop(made(this, setting)[0], this, setting.device, engine.precision, data, n), setting.device
    )
    others = {"usual loop": with_threads(torch.get_num_threads(), usual)}
    found = beside_our_epochs(network, this, setting, engine, steps, others, bare)
    aim = ">= 5" if setting.device.type == "cuda" and this.image_size <= 112 else "> 1"
    facts = _facts(this, engine.precision, steps) | {"workers": usual.workers}
    return Row(f"{this.backbone}, {this.image_size} px", found, "usual loop", "our epoch", aim, facts)


# ---- precision, layout, compilation


def settings(setting: Setting) -> list[Row]:
    """Measure what half precision, channels-last and the rest bring, each on top of the one before."""
    sides = (48,) if setting.is_quick else (48, 96)
    return [row for b in setting.backbones for side in sides for row in _settings(member(b, side, setting), setting)]


@dataclass(frozen=True)
class Case:
    """One setting of the engine; each adds one thing to the one before."""

    name: str
    precision: str
    is_channels_last: bool = False
    compiles: bool = False
    has_products: bool = False

    def bare(self, network: Network, this: Member, device: torch.device) -> Bare:
        """Make the steps of a network with this setting."""
        return Bare(network, this, device, self.precision, self.is_channels_last, self.compiles, self.has_products)


def cases(this: Member, device: torch.device) -> list[Case]:
    """The settings of a network on a device: bf16 where there are instructions for it, else it is ten times slower."""
    half = "bf16" if _has_bf16(device) else "fp32"
    found = [Case("fp32", "fp32"), Case("+ bf16", half), Case("+ channels-last", half, True)]
    placed = place(build(this, None).module, device)
    if half == "fp32" and any(isinstance(layer, DepthwiseConv2d) for layer in placed.modules()):
        found.append(Case("+ depthwise products", half, True, has_products=True))
    found.append(Case("+ compiled", half, True, True, has_products=True))
    return [case for case in found if case.name != "+ bf16" or half == "bf16"]


def _settings(this: Member, setting: Setting) -> Iterator[Row]:
    keep_freed_memory()
    every = cases(this, setting.device)
    made_of = {case.name: case.bare(made(this, setting)[0], this, setting.device) for case in every}
    bares = {name: bare for name, bare in made_of.items() if is_working(bare)}
    steps = calls_of(next(iter(bares.values())), setting)
    found = in_turns({name: repeated(bare, steps) for name, bare in bares.items()}, setting)
    for before, after in itertools.pairwise(found):
        yield Row(
            f"{this.backbone}, {this.image_size} px: {after}", found, before, after, None, _facts(this, "", steps)
        )


def is_working(bare: Bare) -> bool:
    """Make the step once; says whether there is a compiler for ``torch.compile``, where it needs one."""
    try:
        bare()
    except Exception as error:  # a missing compiler fails in many ways
        if not bare.compiles:
            raise
        warnings.warn(f"not compiled: {type(error).__name__}: {str(error).splitlines()[0][:100]}", stacklevel=2)
        return False
    return True


def _has_bf16(device: torch.device) -> bool:
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else torch.cpu._is_avx512_bf16_supported()
